// Package socket is the magic socket: a net.PacketConn whose packets go to
// peers, not to addresses.
//
// QUIC runs over it as over any UDP socket. It sends to a virtual address that
// stands for a node key (PATH-2) and never learns where the packet really
// went: over a relay that forwards by key, or over a validated direct path.
// Paths come and go beneath; the QUIC connection above stays. The package
// knows nothing of libp2p and opens no connection itself: links to relays are
// lent to it.
package socket

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/punch"
	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// Limits of what strangers can make the socket hold (PATH-14), and the sizes of
// packets (PATH-9).
const (
	MaxPacket       = 1452 // bytes of one packet, either direction
	narrowPacket    = 1232 // what every path carries
	maxUnproven     = 1024 // peers known by a box only, without a QUIC connection
	maxUnprovenEach = 64   // of those, first heard over one relay
	newKeysPerRelay = 200  // boxes of unknown keys opened per second and relay
	queueLen        = 2048 // packets, or trains of them, waiting for ReadFrom
	maxTrains       = 64   // of those, trains
	coldAfter       = 60 * time.Second
	loopEvery       = time.Second
	virtualPort     = 4242
)

// Relays lends the socket its links to relays. All methods are safe for
// concurrent use and return at once, except Ensure.
type Relays interface {
	// Send hands a packet to the relay, for the key; it takes a copy. It fails when
	// no link to that relay is up.
	Send(via, to relay.Key, kind relay.FrameType, ecn byte, payload []byte) error
	// Ensure returns once a link to the relay is up, opening one if needed.
	Ensure(ctx context.Context, via relay.Key) error
	// Live lists the relays whose links are up, homes first.
	Live() []relay.Key
}

// Config of a Socket. Key and Relays are required.
type Config struct {
	// Key is the node key.
	Key ed25519.PrivateKey
	// Relays carry packets to peers.
	Relays Relays
	// Events, when set, hears of every change of a peer's paths. It must not
	// block and must not call the Socket.
	Events func(peer relay.Key, ev path.Event)
	// Trace, when set, hears what is tried to reach a peer; nothing is told of
	// packets on paths that work. It must not block and must not call the Socket.
	Trace func(peer relay.Key, t Trace)
	// UDP are the sockets of the direct paths, one for each family; none for a
	// node that uses relays only. The Socket closes them.
	UDP []*udp.Conn
	// Disclose tells whether a peer that comes over a relay may learn this
	// node's addresses and be probed at its own (PATH-13); nil lets everybody.
	Disclose func(relay.Key) bool
	// Known tells that a peer is in the registry; nil knows nobody.
	Known func(relay.Key) bool
	// Homes are the relays to name to peers, beside addresses.
	Homes func() []relay.Key
	// Other gets packets on UDP that are neither QUIC nor disco, such as a
	// reflector's answers. It must not block; b is only valid during the call.
	Other func(from netip.AddrPort, b []byte)
	// TCP lets peers be reached over TCP from the ports of UDP, both numbers
	// alike, where UDP does not get through (PATH-20); see [Socket.SetTCP].
	TCP bool
	// DialWeb opens a connection to a peer's port 443, to look like the web's; nil
	// when none is dialled (PATH-20). It fails with ErrNoPeer where something else
	// answers.
	DialWeb func(ctx context.Context, to netip.AddrPort) (tcp.Carrier, error)
	// Loopback lets loopback addresses be candidates.
	Loopback bool
	// Refresh, when set, is told that a peer with a connection has no path
	// left, at most every few seconds for one peer. It must not block.
	Refresh func(peer relay.Key)
	// Reflects asks a reflector whether packets still come and go on UDP, and
	// waits for the answer until ctx ends; nil asks nobody. A burst of packets
	// through a NAT ends when they do not (PATH-23).
	Reflects func(ctx context.Context) bool
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Stats counts what the socket refused or dropped.
type Stats struct {
	BadBox       uint64 `json:"bad_box"`       // disco packets that did not open
	RateLimited  uint64 `json:"rate_limited"`  // boxes of new keys over the limit
	Unproven     uint64 `json:"unproven"`      // QUIC packets before a valid box (PATH-8)
	Replayed     uint64 `json:"replayed"`      // pings seen before or of an old boot
	QueueFull    uint64 `json:"queue_full"`    // packets QUIC was too slow to read
	NoPath       uint64 `json:"no_path"`       // packets sent while there was no way
	TooLarge     uint64 `json:"too_large"`     // packets over MaxPacket
	UnknownPongs uint64 `json:"unknown_pongs"` // pongs to no ping of ours
	RefusedAddrs uint64 `json:"refused_addrs"` // candidates that must not be probed
	Probes       uint64 `json:"probes"`        // sent to addresses that had not answered
	ProbesHeld   uint64 `json:"probes_held"`   // over the budget
	TCPDials     uint64 `json:"tcp_dials"`     // tries to connect to a peer
	TCPHeld      uint64 `json:"tcp_held"`      // over their budget
	TCPRefused   uint64 `json:"tcp_refused"`   // accepted where too many were unproven
	TCPUnproven  uint64 `json:"tcp_unproven"`  // closed since no peer in use proved to be there
	TCPMalformed uint64 `json:"tcp_malformed"` // closed for what they sent
	BadHalf      uint64 `json:"bad_half"`      // halves of packets that are malformed or do not fit
	LostHalf     uint64 `json:"lost_half"`     // halves dropped for later ones
	Split        uint64 `json:"split"`         // packets sent in halves
	Narrowed     uint64 `json:"narrowed"`      // times that a path did not carry wide packets any more

	// Hard NATs (PATH-23).
	Punches        uint64 `json:"punches"`         // tries begun
	PunchesHelped  uint64 `json:"punches_helped"`  // of them, ended with a direct path
	PunchesHeld    uint64 `json:"punches_held"`    // not begun: tried lately, or too much at once
	PunchesUnsure  uint64 `json:"punches_unsure"`  // not begun: nobody says that the peer is at that IP
	PunchesStopped uint64 `json:"punches_stopped"` // ended since reflectors did not answer any more
	PunchProbes    uint64 `json:"punch_probes"`    // sent to ports of hard NATs
	PunchOpeners   uint64 `json:"punch_openers"`   // sent from extra sockets, to open ports of ours
	RefusedAttests uint64 `json:"refused_attests"` // IPs that no relay of ours attests, or not usable
}

// Socket is a net.PacketConn over peers. All methods are safe for concurrent
// use. Close ends every goroutine it started.
type Socket struct {
	cfg  Config
	self relay.Key
	id   *disco.Identity
	boot disco.BootID
	log  *slog.Logger
	base time.Time

	index *index

	mu       sync.Mutex // changes of the index, limiters
	unproven map[relay.Key]map[relay.Key]*peer
	limiters map[relay.Key]*rate.Limiter
	loops    map[[16]byte]chan struct{} // packets to ourselves under way
	extra    map[*udp.Conn]struct{}     // sockets opened against hard NATs
	closed   bool

	network  atomic.Pointer[way] // never nil
	nat64    atomic.Pointer[netip.Prefix]
	openings punch.Ledger
	probings punch.Ledger
	moved    atomic.Int64 // changes of the network

	addrs   atomic.Pointer[[]netip.AddrPort] // where peers may try us
	sources sources
	probes  *rate.Limiter
	doubles doubles
	tcp     *tcpPaths

	queue      chan packet
	rest       packet // of the train being read; under reading
	reading    sync.Mutex
	buffers    sync.Pool
	trains     sync.Pool
	trainsUp   atomic.Int32 // trains on their way up
	deadline   deadline
	halfID     atomic.Uint32 // of the last packet sent in halves
	halfTrains sync.Pool
	done       chan struct{}
	wg         sync.WaitGroup

	stats struct {
		badBox, rateLimited, unproven, replayed, queueFull, noPath, tooLarge, unknownPongs atomic.Uint64
		refusedAddrs, probes, probesHeld, badHalf, lostHalf, split, narrowed               atomic.Uint64
		punches, punchesHelped, punchesHeld, punchesUnsure, punchesStopped                 atomic.Uint64
		punchProbes, punchOpeners, refusedAttests                                          atomic.Uint64
	}
}

// packet is one QUIC packet on its way up, or a train of them: several of size
// segment, the last of which may be shorter, in the buffer they were read into.
type packet struct {
	b       []byte
	segment int
	buf     *[MaxPacket]byte // what b lies in, to be used again
	train   *[groBuffer]byte // or this
	ecn     byte
	from    *net.UDPAddr
}

// New makes a socket and begins to read cfg.UDP.
func New(cfg Config) (*Socket, error) {
	if len(cfg.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("magic socket: no node key")
	}
	if cfg.Relays == nil {
		return nil, errors.New("magic socket: no relays")
	}
	id, err := disco.NewIdentity(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("magic socket: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Socket{
		cfg:      cfg,
		id:       id,
		boot:     disco.NewBootID(time.Now()),
		log:      cfg.Logger,
		base:     time.Now().Add(-time.Hour), // so that no moment is zero
		index:    newIndex(),
		unproven: make(map[relay.Key]map[relay.Key]*peer),
		limiters: make(map[relay.Key]*rate.Limiter),
		loops:    make(map[[16]byte]chan struct{}),
		queue:    make(chan packet, queueLen),
		extra:    make(map[*udp.Conn]struct{}),
		done:     make(chan struct{}),
		openings: punch.Ledger{Slots: openSlots},
		probings: punch.Ledger{Slots: probeSlots},
		probes:   rate.NewLimiter(probesPerSecond, probesPerSecond),
	}
	s.network.Store(new(way))
	copy(s.self[:], cfg.Key.Public().(ed25519.PublicKey))
	s.buffers.New = func() any { return new([MaxPacket]byte) }
	s.trains.New = func() any { return new([groBuffer]byte) }
	s.tcp = newTCPPaths(s)
	s.halfTrains.New = func() any { return new([trainBuffer]byte) }
	s.halfID.Store(binary.BigEndian.Uint32(s.boot[12:])) // random
	s.deadline.init()
	for _, c := range cfg.UDP {
		s.wg.Go(func() { s.readUDP(c) })
	}
	return s, nil
}

// Boot names this start of the node: a later one is greater (PATH-11).
func (s *Socket) Boot() [16]byte { return s.boot }

// VirtualAddr is the address by which QUIC knows the peer with the key:
// fd followed by 120 bits of the key's SHA-256 (PATH-2). It never leaves the
// process.
func VirtualAddr(k relay.Key) netip.AddrPort {
	sum := sha256.Sum256(k[:])
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:], sum[:15])
	return netip.AddrPortFrom(netip.AddrFrom16(a), virtualPort)
}

// Path tells how packets reach the peer now: the best path that answered, or
// the likeliest of those tried, which has no round trip yet. ok is false while
// there is none.
func (s *Socket) Path(k relay.Key) (id path.ID, rtt time.Duration, since time.Time, ok bool) {
	p := s.peer(k)
	if p == nil {
		return path.ID{}, 0, time.Time{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if id, _, rtt, since, ok = p.machine.Best(); ok {
		return id, rtt, since, true
	}
	if route := p.machine.Route(); len(route) > 0 {
		return route[0], 0, time.Time{}, true
	}
	return path.ID{}, 0, time.Time{}, false
}

// Stats returns the counters.
func (s *Socket) Stats() Stats {
	return Stats{
		BadBox:       s.stats.badBox.Load(),
		RateLimited:  s.stats.rateLimited.Load(),
		Unproven:     s.stats.unproven.Load(),
		Replayed:     s.stats.replayed.Load(),
		QueueFull:    s.stats.queueFull.Load(),
		NoPath:       s.stats.noPath.Load(),
		TooLarge:     s.stats.tooLarge.Load(),
		UnknownPongs: s.stats.unknownPongs.Load(),
		RefusedAddrs: s.stats.refusedAddrs.Load(),
		Probes:       s.stats.probes.Load(),
		ProbesHeld:   s.stats.probesHeld.Load(),
		TCPDials:     s.tcp.stats.dials.Load(),
		TCPHeld:      s.tcp.stats.held.Load(),
		TCPRefused:   s.tcp.stats.refused.Load(),
		TCPUnproven:  s.tcp.stats.unproven.Load(),
		TCPMalformed: s.tcp.stats.malformed.Load(),
		BadHalf:      s.stats.badHalf.Load(),
		LostHalf:     s.stats.lostHalf.Load(),
		Split:        s.stats.split.Load(),
		Narrowed:     s.stats.narrowed.Load(),

		Punches:        s.stats.punches.Load(),
		PunchesHelped:  s.stats.punchesHelped.Load(),
		PunchesHeld:    s.stats.punchesHeld.Load(),
		PunchesUnsure:  s.stats.punchesUnsure.Load(),
		PunchesStopped: s.stats.punchesStopped.Load(),
		PunchProbes:    s.stats.punchProbes.Load(),
		PunchOpeners:   s.stats.punchOpeners.Load(),
		RefusedAttests: s.stats.refusedAttests.Load(),
	}
}

// Dial prepares the way to a peer and keeps it until release is called: the
// peer is not forgotten meanwhile. Every relay whose link is up is tried at
// once, since peers often share one; AddRelay adds those the peer names.
func (s *Socket) Dial(k relay.Key) (addr *net.UDPAddr, release func(), err error) {
	if k == s.self {
		return nil, nil, errors.New("magic socket: that is this node's own key")
	}
	p, err := s.obtain(k, relay.Key{})
	if err != nil {
		return nil, nil, err
	}
	p.dialled.Store(true)
	for _, via := range s.cfg.Relays.Live() {
		if via != k {
			s.found(p, via)
		}
	}
	p.admit()
	p.wake() // its loop forgets it once it is of no interest
	return p.addr, p.unpin, nil
}

// Pin keeps a peer that has a QUIC connection; it fails for an address the
// socket never gave out.
func (s *Socket) Pin(addr net.Addr) (k relay.Key, release func(), err error) {
	p, err := s.pinVirtual(addr)
	if err != nil {
		return relay.Key{}, nil, fmt.Errorf("magic socket: %w", err)
	}
	p.wake() // more is done for a path to it from now on
	return p.key, p.unpin, nil
}

func (s *Socket) pinVirtual(addr net.Addr) (*peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byVirtual(addr)
	if p == nil {
		return nil, errors.New("unknown peer address")
	}
	return p, p.pin()
}

// AddRelay names a relay over which the peer may be reached and waits until a
// link to it is up, or ctx ends.
func (s *Socket) AddRelay(ctx context.Context, k, via relay.Key) error {
	if via == k || via == s.self {
		return errors.New("magic socket: a relay is no path to itself")
	}
	p := s.peer(k)
	if p == nil {
		return errors.New("magic socket: peer not dialled")
	}
	if err := s.cfg.Relays.Ensure(ctx, via); err != nil {
		p.trace(Trace{Kind: TraceRelayDown, Relay: via, Err: err})
		return fmt.Errorf("link to relay %s: %w", via, err)
	}
	p.trace(Trace{Kind: TraceRelayUp, Relay: via})
	s.found(p, via)
	return nil
}

// WaitRoute returns once packets to the peer have a way to go.
func (s *Socket) WaitRoute(ctx context.Context, k relay.Key) error {
	p := s.peer(k)
	if p == nil {
		return errors.New("magic socket: peer not dialled")
	}
	for {
		p.mu.Lock()
		usable, changed := p.machine.Usable(), p.changed
		p.mu.Unlock()
		if usable {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.done:
			return net.ErrClosed
		}
	}
}

// Loop sends this node a packet over the relay and returns once it came back:
// whoever sends here is heard (PATH-35).
func (s *Socket) Loop(ctx context.Context, via relay.Key) error {
	var token [16]byte
	rand.Read(token[:])
	back := make(chan struct{})
	s.mu.Lock()
	s.loops[token] = back
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.loops, token)
		s.mu.Unlock()
	}()
	tick := time.NewTicker(loopEvery)
	defer tick.Stop()
	for {
		if err := s.cfg.Relays.Send(via, s.self, relay.FrameDisco, 0, token[:]); err != nil {
			return fmt.Errorf("send over relay %s: %w", via, err)
		}
		select {
		case <-back:
			return nil
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.done:
			return net.ErrClosed
		}
	}
}

// looped takes what came from this node itself.
func (s *Socket) looped(payload []byte) {
	if len(payload) != 16 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if back, ok := s.loops[[16]byte(payload)]; ok {
		close(back)
		delete(s.loops, [16]byte(payload))
	}
}

// Hopeless tells that no path to the peer is left to wait for.
func (s *Socket) Hopeless(k relay.Key) bool {
	p := s.peer(k)
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.machine.Usable()
}

// LinkUp tells that a link to the relay was made. Peers last reached over it
// are tried again, and hear where this node may be now: what broke the link may
// have moved it.
func (s *Socket) LinkUp(via relay.Key) {
	id := path.ID{Relay: via}
	for p := range s.index.byKey.all() {
		if p.pinned() || p.active(s.now()) {
			p.mu.Lock()
			if p.machine.State(id) != path.Unknown {
				p.machine.Found(s.time(s.now()), id, true)
				p.apply()
				if p.admitted.Load() {
					p.call(s.time(s.now()))
				}
			}
			p.mu.Unlock()
			p.wake()
		}
	}
}

// LinkDraining tells that the relay is about to go down. Peers that have another
// way are sent to over that from now on; what they still send over this relay is
// taken until its link ends.
func (s *Socket) LinkDraining(via relay.Key) {
	id := path.ID{Relay: via}
	for p := range s.index.byKey.all() {
		p.leave(id)
	}
}

// LinkDown tells that the link to the relay is gone.
func (s *Socket) LinkDown(via relay.Key) {
	s.SetLimits(via, 0, 0)
	id := path.ID{Relay: via}
	for p := range s.index.byKey.all() {
		p.disprove(via)
		p.lost(id, "relay link down", false)
	}
}

// PeerGone tells that the relay does not know the peer. That overtakes what the
// relay still has of it, its last words among that, which are taken: a valid box
// came on this link (PATH-8).
func (s *Socket) PeerGone(via, k relay.Key) {
	if p := s.peer(k); p != nil {
		p.trace(Trace{Kind: TraceGone, Relay: via})
		p.lost(path.ID{Relay: via}, "peer not at this relay", true)
	}
}

// Receive takes a frame that a relay forwarded from a peer. payload is only
// read during the call.
func (s *Socket) Receive(via, from relay.Key, kind relay.FrameType, ecn byte, payload []byte) {
	if from == s.self {
		s.looped(payload)
		return
	}
	switch kind {
	case relay.FrameData:
		s.receiveData(via, from, ecn, payload)
	case relay.FrameDisco:
		s.receiveDisco(via, from, payload)
	case relay.FrameAttest:
		s.attested(via, from, payload)
	}
}

func (s *Socket) receiveData(via, from relay.Key, ecn byte, payload []byte) {
	p := s.peer(from)
	if p == nil || !p.isProven(via) { // PATH-8
		s.stats.unproven.Add(1)
		return
	}
	s.deliver(p, path.ID{Relay: via}, ecn, payload)
}

func (s *Socket) receiveDisco(via, from relay.Key, payload []byte) {
	p := s.peer(from)
	if p == nil && !s.allowNew(via) {
		s.stats.rateLimited.Add(1)
		return
	}
	msg, err := s.id.Open(from, payload)
	if err != nil {
		s.stats.badBox.Add(1)
		return
	}
	if p == nil {
		if p, err = s.obtain(from, via); err != nil {
			s.stats.rateLimited.Add(1)
			return
		}
	}
	if !p.fresh(msg) {
		s.stats.replayed.Add(1)
		return
	}
	id := path.ID{Relay: via}
	switch m := msg.(type) {
	case disco.Ping:
		p.prove(via)
		p.sendDisco(id, disco.Pong{TxID: m.TxID, BootID: s.boot})
		now := s.now()
		since := p.unanswered.Load()
		// It asks there since it misses something, as we do.
		doubled := since != 0 && now-since > min(p.quiet.Load()/4, p.missed.Load()) && p.cameOver(id)
		switch {
		case p.heard(id, false, now):
			p.sendAgain(now)
		case since != 0 && now-since > p.answerIn.Load() && !doubled:
			p.repeat(id, now)
		}
		s.found(p, via)
		s.consider(p)
	case disco.Pong:
		if p.pong(id, m) {
			s.consider(p)
		}
	case disco.Hello:
		p.prove(via)
		p.hello(m.BootID)
	case disco.CallMeMaybe:
		p.prove(via)
		s.found(p, via)
		s.consider(p)
		p.calledBy(m)
	case disco.PathGone:
		p.gonePaths(m.Addr)
	}
}

// consider admits a peer whose box came over a relay, if it may be (PATH-13).
func (s *Socket) consider(p *peer) {
	if p.admitted.Load() {
		return
	}
	if s.cfg.Disclose == nil || s.cfg.Disclose(p.key) {
		p.admit()
		return
	}
	p.trace(Trace{Kind: TraceWithheld})
}

// ReadFrom implements net.PacketConn.
func (s *Socket) ReadFrom(b []byte) (int, net.Addr, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if err := s.fill(); err != nil {
		return 0, nil, err
	}
	from := s.rest.from
	return s.take(b), from, nil
}

// fill waits for a packet when none is left of the last train; a deadline that
// has passed wins. The caller holds reading.
func (s *Socket) fill() error {
	passed := s.deadline.wait()
	select {
	case <-passed:
		return timeoutError{}
	default:
	}
	if len(s.rest.b) > 0 {
		return nil
	}
	select {
	case s.rest = <-s.queue:
		return nil
	case <-passed:
		return timeoutError{}
	case <-s.done:
		return net.ErrClosed
	}
}

// more is fill that does not wait.
func (s *Socket) more() bool {
	if len(s.rest.b) > 0 {
		return true
	}
	select {
	case s.rest = <-s.queue:
		return true
	default:
		return false
	}
}

// take copies the next packet of s.rest into b. The caller holds reading.
func (s *Socket) take(b []byte) int {
	r := &s.rest
	k := min(r.segment, len(r.b))
	n := copy(b, r.b[:k])
	if r.b = r.b[k:]; len(r.b) > 0 {
		return n
	}
	if r.train != nil {
		s.trainsUp.Add(-1)
		s.trains.Put(r.train)
	} else {
		s.buffers.Put(r.buf)
	}
	s.rest = packet{}
	return n
}

// WriteTo implements net.PacketConn. A packet that has no way to go is
// dropped, as on any network.
func (s *Socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	p := s.byVirtual(addr)
	if p == nil || len(b) > MaxPacket {
		s.stats.noPath.Add(1)
		return len(b), nil
	}
	p.send(b, 0, 0)
	return len(b), nil
}

// Close ends the socket; pending reads fail with net.ErrClosed.
func (s *Socket) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
		for _, c := range s.cfg.UDP {
			_ = c.Close()
		}
		for c := range s.extra {
			_ = c.Close()
		}
	}
	s.mu.Unlock()
	s.tcp.close()
	s.wg.Wait()
	return nil
}

// LocalAddr is this node's own virtual address.
func (s *Socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(VirtualAddr(s.self)) }

// SetDeadline implements net.PacketConn; writes never block.
func (s *Socket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// SetReadDeadline implements net.PacketConn; it wakes a pending ReadFrom.
func (s *Socket) SetReadDeadline(t time.Time) error {
	s.deadline.set(t)
	return nil
}

// SetWriteDeadline implements net.PacketConn; writes never block.
func (s *Socket) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer and SetWriteBuffer exist for QUIC, which asks any socket for
// larger kernel buffers; there are none here.
func (s *Socket) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing; see SetReadBuffer.
func (s *Socket) SetWriteBuffer(int) error { return nil }

// now is the monotonic time since base, never zero.
func (s *Socket) now() int64 { return int64(time.Since(s.base)) }

// time converts what now returned; zero stays zero.
func (s *Socket) time(t int64) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return s.base.Add(time.Duration(t))
}

func (s *Socket) peer(k relay.Key) *peer { return s.index.byKey.get(k) }

func (s *Socket) byVirtual(addr net.Addr) *peer {
	ua, ok := addr.(*net.UDPAddr)
	if !ok {
		return nil
	}
	ip, ok := netip.AddrFromSlice(ua.IP)
	if !ok {
		return nil
	}
	return s.index.byAddr.get(ip)
}

// found adds the relay to the ways to p.
func (s *Socket) found(p *peer, via relay.Key) {
	p.mu.Lock()
	p.machine.Found(s.time(s.now()), path.ID{Relay: via}, false)
	p.apply()
	p.mu.Unlock()
	p.wake()
}

// allowNew admits the first box of an unknown key before any curve is
// computed (PATH-14).
func (s *Socket) allowNew(via relay.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limiters[via]
	if l == nil {
		if len(s.limiters) >= 256 {
			clear(s.limiters)
		}
		l = rate.NewLimiter(newKeysPerRelay, newKeysPerRelay)
		s.limiters[via] = l
	}
	return l.Allow()
}

// obtain finds or makes the peer. One first heard over a relay counts as
// unproven there until it has a connection; one that we dial, when via is
// zero, is pinned.
func (s *Socket) obtain(k, via relay.Key) (*peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	dialled := via == (relay.Key{})
	if p := s.peer(k); p != nil {
		if dialled {
			return p, p.pin()
		}
		return p, nil
	}
	if !dialled && !s.roomFor(via) {
		return nil, errors.New("magic socket: too many unproven peers")
	}
	p := newPeer(s, k)
	if dialled {
		if err := p.pin(); err != nil {
			return nil, fmt.Errorf("magic socket: %w", err)
		}
	} else {
		if s.unproven[via] == nil {
			s.unproven[via] = make(map[relay.Key]*peer)
		}
		s.unproven[via][k] = p
	}
	s.index.add(p)
	return p, nil
}

// roomFor makes room for one more unproven peer over the relay, forgetting
// the one idle longest; those with a connection are never forgotten.
func (s *Socket) roomFor(via relay.Key) bool {
	total := 0
	for r, peers := range s.unproven {
		for k, p := range peers {
			if p.pinned() {
				delete(peers, k)
			}
		}
		if len(peers) == 0 {
			delete(s.unproven, r)
		}
		total += len(peers)
	}
	if total < maxUnproven && len(s.unproven[via]) < maxUnprovenEach {
		return true
	}
	from := s.unproven[via]
	if len(from) == 0 { // others fill the table: they yield
		for _, peers := range s.unproven {
			if len(peers) > len(from) {
				from = peers
			}
		}
	}
	var oldest *peer
	for _, p := range from {
		if oldest == nil || p.lastRecv.Load() < oldest.lastRecv.Load() {
			oldest = p
		}
	}
	if oldest == nil {
		return false
	}
	delete(from, oldest.key)
	s.forget(oldest)
	return true
}

// forgetCold drops a peer without connection from which nothing came, and to
// which nothing went, for a while.
func (s *Socket) forgetCold(p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.pinned() || s.peer(p.key) != p {
		return false
	}
	for _, peers := range s.unproven {
		if peers[p.key] == p {
			delete(peers, p.key)
		}
	}
	s.forget(p)
	return true
}

// forget drops a peer that has no connection. The caller holds s.mu.
func (s *Socket) forget(p *peer) {
	s.index.remove(p)
	close(p.gone)
	p.closeTCP()
	if e := p.exit.Load(); e != nil {
		_ = e.conn.Close()
	}
}

func (p *peer) sendDisco(id path.ID, msg disco.Message) {
	if id.Kind() == path.Direct {
		if box, err := p.s.id.SealDirect(nil, p.key, msg); err == nil {
			p.sendBox(id, box)
		}
		return
	}
	box, err := p.s.id.Seal(nil, p.key, msg)
	if err != nil {
		return
	}
	_ = p.s.cfg.Relays.Send(id.Relay, p.key, relay.FrameDisco, 0, box) // a lost ping is a miss
}
