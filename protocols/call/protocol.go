package call

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

// Config is what New needs; the zero value works.
type Config struct {
	// Provider resolves the tokens of requests; nil resolves none.
	Provider auth.Provider
	// Tickets resolves the tokens that Provider does not; nil resolves none.
	Tickets auth.Tickets
	// Logger gets what callers are not told, such as the text of a handler's
	// error; nil is silent.
	Logger *slog.Logger
	// Timeout is the deadline of a call whose caller asks for none, on both
	// ends; 0 is 30 s (CALL-39).
	Timeout time.Duration
	// MaxTimeout caps the deadline a caller may ask for; 0 is 5 min (CALL-40).
	MaxTimeout time.Duration
	// Limits of sessions with an identity, and of anonymous ones (CALL-26);
	// zero fields take the defaults that stand at the fields.
	Limits, AnonymousLimits Limits
	// Overlays gives the operations of agent sessions; nil is none.
	Overlays OverlaySource
	// Routing is how PeerAny chooses among peers; the zero value is RouteFirst.
	Routing Routing
	// RTT tells the round trip to a peer, 0 when it is not known, for
	// RouteLowestRTT. It must not block; nil knows none.
	RTT func(auth.Context) time.Duration
	// Interceptors surround the handlers of requests served, composed ones too;
	// CallInterceptors the requests that are sent. The first is the outermost.
	Interceptors, CallInterceptors []Interceptor
	// MaxTokenFailures says how many tokens of a session may fail to resolve at
	// this moment; the next request with a token closes the session (NODE-34).
	// Nil is 5.
	MaxTokenFailures func() int
}

// Limits bound one session.
type Limits struct {
	// Requests is the number of the peer's queries and mutations in work:
	// 1,024; anonymous 64.
	Requests int
	// Subscriptions is the number of the peer's subscriptions: 16,384;
	// anonymous 64.
	Subscriptions int
	// Streams is the number of streams the peer has open: 256; anonymous 32.
	Streams int
	// PooledStreams is how many streams this side opens for large requests and
	// subscriptions; more share one (CALL-22): 64; anonymous 24.
	PooledStreams int
	// FrameSize is the largest body accepted, in bytes: 64 MiB; anonymous
	// 1 MiB (CALL-4).
	FrameSize int
}

func (l Limits) orDefault(d Limits) Limits {
	return Limits{
		Requests:      cmp.Or(l.Requests, d.Requests),
		Subscriptions: cmp.Or(l.Subscriptions, d.Subscriptions),
		Streams:       cmp.Or(l.Streams, d.Streams),
		PooledStreams: cmp.Or(l.PooledStreams, d.PooledStreams),
		FrameSize:     cmp.Or(l.FrameSize, d.FrameSize),
	}
}

// Protocol is the call protocol of one node: its operations and its sessions.
// It implements [protocols.ProtocolHandler]. All methods may be called
// concurrently.
type Protocol struct {
	cfg      Config
	log      *slog.Logger
	registry *Registry
	buffers  sync.Pool // of *[]byte, for outboxes
	seed     maphash.Seed

	base   context.Context // ends with Close
	cancel context.CancelFunc
	peers  atomic.Pointer[peerTable]

	importing sync.Mutex // held by writers of peers

	turn  sync.Mutex
	turns uint64 // taken, of RouteRoundRobin

	mu       sync.Mutex
	closed   bool
	running  sync.WaitGroup // composed requests
	sessions map[uint64]*Session
	arrivals uint64
	arrived  chan struct{} // closed when a session is added; nil when nobody waits
}

var _ protocols.ProtocolHandler = (*Protocol)(nil)

// New returns a Protocol that serves services/list and services/schema. It
// starts nothing.
func New(cfg Config) *Protocol {
	cfg.Timeout = cmp.Or(cfg.Timeout, 30*time.Second)
	cfg.MaxTimeout = cmp.Or(cfg.MaxTimeout, 5*time.Minute)
	if cfg.MaxTokenFailures == nil {
		cfg.MaxTokenFailures = func() int { return 5 }
	}
	cfg.Limits = cfg.Limits.orDefault(Limits{1024, 16384, 256, 64, wire.MaxFrame})
	cfg.AnonymousLimits = cfg.AnonymousLimits.orDefault(Limits{64, 64, 32, anonymousPool, 1 << 20})
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Protocol{
		cfg: cfg, log: cfg.Logger, seed: maphash.MakeSeed(),
		registry: NewRegistry(), sessions: map[uint64]*Session{},
	}
	p.base, p.cancel = context.WithCancel(context.Background())
	p.peers.Store(&peerTable{
		byName: map[auth.PeerName]*peerLayer{}, strangers: map[auth.PeerName]*imported{}, places: map[auth.PeerName]int{},
	})
	if err := p.Register(p.services()...); err != nil {
		panic(fmt.Sprintf("call: internal error: %v", err))
	}
	return p
}

// ALPN implements protocols.ProtocolHandler.
func (p *Protocol) ALPN() string { return ALPN }

// Register adds all of ops or none (CALL-64); the error names the operation.
// After Freeze it fails with ErrFrozen.
func (p *Protocol) Register(ops ...Operation) error { return p.registry.Register(ops...) }

// Freeze ends registration; a node freezes its operations when it starts.
func (p *Protocol) Freeze() { p.registry.Freeze() }

// Operations lists the specs of all registered operations, internal ones too,
// sorted by name. What a Spec refers to must not be changed.
func (p *Protocol) Operations() []Spec { return p.registry.Specs() }

// Session returns the session of a connection, waiting until its Handle runs.
// It fails with ErrSessionClosed when the connection ends first.
func (p *Protocol) Session(ctx context.Context, conn protocols.Connection) (*Session, error) {
	for {
		p.mu.Lock()
		s := p.sessions[conn.ID()]
		if s == nil && p.arrived == nil {
			p.arrived = make(chan struct{})
		}
		arrived := p.arrived
		p.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-arrived:
		case <-conn.Done():
			return nil, wrap(ErrSessionClosed, nil)
		case <-ctx.Done():
			return nil, contextError(ctx)
		}
	}
}

// Await returns the newest session with the peer of that name, waiting until
// there is one that began later than after, whichever side opened it; a nil
// after is any.
func (p *Protocol) Await(ctx context.Context, name auth.PeerName, after *Session) (*Session, error) {
	for {
		var found *Session
		p.mu.Lock()
		latest := uint64(0)
		if after != nil {
			latest = after.number
		}
		for _, s := range p.sessions {
			if s.peer.PeerName == name && s.number > latest {
				found, latest = s, s.number
			}
		}
		if found == nil && p.arrived == nil {
			p.arrived = make(chan struct{})
		}
		arrived := p.arrived
		p.mu.Unlock()
		if found != nil {
			return found, nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, contextError(ctx)
		}
	}
}

// Close aborts what composed requests still run, waits for their handlers and
// wipes the capabilities of all operations. The sessions end before, by their
// router. It may be called again, and its result is always nil.
func (p *Protocol) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.running.Wait()
	for _, e := range *p.registry.byName.Load() {
		_ = e.Capabilities.Close()
	}
	return nil
}

// spawn runs f in a goroutine that Close waits for; false: it is too late.
func (p *Protocol) spawn(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.running.Go(f)
	}
	return !p.closed
}

// Handle serves one session until it ends; the router calls it. It returns
// after the last goroutine of the session, handlers included; composed
// requests that outlive their parents are for Close to wait for.
func (p *Protocol) Handle(ctx context.Context, conn protocols.Connection, peer auth.Context) error {
	s := newSession(ctx, p, conn, peer)
	p.mu.Lock()
	p.arrivals++
	s.number = p.arrivals
	p.sessions[conn.ID()] = s
	if p.arrived != nil {
		close(p.arrived)
		p.arrived = nil
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.sessions, conn.ID())
		p.mu.Unlock()
	}()
	return s.run(ctx)
}

// contextError is how a call fails when the caller's context ends.
func contextError(ctx context.Context) *Error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return timedOut(ctx.Err())
	}
	return wrap(ErrAborted, ctx.Err())
}

// timedOut is the TIMEOUT of a request, with a cause of its own when local.
func timedOut(cause error) *Error {
	return &Error{Code: CodeTimeout, Message: "request timed out", Retryable: true, cause: cause}
}
