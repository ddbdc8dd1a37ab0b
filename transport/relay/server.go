package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Defaults of a server.
const (
	// DefaultRate is what a client that nobody vouches for may send, in bytes
	// per second: 10 Mbit/s.
	DefaultRate = 10_000_000 / 8
	// DefaultBurst is what it may send at once, in bytes.
	DefaultBurst = 2 << 20
	// DefaultDiscoRate is how many disco frames per second one client may send
	// to one key.
	DefaultDiscoRate = 20
	// DefaultMaxClients is how many unknown clients a relay takes.
	DefaultMaxClients = 8192
	// NoLimit, as a rate, lifts the limit.
	NoLimit = -1
)

// Timing of a server.
const (
	silentAfter   = 20 * time.Second // clients ping after 5 s
	aliveWithin   = pingIdle + missAfter
	writeTimeout  = 10 * time.Second
	finishTimeout = time.Second // for the last words to a client
	goneEvery     = 250 * time.Millisecond
	hintEvery     = time.Second
)

// maxPairs bounds the targets that the limits of one client are kept for.
const maxPairs = 4096

// clientLimits bound what waits in the relay for one client (PATH-26).
var clientLimits = queueLimits{frames: 512, bytes: 768 << 10, age: 100 * time.Millisecond}

// ServerConfig configures a Server. Every function may be nil, is called
// concurrently and must not block.
type ServerConfig struct {
	// Rate limits what a client that Known does not name may send, in bytes
	// per second. Zero means DefaultRate, NoLimit none.
	Rate int64
	// Burst is what such a client may send at once, in bytes. Zero means
	// DefaultBurst.
	Burst int64
	// DiscoRate limits disco frames per second from one client to one key.
	// Zero means DefaultDiscoRate, NoLimit none.
	DiscoRate int
	// GlobalRate limits the data of all clients together, in bytes per second.
	// Zero or NoLimit means none.
	GlobalRate int64
	// MaxClients limits the clients that Known does not name. Zero means
	// DefaultMaxClients.
	MaxClients int
	// Known names the keys that no rate and no count limits. Nil knows none.
	// It is asked when a client arrives.
	Known func(Key) bool
	// MayReserve says who may be homed here (scope relay:reserve); nil allows
	// everyone.
	MayReserve func(Key) bool
	// MayConnect says who may send to keys homed here (scope relay:connect);
	// nil allows everyone.
	MayConnect func(Key) bool
	// RelayRecords returns signed address records of relays, told to every
	// client that arrives.
	RelayRecords func() [][]byte
	// Features are told to every client that arrives.
	Features []string
	// OnClient hears that a key connected, or that its last link ended. The
	// calls come one after another.
	OnClient func(key Key, mode Mode, up bool)
	// Now is the clock that clients are told, not a corrected one: corrections
	// would go round. Nil = time.Now.
	Now func() time.Time
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Stats are a server's counters since its start.
type Stats struct {
	Clients  int    `json:"clients"`  // connected now
	Homed    int    `json:"homed"`    // of them, homed here
	Sessions uint64 `json:"sessions"` // begun, in all
	Refused  uint64 `json:"refused"`  // refused at their greeting
	Replaced uint64 `json:"replaced"` // ended by another link with the same key

	FramesIn  uint64 `json:"frames_in"` // those for other clients
	FramesOut uint64 `json:"frames_out"`
	BytesIn   uint64 `json:"bytes_in"` // of these frames, with their headers
	BytesOut  uint64 `json:"bytes_out"`

	DroppedGone    uint64 `json:"dropped_gone"`    // the target was not connected
	DroppedDenied  uint64 `json:"dropped_denied"`  // the pair may not meet here
	DroppedRate    uint64 `json:"dropped_rate"`    // over the client's rate
	DroppedDisco   uint64 `json:"dropped_disco"`   // over the disco rate, or more targets at once than are kept track of
	DroppedGlobal  uint64 `json:"dropped_global"`  // over the rate of all clients
	DroppedFull    uint64 `json:"dropped_full"`    // no room in the target's queue
	DroppedOld     uint64 `json:"dropped_old"`     // waited too long in the target's queue
	SkippedUnknown uint64 `json:"skipped_unknown"` // frames of unknown types
	Attested       uint64 `json:"attested"`        // of FramesIn, IPs told to those their owners named
}

// Dropped is the number of frames dropped, for whatever cause.
func (s Stats) Dropped() uint64 {
	return s.DroppedGone + s.DroppedDenied + s.DroppedRate + s.DroppedDisco + s.DroppedGlobal + s.DroppedFull + s.DroppedOld
}

// Server is the relay itself (PATH-25 to 27): it passes frames between the
// clients that Serve was called for. All methods may be called concurrently.
type Server struct {
	cfg    ServerConfig
	log    *slog.Logger
	global *rate.Limiter // nil: none

	// tellMu is held over a change of clients and OnClient, so that the calls
	// come in order.
	tellMu sync.Mutex

	mu       sync.RWMutex
	clients  map[Key]*client
	unknown  int           // clients that Known did not name
	left     chan struct{} // closed, and made anew, when a client leaves
	health   string
	draining bool
	closed   bool
	streams  map[Stream]struct{} // of all running Serve calls
	wg       sync.WaitGroup      // Serve calls; added to under mu while not closed

	stats struct {
		sessions, refused, replaced                  atomic.Uint64
		framesIn, framesOut, bytesIn, bytesOut       atomic.Uint64
		gone, denied, rate, disco, global, full, old atomic.Uint64
		skipped, attested                            atomic.Uint64
	}
}

// NewServer returns a relay without clients.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	if cfg.Burst <= 0 {
		cfg.Burst = DefaultBurst
	}
	if cfg.DiscoRate == 0 {
		cfg.DiscoRate = DefaultDiscoRate
	}
	if cfg.MaxClients == 0 {
		cfg.MaxClients = DefaultMaxClients
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg:     cfg,
		log:     cfg.Logger,
		clients: make(map[Key]*client),
		streams: make(map[Stream]struct{}),
		left:    make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.GlobalRate > 0 {
		s.global = rate.NewLimiter(rate.Limit(cfg.GlobalRate), int(max(cfg.GlobalRate/10, 64<<10)))
	}
	return s
}

// Serve serves the client with the given proven key on the stream until the
// link ends, ctx is over or the server is closed; it returns after its last
// goroutine. observed is the address the client is seen at, a multiaddr or
// IP:port, told to it, and its IP to those it names by Attest. Serve
// owns the stream. A client that left, or was told to, is no error.
func (s *Server) Serve(ctx context.Context, stream Stream, remote Key, observed string) error {
	if !s.enter(stream) {
		abort(stream)
		return fmt.Errorf("serve relay client: %w", ErrClosed)
	}
	defer s.leave(stream)
	stop := context.AfterFunc(ctx, func() { abort(stream) })
	defer stop()

	err := s.serve(stream, remote, observed)
	if ctx.Err() != nil {
		return fmt.Errorf("serve relay client: %w", context.Cause(ctx))
	}
	return err
}

func (s *Server) serve(stream Stream, remote Key, observed string) error {
	defer abort(stream)
	c := &client{
		server: s,
		key:    remote,
		stream: stream,
		reader: newFrameReader(stream),
		queue:  newQueue(clientLimits, &s.stats.full, &s.stats.old),
		done:   make(chan struct{}),
		ip:     attestable(observed),
	}
	c.reader.skipped = func() { s.stats.skipped.Add(1) }

	if err := stream.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return fmt.Errorf("serve relay client: %w", err)
	}
	hello, err := c.readHello()
	if err != nil {
		s.stats.refused.Add(1)
		return err
	}
	c.boot, c.mode = hello.BootID, hello.Mode
	if reason := s.register(c); reason != 0 {
		s.stats.refused.Add(1)
		s.log.Debug("relay client refused", "peer", remote, "err", reason)
		return c.refuse(reason)
	}
	defer s.unregister(c)
	s.stats.sessions.Add(1)
	s.log.Debug("relay client connected", "peer", remote)

	if err := c.writeWelcome(s.welcome(c, observed)); err != nil {
		return err
	}
	if err := stream.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("serve relay client: %w", err)
	}
	var writer sync.WaitGroup
	writer.Go(c.write)
	err = c.read()
	if !c.told.Load() {
		close(c.done)
		abort(stream)
	}
	// Else the writer has the last word, and a second for it.
	writer.Wait()
	if errors.Is(err, io.EOF) || c.told.Load() && !errors.Is(err, ErrFrame) {
		return nil
	}
	return err
}

// enter admits one call of Serve.
func (s *Server) enter(stream Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	s.streams[stream] = struct{}{}
	return true
}

func (s *Server) leave(stream Stream) {
	s.mu.Lock()
	delete(s.streams, stream)
	s.mu.Unlock()
	s.wg.Done()
}

// register makes c the client of its key, or says why not.
func (s *Server) register(c *client) GoAwayReason {
	// Asked before the lock is taken: these are not ours.
	c.known = s.cfg.Known != nil && s.cfg.Known(c.key)
	reserve := s.cfg.MayReserve == nil || s.cfg.MayReserve(c.key)
	if c.mode == ModeHome && !reserve {
		return GoAwayDenied
	}
	if c.mode == ModeConnect && s.cfg.MayConnect != nil && !s.cfg.MayConnect(c.key) {
		return GoAwayDenied
	}
	c.member = reserve
	if !c.known && s.cfg.Rate > 0 {
		c.limiter = rate.NewLimiter(rate.Limit(s.cfg.Rate), int(s.cfg.Burst))
	}
	c.heard.Store(time.Now().UnixNano())

	s.tellMu.Lock()
	defer s.tellMu.Unlock()
	s.mu.Lock()
	old := s.clients[c.key]
	if reason := s.refuse(c, old); reason != 0 {
		s.mu.Unlock()
		return reason
	}
	s.clients[c.key] = c
	if !c.known {
		s.unknown++
	}
	if old != nil && !old.known {
		s.unknown--
	}
	health := s.health
	s.mu.Unlock()

	if health != "" {
		c.queue.putControl(Frame{Type: FrameHealth, Payload: []byte(health)})
	}
	if old != nil {
		s.stats.replaced.Add(1)
		reason := GoAwayDuplicate
		if old.boot == c.boot {
			reason = GoAwayReplaced
		}
		s.log.Debug("relay client replaced", "peer", c.key, "err", reason)
		old.tell(reason)
	} else if s.cfg.OnClient != nil {
		s.cfg.OnClient(c.key, c.mode, true)
	}
	return 0
}

// refuse says why c may not take the place of old, which may be nil. Called
// with mu held.
func (s *Server) refuse(c, old *client) GoAwayReason {
	switch {
	case s.draining || s.closed:
		return GoAwayDraining
	case old != nil && c.boot.compare(old.boot) < 0 && old.heardWithin(aliveWithin):
		// Two nodes live with one key: the later one stays (PATH-27). A silent
		// one does not count, its clock may have been wrong.
		return GoAwayDuplicate
	case old == nil && !c.known && s.cfg.MaxClients > 0 && s.unknown >= s.cfg.MaxClients:
		return GoAwayFull
	}
	return 0
}

func (s *Server) unregister(c *client) {
	s.tellMu.Lock()
	defer s.tellMu.Unlock()
	s.mu.Lock()
	if s.clients[c.key] != c {
		s.mu.Unlock()
		return
	}
	delete(s.clients, c.key)
	if !c.known {
		s.unknown--
	}
	close(s.left)
	s.left = make(chan struct{})
	s.mu.Unlock()
	s.log.Debug("relay client left", "peer", c.key)
	if s.cfg.OnClient != nil {
		s.cfg.OnClient(c.key, c.mode, false)
	}
}

func (s *Server) welcome(c *client, observed string) Welcome {
	w := Welcome{
		Version:  Version,
		Features: s.cfg.Features,
		Observed: observed[:min(len(observed), 256)],
		Time:     s.cfg.Now().UnixMilli(),
	}
	if c.limiter != nil {
		w.Limits.Rate, w.Limits.Burst = s.cfg.Rate, s.cfg.Burst
	}
	if s.cfg.DiscoRate > 0 {
		w.Limits.Disco = s.cfg.DiscoRate
	}
	if s.cfg.RelayRecords != nil {
		w.Records = s.cfg.RelayRecords()
	}
	return w
}

func (s *Server) lookup(key Key) *client {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.clients[key]
}

func (s *Server) wrote(frames, bytes int) {
	s.stats.framesOut.Add(uint64(frames))
	s.stats.bytesOut.Add(uint64(bytes))
}

// SetHealth tells every client, now and when it arrives, what is wrong with
// this relay; empty when nothing is. It keeps at most 256 bytes.
func (s *Server) SetHealth(problem string) {
	problem = problem[:min(len(problem), maxHealth)]
	s.mu.Lock()
	s.health = problem
	s.mu.Unlock()
	for _, c := range s.all() {
		c.queue.putControl(Frame{Type: FrameHealth, Payload: []byte(problem)})
	}
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	st := Stats{
		Sessions:       s.stats.sessions.Load(),
		Refused:        s.stats.refused.Load(),
		Replaced:       s.stats.replaced.Load(),
		FramesIn:       s.stats.framesIn.Load(),
		FramesOut:      s.stats.framesOut.Load(),
		BytesIn:        s.stats.bytesIn.Load(),
		BytesOut:       s.stats.bytesOut.Load(),
		DroppedGone:    s.stats.gone.Load(),
		DroppedDenied:  s.stats.denied.Load(),
		DroppedRate:    s.stats.rate.Load(),
		DroppedDisco:   s.stats.disco.Load(),
		DroppedGlobal:  s.stats.global.Load(),
		DroppedFull:    s.stats.full.Load(),
		DroppedOld:     s.stats.old.Load(),
		SkippedUnknown: s.stats.skipped.Load(),
		Attested:       s.stats.attested.Load(),
	}
	for _, c := range s.all() {
		st.Clients++
		if c.mode == ModeHome {
			st.Homed++
		}
	}
	return st
}

func (s *Server) all() []*client {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		out = append(out, c)
	}
	return out
}

// Drain takes no more clients and tells those it has to move; then it waits
// until the last one left or ctx is over. Close follows.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for _, c := range s.all() {
		c.queue.putControl(Frame{Type: FrameGoAway, Payload: []byte{byte(GoAwayDraining)}})
	}
	for {
		s.mu.RLock()
		left, remaining := s.left, len(s.clients)
		s.mu.RUnlock()
		if remaining == 0 {
			return nil
		}
		select {
		case <-left:
		case <-ctx.Done():
			return fmt.Errorf("drain relay: %w", context.Cause(ctx))
		}
	}
}

// Close tells the clients to go away, gives them a second to hear it, and
// returns when every Serve has ended. It may be called more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, c := range s.all() {
		c.tell(GoAwayDraining)
	}
	force := time.AfterFunc(finishTimeout, func() {
		s.mu.RLock()
		defer s.mu.RUnlock()
		for stream := range s.streams {
			abort(stream)
		}
	})
	defer force.Stop()
	s.wg.Wait()
	return nil
}

// client is one link, as the server sees it. Its reader is the goroutine of
// Serve.
type client struct {
	server *Server
	key    Key
	boot   BootID
	mode   Mode
	known  bool // no limits
	member bool // may be homed here, and so meet anyone here
	stream Stream
	reader *frameReader
	queue  *queue
	done   chan struct{} // closed when the reader has ended
	heard  atomic.Int64  // unix nanoseconds of the last frame
	told   atomic.Bool   // it was told to go away
	ip     netip.Addr    // where it is seen; not valid if it is not known

	// The following belong to the reader.
	limiter  *rate.Limiter // nil: none
	pairs    map[Key]*pair
	hinted   time.Time
	swept    time.Time
	deadline time.Time
}

// pair holds the limits of this client towards one target.
type pair struct {
	disco *rate.Limiter // nil: none
	gone  time.Time     // when PeerGone was last told
	used  time.Time
}

func (c *client) heardWithin(d time.Duration) bool {
	return time.Since(time.Unix(0, c.heard.Load())) < d
}

// tell says go away; the writer ends the link after it.
func (c *client) tell(reason GoAwayReason) {
	c.told.Store(true)
	c.queue.finish(reason)
}

func (c *client) readHello() (Hello, error) {
	raw, err := c.reader.greeting()
	if err != nil {
		return Hello{}, handshakeError("read hello", err)
	}
	return ParseHello(raw)
}

func (c *client) writeWelcome(w Welcome) error {
	raw, err := AppendWelcome(nil, w)
	if err != nil {
		return err
	}
	if _, err := c.stream.Write(raw); err != nil {
		return fmt.Errorf("send welcome: %w", err)
	}
	return nil
}

// refuse says why the client is not served and waits a moment for it to read
// that.
func (c *client) refuse(reason GoAwayReason) error {
	if err := c.writeWelcome(Welcome{Version: Version, Refused: reason, Time: c.server.cfg.Now().UnixMilli()}); err != nil {
		return err
	}
	closeWrite(c.stream)
	return c.linger()
}

// linger reads until the client closes, a second at most: what ends with
// unread bytes may lose those it sent last.
func (c *client) linger() error {
	if err := c.stream.SetReadDeadline(time.Now().Add(finishTimeout)); err != nil {
		return fmt.Errorf("end relay client: %w", err)
	}
	_, _ = io.Copy(io.Discard, c.reader.br) // however it ends, it has ended
	return nil
}

// write writes what is queued. Its end, by a failure or after the last words,
// ends the reader too.
func (c *client) write() {
	last, err := c.queue.drainTo(c.stream, c.done, writeTimeout, c.server.wrote)
	switch {
	case last && err == nil:
		closeWrite(c.stream)
		_ = c.stream.SetReadDeadline(time.Now().Add(finishTimeout)) // for the reader, which lingers
	case err != nil:
		c.server.log.Debug("relay client write failed", "peer", c.key, "err", err)
		abort(c.stream)
	}
}

// read takes frames until the link ends, or the client was told to go away and
// did.
func (c *client) read() error {
	for !c.told.Load() {
		now := time.Now()
		if c.deadline.Sub(now) < silentAfter-time.Second {
			// Set once a second, not for each frame.
			c.deadline = now.Add(silentAfter)
			if err := c.stream.SetReadDeadline(c.deadline); err != nil {
				return fmt.Errorf("serve relay client: %w", err)
			}
		}
		f, err := c.reader.next()
		if errors.Is(err, ErrFrame) {
			c.tell(GoAwayProtocol)
			_ = c.linger()
			return err
		}
		if err != nil {
			return fmt.Errorf("read from relay client: %w", err)
		}
		now = time.Now()
		c.heard.Store(now.UnixNano())
		switch f.Type {
		case FrameData, FrameDisco:
			c.forward(f, now)
		case FrameAttest:
			if c.ip.IsValid() {
				ip := c.ip.As16()
				f.Flags, f.Payload = 0, ip[:]
				c.forward(f, now)
			}
		case FramePing:
			if len(f.Payload) == echoSize {
				c.queue.putControl(Frame{Type: FramePong, Payload: f.Payload})
			}
		default:
			// The others mean nothing on the way to a relay.
		}
	}
	return c.linger()
}

// forward passes a frame on, or drops it. It never waits.
func (c *client) forward(f Frame, now time.Time) {
	s := c.server
	size := lengthSize + headerSize + len(f.Payload)
	s.stats.framesIn.Add(1)
	s.stats.bytesIn.Add(uint64(size))

	p := c.pair(f.Key, now)
	switch {
	case p == nil:
		s.stats.disco.Add(1)
		return
	case f.Type != FrameData && p.disco != nil && !p.disco.AllowN(now, 1):
		s.stats.disco.Add(1)
		return
	case f.Type == FrameData && c.limiter != nil && !c.limiter.AllowN(now, size):
		s.stats.rate.Add(1)
		c.hint(now)
		return
	case f.Type == FrameData && s.global != nil && !s.global.AllowN(now, size):
		s.stats.global.Add(1)
		return
	}
	target := s.lookup(f.Key)
	if target == nil {
		s.stats.gone.Add(1)
		c.gone(f.Key, p, now)
		return
	}
	if target == c && f.Type != FrameDisco || target != c && !c.member && target.mode != ModeHome && !target.member {
		// Strangers that may not be homed here may not meet here either. A probe
		// to itself shows a client that it is heard (PATH-35); data to itself is
		// of no use.
		s.stats.denied.Add(1)
		return
	}
	if f.Type == FrameAttest {
		s.stats.attested.Add(1)
	}
	target.queue.put(c.key, Frame{Type: f.Type, Key: c.key, Flags: f.Flags & ECNMask, Payload: f.Payload}, now)
}

// attestable is the IP in an address that a client is seen at, which is not
// valid if it came through another relay: that one's IP is not the client's.
func attestable(observed string) netip.Addr {
	if at, err := netip.ParseAddrPort(observed); err == nil {
		return at.Addr().Unmap().WithZone("")
	}
	parts := strings.Split(observed, "/")
	if len(parts) < 3 || parts[1] != "ip4" && parts[1] != "ip6" || slices.Contains(parts, "p2p-circuit") {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(parts[2])
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap().WithZone("")
}

// pair returns the limits towards the target, nil when there are too many
// targets at once.
func (c *client) pair(target Key, now time.Time) *pair {
	if p := c.pairs[target]; p != nil {
		p.used = now
		return p
	}
	if len(c.pairs) >= maxPairs && now.Sub(c.swept) > time.Second {
		c.swept = now
		for key, p := range c.pairs {
			// By then its limiter is full again: nothing is forgotten.
			if now.Sub(p.used) > time.Second {
				delete(c.pairs, key)
			}
		}
	}
	if len(c.pairs) >= maxPairs {
		return nil
	}
	p := &pair{used: now}
	if n := c.server.cfg.DiscoRate; n > 0 {
		p.disco = rate.NewLimiter(rate.Limit(n), n)
	}
	if c.pairs == nil {
		c.pairs = make(map[Key]*pair)
	}
	c.pairs[target] = p
	return p
}

// gone tells the client that the target is not here, a few times a second at
// most.
func (c *client) gone(target Key, p *pair, now time.Time) {
	if now.Sub(p.gone) < goneEvery {
		return
	}
	p.gone = now
	c.queue.putControl(Frame{Type: FramePeerGone, Key: target})
}

// hint tells the client how much gets through.
func (c *client) hint(now time.Time) {
	if now.Sub(c.hinted) < hintEvery {
		return
	}
	c.hinted = now
	payload := binary.BigEndian.AppendUint64(nil, uint64(c.server.cfg.Rate))
	c.queue.putControl(Frame{Type: FrameRateHint, Payload: payload})
}
