package protocols

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	defaultDrainTimeout = 2 * time.Second
	defaultAcceptQueue  = 64
)

// RouterConfig says what a Router is made of. It is copied by New.
type RouterConfig struct {
	// Host is the transport; required.
	Host Host
	// Registry holds the handlers; required. Start freezes it.
	Registry *HandlerRegistry
	// Provider recognises peers; nil recognises nobody.
	Provider auth.Provider
	// Admission says who may have sessions for an ALPN at this moment; nil, and
	// "", is everyone. Where strangers may not, their streams are reset with
	// CodeUnauthorised.
	Admission func(alpn string) auth.Admit
	// Tickets tells which strangers a ticket has let in all the same; nil, none.
	Tickets auth.Tickets
	// Logger; nil is silent.
	Logger *slog.Logger
	// DrainTimeout is how long Shutdown lets handlers finish; 0 = 2 s.
	DrainTimeout time.Duration
	// AcceptQueue is how many streams of one session may wait for their
	// handler; more are reset with CodeOverloaded. 0 = 64 (NODE-44).
	AcceptQueue int
}

// SessionInfo describes an open session.
type SessionInfo struct {
	// ID is the session's Connection.ID.
	ID uint64
	// Peer is the peer's ID; "" for a session that came by Dispatch.
	Peer peer.ID
	// PeerName is the registry's name, or the session's UUID (NODE-30).
	PeerName auth.PeerName
	// ALPN of the session.
	ALPN string
	// Since is when it began.
	Since time.Time
}

// Router finds or makes the session of a peer and an ALPN, resolves who the
// peer is and runs the handler, whichever side opened first. It owns the
// goroutines of all sessions: Shutdown returns after the last of them. All
// methods may be called concurrently.
type Router struct {
	config   RouterConfig
	log      *slog.Logger
	base     context.Context // of every handler; ends when the drain is over
	cancel   context.CancelFunc
	draining chan struct{}
	stopped  chan struct{}
	running  sync.WaitGroup // handlers, with the streams they leave closing

	lifecycle sync.Mutex // held by Start; the next two are its work
	handled   []string
	stopWatch func()

	mu       sync.Mutex
	started  bool
	closing  bool
	sessions map[sessionKey]*routed
	live     map[*routed]struct{} // until the last stream of the session is gone
	opening  map[*opening]struct{}

	protect   sync.Mutex // orders the calls of Host.Protect and Unprotect
	protected map[peer.ID]int
}

type sessionKey struct {
	peer peer.ID
	alpn string
}

// routed is a session in the Router's care.
type routed struct {
	conn   Connection
	own    *session // conn, unless it came by Dispatch
	source *peerSource
	key    sessionKey
	auth   auth.Context
	asked  bool // this node opened the session, so it may be a stranger's
	since  time.Time
	end    chan ending // asks the session's own goroutine to close it
}

// opening is an Open that is under way; lost says that its peer was
// disconnected meanwhile.
type opening struct {
	peer peer.ID
	lost bool
}

// New returns a Router that does nothing until Start.
func New(config RouterConfig) (*Router, error) {
	switch {
	case config.Host == nil:
		return nil, errors.New("router: no host")
	case config.Registry == nil:
		return nil, errors.New("router: no handler registry")
	case config.DrainTimeout < 0, config.AcceptQueue < 0:
		return nil, errors.New("router: a limit is negative")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	config.DrainTimeout = cmp.Or(config.DrainTimeout, defaultDrainTimeout)
	config.AcceptQueue = cmp.Or(config.AcceptQueue, defaultAcceptQueue)
	r := &Router{
		config:    config,
		log:       config.Logger,
		draining:  make(chan struct{}),
		stopped:   make(chan struct{}),
		sessions:  make(map[sessionKey]*routed),
		live:      make(map[*routed]struct{}),
		opening:   make(map[*opening]struct{}),
		protected: make(map[peer.ID]int),
	}
	r.base, r.cancel = context.WithCancel(WithDraining(context.Background(), r.draining))
	return r, nil
}

// Start freezes the registry and begins to take streams.
func (r *Router) Start() error {
	r.lifecycle.Lock()
	defer r.lifecycle.Unlock()
	r.mu.Lock()
	before := r.started || r.closing
	r.started = true
	r.mu.Unlock()
	if before {
		return errors.New("router: started or shut down before")
	}
	r.config.Registry.Freeze()
	r.stopWatch = r.config.Host.WatchPeers(r.peerChanged)
	r.handled = r.config.Registry.ALPNs()
	for _, alpn := range r.handled {
		h, _ := r.config.Registry.Get(alpn)
		r.config.Host.SetStreamHandler(ProtocolID(alpn), func(st network.Stream) { r.inbound(h, alpn, st) })
	}
	return nil
}

// Open returns the session with the peer for the ALPN, connecting first if
// there is none, and runs the ALPN's handler on it as for a session the peer
// opened. It opens no stream. If expect is not empty the key must resolve to
// the peer of that name, else the error matches ErrWrongPeer (NODE-52). An
// ALPN this node has no handler for is ErrNoHandler; whether the peer has one
// shows on a stream's first read (NODE-48).
func (r *Router) Open(ctx context.Context, p peer.ID, alpn string, expect auth.PeerName) (Connection, error) {
	h, ok := r.config.Registry.Get(alpn)
	if !ok {
		return nil, fmt.Errorf("open %s: %w", alpn, ErrNoHandler)
	}
	o := &opening{peer: p}
	r.mu.Lock()
	r.opening[o] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.opening, o)
	}()

	key := sessionKey{p, alpn}
	for {
		if conn, ok, err := r.find(key, expect, o); ok || err != nil {
			return conn, err
		}
		if err := r.config.Host.Connect(ctx, p); err != nil {
			return nil, fmt.Errorf("connect to %s: %w", p, err)
		}
		candidate := r.candidate(key, h)
		candidate.asked = true
		conn, again, err := r.enter(candidate, h, expect, o)
		if !again {
			return conn, err
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("connect to %s: %w", p, err)
		}
	}
}

// Dispatch runs the handler of conn.ALPN() on a session that did not come
// through the Host: of a TLS listener, or a multiplexer inside another session
// (NODE-12). The fingerprint is that of the key the peer has proven, "" if
// none. Dispatch returns once the handler runs; without one, or after
// Shutdown, it closes conn and fails.
func (r *Router) Dispatch(conn Connection, fingerprint string) error {
	h, ok := r.config.Registry.Get(conn.ALPN())
	if !ok {
		r.log.Warn("no handler for session", "protocol", conn.ALPN(), "addr", conn.RemoteAddr())
		_ = conn.Close(CodeProtocolViolation, "no handler")
		return fmt.Errorf("dispatch %s: %w", conn.ALPN(), ErrNoHandler)
	}
	e := newRouted(conn, r.recognise(fingerprint, conn.ALPN(), conn.RemoteAddr()))
	e.own, _ = conn.(*session)
	if !r.admitted(e) {
		_ = conn.Close(CodeUnauthorised, "not admitted")
		return fmt.Errorf("dispatch %s: %w", conn.ALPN(), ErrNotAdmitted)
	}

	r.mu.Lock()
	if r.closing || !r.started {
		r.mu.Unlock()
		_ = conn.Close(CodeShutdown, "not running")
		return fmt.Errorf("dispatch %s: router is not running: %w", conn.ALPN(), net.ErrClosed)
	}
	r.launch(e, h)
	r.mu.Unlock()
	return nil
}

// Sessions lists the open sessions, oldest first.
func (r *Router) Sessions() []SessionInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]SessionInfo, 0, len(r.live))
	for e := range r.live {
		if !e.over() {
			list = append(list, SessionInfo{
				ID: e.conn.ID(), Peer: e.key.peer, PeerName: e.auth.PeerName, ALPN: e.auth.ALPN, Since: e.since,
			})
		}
	}
	slices.SortFunc(list, func(a, b SessionInfo) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Recheck resolves the peers of all sessions again, after the registry was
// reloaded or a ticket revoked, and closes those whose identity is gone or
// another one, or who are not admitted any more, with CodeUnauthorised
// (NODE-28): a session never keeps rights that were taken away, and the next one
// has the new ones. What runs in it is cancelled; sessions whose rights are the
// same notice nothing. It does not wait for the closing.
func (r *Router) Recheck() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for e := range r.live {
		r.recheck(e)
	}
}

// Shutdown ends all sessions in order (NODE-14): no new ones are taken;
// handlers see Draining and get DrainTimeout to return; then their ctx is
// cancelled and what is left is closed with CodeShutdown. Streams of sessions
// that are open are still accepted while they drain, so that a handler can
// answer that it is draining (NODE-63).
//
// Shutdown returns after the last handler has, or when ctx ends: that cuts the
// draining short, and the error then says that handlers still run. It may be
// called more than once, and each call waits for the end.
func (r *Router) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	first := !r.closing
	r.closing = true
	r.mu.Unlock()
	if first {
		close(r.draining)
		go r.drain(ctx)
	}
	select {
	case <-r.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut down: handlers still run: %w", ctx.Err())
	}
}

// drain is Shutdown's work; it ends when the last handler has.
func (r *Router) drain(cut context.Context) {
	idle := make(chan struct{})
	go func() {
		r.running.Wait()
		close(idle)
	}()
	timeout := time.NewTimer(r.config.DrainTimeout)
	defer timeout.Stop()
	select {
	case <-idle:
	case <-timeout.C:
	case <-cut.Done():
	}
	r.cancel()
	r.lifecycle.Lock() // a Start that is under way comes first
	defer r.lifecycle.Unlock()
	for _, alpn := range r.handled {
		r.config.Host.RemoveStreamHandler(ProtocolID(alpn))
	}
	<-idle
	if r.stopWatch != nil {
		r.stopWatch()
	}
	close(r.stopped)
}

// find returns the open session of a key, if there is one, and marks the
// beginning of an attempt to make one otherwise.
func (r *Router) find(key sessionKey, expect auth.PeerName, o *opening) (Connection, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.lost = false
	if r.closing || !r.started {
		return nil, false, fmt.Errorf("open %s: router is not running: %w", key.alpn, net.ErrClosed)
	}
	if e := r.sessions[key]; e != nil && !e.over() {
		conn, err := e.expected(expect)
		return conn, true, err
	}
	return nil, false, nil
}

// enter makes the candidate the session of its key and starts the handler,
// unless another one has come first: then that one is returned. again says
// that the peer was disconnected since find.
func (r *Router) enter(candidate *routed, h ProtocolHandler, expect auth.PeerName, o *opening) (conn Connection, again bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return nil, false, fmt.Errorf("open %s: router is not running: %w", candidate.key.alpn, net.ErrClosed)
	}
	if e := r.sessions[candidate.key]; e != nil && !e.over() {
		conn, err := e.expected(expect)
		return conn, false, err
	}
	if o.lost {
		return nil, true, nil
	}
	if _, err := candidate.expected(expect); err != nil {
		return nil, false, err
	}
	r.sessions[candidate.key] = candidate
	r.launch(candidate, h)
	return candidate.conn, false, nil
}

// inbound takes a stream the peer opened. It returns at once (NODE-44).
func (r *Router) inbound(h ProtocolHandler, alpn string, st network.Stream) {
	key := sessionKey{st.Conn().RemotePeer(), alpn}
	code, refused := r.deliver(key, nil, nil, st)
	if refused && code == 0 {
		if candidate := r.candidate(key, h); r.admitted(candidate) {
			code, refused = r.deliver(key, candidate, h, st)
		} else {
			code = CodeUnauthorised
		}
	}
	if refused {
		r.log.Debug("stream refused", "peer", key.peer, "protocol", alpn, "code", code)
		_ = st.ResetWithError(network.StreamErrorCode(code))
	}
}

// deliver queues a stream on the session of its key. Where there is none it
// makes the candidate that session; without a candidate it refuses with code
// 0. The stream is queued before the handler starts (NODE-65).
func (r *Router) deliver(key sessionKey, candidate *routed, h ProtocolHandler, st network.Stream) (code uint32, refused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.sessions[key]; e != nil {
		var queued bool
		if e.own.whileOpen(func() { queued = e.source.offer(st) }) {
			return CodeOverloaded, !queued
		}
	}
	switch {
	case r.closing:
		return CodeShutdown, true
	case candidate == nil:
		return 0, true
	case st.Conn().IsClosed():
		// Its end may have been announced before; a session made now might
		// never hear of it.
		return CodeAborted, true
	}
	candidate.source.offer(st)
	r.sessions[key] = candidate
	r.launch(candidate, h)
	return 0, false
}

// candidate prepares a session with a peer of the Host. It is made outside the
// Router's mutex, for it asks the Host.
func (r *Router) candidate(key sessionKey, h ProtocolHandler) *routed {
	source := newPeerSource(r.config.Host, key.peer, key.alpn, r.config.AcceptQueue,
		func(st network.Stream) { r.inbound(h, key.alpn, st) })
	own := newSession(source, key.alpn)
	fingerprint, err := auth.FingerprintFromPeer(key.peer)
	if err != nil {
		fingerprint = "" // a key of another type (NODE-51)
	}
	e := newRouted(own, r.recognise(fingerprint, key.alpn, source.RemoteAddr()))
	e.own, e.source, e.key = own, source, key
	return e
}

func (r *Router) recognise(fingerprint, alpn, addr string) auth.Context {
	c := auth.Context{ALPN: alpn, RemoteAddr: addr, Fingerprint: fingerprint, Identity: r.resolve(fingerprint)}
	if c.Identity != nil {
		c.PeerName = auth.PeerName(c.Identity.ID)
	} else {
		c.PeerName = auth.PeerName(uuid.NewString())
		if !r.open(alpn) {
			c.Guest = &auth.Identity{ID: guestID, Scopes: []string{}, Resources: map[string][]string{}, Only: []string{}}
		}
	}
	return c
}

// guestID names all guests alike: what one may do is in its tickets.
const guestID = "guest"

// open reports whether anyone may have sessions for the ALPN.
func (r *Router) open(alpn string) bool {
	if r.config.Admission == nil {
		return true
	}
	a := r.config.Admission(alpn)
	return a == "" || a == auth.AdmitOpen
}

// admitted reports whether the session's peer may have it: it is in the
// registry, anyone may, this node asked it, or a ticket lets it in.
func (r *Router) admitted(e *routed) bool {
	if e.auth.Identity != nil || e.asked || r.open(e.auth.ALPN) {
		return true
	}
	return r.config.Tickets != nil && e.auth.Fingerprint != "" && r.config.Tickets.Guest(e.auth.Fingerprint)
}

// recheck asks a session to end if its peer is not who it was, or has not the
// rights any more that it began with.
func (r *Router) recheck(e *routed) {
	was, now := e.auth.Identity, r.resolve(e.auth.Fingerprint)
	switch {
	case (now == nil) != (was == nil) || now != nil && !now.Equal(*was):
		e.ask(CodeUnauthorised, "identity changed")
	case now == nil && (e.auth.Guest == nil) != r.open(e.auth.ALPN), !r.admitted(e):
		e.ask(CodeUnauthorised, "admission changed")
	}
}

func (r *Router) resolve(fingerprint string) *auth.Identity {
	if fingerprint == "" || r.config.Provider == nil {
		return nil
	}
	id, ok := r.config.Provider.ResolveFromFingerprint(fingerprint)
	if !ok {
		return nil
	}
	return &id
}

// launch starts a session's goroutines; the caller holds the mutex. The
// registry may have been reloaded since the peer was resolved, before a
// Recheck could find the session.
func (r *Router) launch(e *routed, h ProtocolHandler) {
	r.recheck(e)
	r.live[e] = struct{}{}
	r.running.Add(1)
	go r.run(e, h)
}

// run is the life of one session.
func (r *Router) run(e *routed, h ProtocolHandler) {
	defer r.running.Done()
	r.hold(e.key.peer)
	log := r.log.With("peer", e.auth.PeerName, "protocol", e.auth.ALPN, "session", e.conn.ID())
	log.Info("session begins", "addr", e.auth.RemoteAddr)

	ctx, cancel := context.WithCancel(r.base)
	finished, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		r.watch(e, cancel, finished)
	}()
	result := ending{CodeHandlerError, "handler left its goroutine"}
	defer func() {
		_ = e.conn.Close(result.code, result.reason)
		cancel()
		if e.own != nil {
			e.own.wait()
			result = e.own.ending()
		}
		close(finished)
		<-watched
		r.forget(e)
		log.Info("session ends", "code", result.code, "reason", result.reason)
	}()
	err := handle(ctx, h, e, log)
	result = r.verdict(ctx, err)
	if result.code == CodeHandlerError {
		level := slog.LevelWarn
		if e.over() {
			level = slog.LevelDebug // it failed because the session had ended
		}
		log.Log(ctx, level, "handler failed", "err", err)
	}
}

// watch is the session's own goroutine beside its handler's: whatever ends the
// session from outside is done here (NODE-66).
func (r *Router) watch(e *routed, cancel context.CancelFunc, finished <-chan struct{}) {
	done, base := e.conn.Done(), r.base.Done()
	for {
		select {
		case <-done:
			done = nil
			r.leave(e)
			cancel()
		case end := <-e.end:
			_ = e.conn.Close(end.code, end.reason)
		case <-base:
			base = nil
			_ = e.conn.Close(CodeShutdown, "shutting down")
		case <-finished:
			if done != nil {
				r.leave(e)
			}
			return
		}
	}
}

// handle runs the handler and turns a panic of it into an error (NODE-9).
func handle(ctx context.Context, h ProtocolHandler, e *routed, log *slog.Logger) (err error) {
	defer func() {
		if v := recover(); v != nil {
			log.Error("handler panicked", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = errors.New("handler panicked")
		}
	}()
	return h.Handle(ctx, e.conn, e.auth)
}

// verdict is what a handler's result means for its session (NODE-8).
func (r *Router) verdict(ctx context.Context, err error) ending {
	switch {
	case r.base.Err() != nil:
		return ending{CodeShutdown, "shutting down"}
	case err == nil, errors.Is(err, ErrConnectionClosed):
		return ending{0, "handler returned"}
	case errors.Is(err, ErrAuthRequired):
		return ending{CodeUnauthorised, "authentication required"}
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return ending{0, "handler was cancelled"}
	default:
		return ending{CodeHandlerError, "handler failed"}
	}
}

// peerChanged is called by the Host and must not block.
func (r *Router) peerChanged(p peer.ID, connected bool) {
	if connected {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for o := range r.opening {
		if o.peer == p {
			o.lost = true
		}
	}
	for e := range r.live {
		if e.key.peer == p {
			e.ask(CodeAborted, "peer disconnected")
		}
	}
}

// leave takes a session that has ended out of the table (NODE-46).
func (r *Router) leave(e *routed) {
	r.mu.Lock()
	if r.sessions[e.key] == e {
		delete(r.sessions, e.key)
	}
	r.mu.Unlock()
	r.release(e.key.peer)
}

func (r *Router) forget(e *routed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, e)
}

// hold keeps the peer's connections while it has a session (PATH-5).
func (r *Router) hold(p peer.ID) {
	if p == "" {
		return
	}
	r.protect.Lock()
	defer r.protect.Unlock()
	if r.protected[p]++; r.protected[p] == 1 {
		r.config.Host.Protect(p)
	}
}

func (r *Router) release(p peer.ID) {
	if p == "" {
		return
	}
	r.protect.Lock()
	defer r.protect.Unlock()
	if r.protected[p]--; r.protected[p] == 0 {
		delete(r.protected, p)
		r.config.Host.Unprotect(p)
	}
}

func newRouted(conn Connection, peer auth.Context) *routed {
	if peer.Identity != nil {
		// Fails only if whoever dispatches the session has set another.
		_ = conn.SetIdentity(*peer.Identity)
	}
	return &routed{conn: conn, auth: peer, since: time.Now(), end: make(chan ending, 1)}
}

// over reports whether the session has ended.
func (e *routed) over() bool {
	select {
	case <-e.conn.Done():
		return true
	default:
		return false
	}
}

// ask lets the session's own goroutine close it; the first reason stays.
func (e *routed) ask(code uint32, reason string) {
	select {
	case e.end <- ending{code, reason}:
	default:
	}
}

// expected returns the session if its peer is the one asked for by name.
func (e *routed) expected(name auth.PeerName) (Connection, error) {
	if name != "" && e.auth.PeerName != name {
		return nil, fmt.Errorf("open %s: key %s is not peer %s: %w", e.key.alpn, e.key.peer, name, ErrWrongPeer)
	}
	return e.conn, nil
}
