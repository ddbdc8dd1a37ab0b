package call

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	sweepInterval = 10 * time.Second
	anonymousPool = 24
	maxIdle       = 8 // reusable streams kept open between large requests
	drainGrace    = time.Second
)

// Session is the calls between this node and one peer, both ways: it sends
// requests and serves the peer's. All methods may be called concurrently. It
// ends with its connection; what is under way then fails with
// ErrSessionClosed.
//
// One goroutine accepts streams, each stream has two, each request being served
// one; Handle waits for all of them.
type Session struct {
	p      *Protocol
	conn   protocols.Connection
	peer   auth.Context
	number uint64 // in the order of arrival; guarded by the protocol's mutex
	log    *slog.Logger
	limits Limits
	base   context.Context // of requests: values of Handle's ctx, never ended
	done   chan struct{}
	wg     sync.WaitGroup

	imported      atomic.Pointer[imported] // nil: nothing; stored under Protocol.importing
	token         atomic.Pointer[auth.Token]
	tokenFailures atomic.Int64

	opening chan struct{} // capacity 1: held while the shared stream is opened
	first   chan struct{} // closed when the peer has opened a stream
	fatal   chan error    // capacity 1: ends the session
	poke    chan struct{} // capacity 1: something ended while draining

	mu        sync.Mutex
	err       *Error // why the session is over
	streams   map[*stream]struct{}
	shared    *stream
	single    bool      // the connection has one stream, which the peer or we hold
	only      *stream   // the first stream the peer opened
	idle      []*stream // reusable streams without a request
	pooled    int       // exclusive and reusable streams that are open
	poolLimit int
	inStreams int // streams the peer has open

	pending              map[string]*pending // our requests
	serving              map[string]*served  // the peer's, until their terminal event
	calls, subscriptions load
	draining             bool

	answered [answeredSlots]uint64 // hashes of recently answered calls (CALL-50)
}

// load counts the peer's requests of one kind.
type load struct {
	open    int // without terminal event
	running int // handlers that have not returned; those of aborted requests too
}

// full reports whether another request is over the limit. Handlers that have
// not yet returned from ended requests get as much again.
func (l *load) full(limit int) bool { return l.open >= limit || l.running >= 2*limit }

func newSession(ctx context.Context, p *Protocol, conn protocols.Connection, peer auth.Context) *Session {
	s := &Session{
		p: p, conn: conn, peer: peer,
		log:     p.log,
		limits:  p.cfg.Limits,
		base:    context.WithoutCancel(ctx),
		done:    make(chan struct{}),
		opening: make(chan struct{}, 1),
		first:   make(chan struct{}),
		fatal:   make(chan error, 1),
		poke:    make(chan struct{}, 1),
		streams: map[*stream]struct{}{},
		pending: map[string]*pending{},
		serving: map[string]*served{},
	}
	if peer.Identity == nil {
		s.limits = p.cfg.AnonymousLimits
	}
	s.poolLimit = s.limits.PooledStreams
	return s
}

// Peer is the other end, as it was known when the session began.
func (s *Session) Peer() auth.Context { return s.peer }

// Connection is what the session runs on; closing it ends the session.
func (s *Session) Connection() protocols.Connection { return s.conn }

// Done is closed when the session is over and its calls have failed.
func (s *Session) Done() <-chan struct{} { return s.done }

// SetToken attaches a token to every later request that has none of its own
// (CALL-51); the zero Token takes it away.
func (s *Session) SetToken(t auth.Token) { s.token.Store(&t) }

// run serves the session until it ends.
func (s *Session) run(ctx context.Context) error {
	accepting, stop := context.WithCancel(ctx)
	accepted := make(chan error, 1)
	s.wg.Go(func() {
		defer s.recovered("accept loop")
		accepted <- s.accept(accepting)
	})
	err := s.watch(ctx, accepted)
	stop()
	s.close(err)
	s.wg.Wait()
	return err
}

// watch waits for the end of the session and says why it ended; nil is a clean
// end.
func (s *Session) watch(ctx context.Context, accepted <-chan error) error {
	draining := protocols.Draining(ctx)
	var flushed <-chan time.Time
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.conn.Done():
			return nil
		case err := <-s.fatal:
			return err
		case err := <-accepted:
			if !errors.Is(err, protocols.ErrConnectionClosed) {
				return err
			}
			return nil
		case now := <-sweep.C:
			s.sweep(now)
		case <-draining:
			draining = nil
			s.mu.Lock()
			s.draining = true
			s.mu.Unlock()
			s.poked()
		case <-s.poke:
			if flushed == nil && s.drained() {
				s.finishStreams()
				flushed = time.After(drainGrace)
			}
			if flushed != nil && s.quiet() {
				return nil
			}
		case <-flushed:
			return nil
		}
	}
}

// accept takes the peer's streams until the session ends.
func (s *Session) accept(ctx context.Context) error {
	for {
		raw, err := s.conn.AcceptStream(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		r := inbound
		switch {
		case s.inStreams >= 2*s.limits.Streams:
			s.mu.Unlock()
			_ = raw.Reset(protocols.CodeOverloaded)
			continue
		case s.inStreams >= s.limits.Streams:
			r = excess
		}
		s.inStreams++
		s.mu.Unlock()
		st, err := s.attach(raw, r)
		if err != nil {
			return protocols.ErrConnectionClosed
		}
		s.mu.Lock()
		if s.only == nil {
			s.only = st
			close(s.first)
		}
		s.mu.Unlock()
	}
}

// close ends everything that is under way (CALL-46).
func (s *Session) close(cause error) {
	e := wrap(ErrSessionClosed, nil)
	s.mu.Lock()
	s.err = e
	var (
		open    []*stream
		orphans []*pending
		serving []*served
	)
	for st := range s.streams {
		open = append(open, st)
	}
	for _, p := range s.pending {
		orphans = append(orphans, p)
		s.removeLocked(p)
	}
	for _, r := range s.serving {
		serving = append(serving, r)
	}
	s.mu.Unlock()
	s.dropImports()
	s.failAll(orphans, e)
	for _, r := range serving {
		r.abort(ErrSessionClosed, false)
	}
	code := protocols.CodeShutdown
	if errors.Is(cause, protocols.ErrAuthRequired) {
		code = protocols.CodeUnauthorised // NODE-34
	}
	for _, st := range open {
		s.mu.Lock()
		st.dead = true
		sent := st.sent
		s.mu.Unlock()
		st.out.fail(protocols.ErrConnectionClosed)
		if cause == nil && sent {
			_ = st.raw.Close() // what was written may still arrive
		} else {
			_ = st.raw.Reset(code)
		}
	}
	close(s.done)
}

// recovered is deferred by the session's goroutines; a panic there is a
// mistake of this package and ends the session only.
func (s *Session) recovered(where string) {
	if v := recover(); v != nil {
		s.log.Error("session goroutine panicked", "where", where, "peer", s.peer.PeerName, "err", v, "stack", string(debug.Stack()))
		s.end(fmt.Errorf("panic in %s: %v", where, v))
	}
}

// end makes Handle return err.
func (s *Session) end(err error) {
	select {
	case s.fatal <- err:
	default:
	}
}

// poked makes watch look whether draining is done.
func (s *Session) poked() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// drained advances draining (NODE-63) and reports its end: calls of both
// directions run to their end, then subscriptions are ended.
func (s *Session) drained() bool {
	s.mu.Lock()
	if !s.draining {
		s.mu.Unlock()
		return false
	}
	ours := 0
	for _, p := range s.pending {
		if p.sub == nil && !p.abandoned {
			ours++
		}
	}
	if s.calls.running > 0 || ours > 0 {
		s.mu.Unlock()
		return false
	}
	var subs []*served
	for _, r := range s.serving {
		subs = append(subs, r)
	}
	running := s.subscriptions.running
	s.mu.Unlock()
	for _, r := range subs {
		r.fail(overloaded("draining", "shutting down"))
	}
	return running == 0
}

// finishStreams ends our half of every stream behind what is queued.
func (s *Session) finishStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		st.finishLocked()
	}
}

// quiet reports whether all streams have sent what was queued.
func (s *Session) quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		if !st.sent {
			return false
		}
	}
	return true
}

// sweep ends what has outlived its deadline although its timer should have
// done so (CALL-43).
func (s *Session) sweep(now time.Time) {
	s.mu.Lock()
	var late []*pending
	for _, p := range s.pending {
		if !p.deadline.IsZero() && now.After(p.deadline) && !p.abandoned {
			late = append(late, p)
		}
	}
	var overdue []*served
	for _, r := range s.serving {
		if d := r.req.Deadline; !d.IsZero() && now.After(d) {
			overdue = append(overdue, r)
		}
	}
	s.mu.Unlock()
	for _, p := range late {
		s.abandon(p, timedOut(context.DeadlineExceeded))
	}
	for _, r := range overdue {
		r.timeout()
	}
}

// servedBy finds a request of the peer that is under way.
func (s *Session) servedBy(id string) *served {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serving[id]
}

// detachLocked removes a stream that has ended from all lists.
func (s *Session) detachLocked(st *stream) {
	if _, ok := s.streams[st]; !ok {
		return
	}
	delete(s.streams, st)
	s.forgetLocked(st)
	switch st.role {
	case inbound, excess:
		s.inStreams--
	case exclusive, reusable:
		s.pooled--
	}
	if s.draining {
		s.poked()
	}
}

// forgetLocked keeps new requests from a stream.
func (s *Session) forgetLocked(st *stream) {
	if s.shared == st {
		s.shared = nil
	}
	for i, idle := range s.idle {
		if idle == st {
			s.idle = append(s.idle[:i], s.idle[i+1:]...)
			break
		}
	}
}
