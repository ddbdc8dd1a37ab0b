package socket

import (
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// Limits of what others can make this node send straight to addresses
// (PATH-14, PATH-16).
const (
	maxCandidates      = 16 // addresses taken from one CallMeMaybe
	asksPerSecond      = 2  // CallMeMaybes taken from one peer
	asksAtOnce         = 6
	copyWithin         = 250 * time.Millisecond // one that comes by two relays counts once
	maxProbesPerIP     = 24                     // probes one CallMeMaybe sends to one IP
	probesPerSecond    = 200                    // to addresses that have not answered, in all
	introductionsPerIP = 20                     // opened per second and source, before any curve
	introductionsAll   = 500
	callEvery          = 5 * time.Second // CallMeMaybe again, while relayed and active
	readBatch          = 8
	readAgain          = time.Second
	groBuffer          = 64 << 10
)

// readUDP takes what arrives straight until the socket is closed.
func (s *Socket) readUDP(c *udp.Conn) {
	ms := make([]udp.Message, readBatch)
	bufs := make([]*[groBuffer]byte, readBatch)
	for i := range ms {
		if c.Caps().GRO {
			bufs[i] = s.trains.Get().(*[groBuffer]byte)
			ms[i].Buf = bufs[i][:]
		} else {
			ms[i].Buf = make([]byte, MaxPacket+1)
		}
	}
	for {
		n, err := c.ReadBatch(ms)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// A socket recovers from what the network does to it; what does not
			// pass is said again now and then.
			s.log.Warn("UDP socket failed to read", "addr", c.LocalAddr(), "err", err)
			select {
			case <-s.done:
				return
			case <-time.After(readAgain):
			}
			continue
		}
		for i := range ms[:n] {
			m := &ms[i]
			m.From = s.plain(m.From)
			if m.Segment > 0 && s.deliverTrain(m, bufs[i]) {
				bufs[i] = s.trains.Get().(*[groBuffer]byte)
				m.Buf = bufs[i][:]
				continue
			}
			b, seg := m.Buf[:m.N], m.Segment
			if seg == 0 {
				seg = len(b)
			}
			for len(b) > 0 {
				k := min(seg, len(b))
				s.receiveUDP(m.From, m.ECN, b[:k])
				b = b[k:]
			}
		}
	}
}

// deliverTrain hands QUIC packets that came together on in the buffer they came
// in, and says whether it did: not if something else is among them, nor if they
// come from no path, nor if many trains wait already.
func (s *Socket) deliverTrain(m *udp.Message, buf *[groBuffer]byte) bool {
	if m.Segment > MaxPacket {
		return false
	}
	for at := 0; at < m.N; at += m.Segment {
		if buf[at]&0xc0 == 0 {
			return false
		}
	}
	p := s.index.byPath.get(m.From)
	if p == nil || s.trainsUp.Load() >= maxTrains {
		return false
	}
	s.arrived(p, path.ID{Addr: m.From}, m.N)
	s.trainsUp.Add(1)
	select {
	case s.queue <- packet{b: buf[:m.N], segment: m.Segment, train: buf, ecn: m.ECN, from: p.label.Load()}:
		return true
	default:
		s.trainsUp.Add(-1)
		return false // as single packets they are counted
	}
}

// receiveUDP takes one datagram: ours by its first byte, else QUIC's (PATH-8).
func (s *Socket) receiveUDP(from netip.AddrPort, ecn byte, b []byte) {
	if b[0]&0xc0 != 0 {
		p := s.index.byPath.get(from)
		if p == nil {
			s.stats.unproven.Add(1)
			return
		}
		s.deliver(p, path.ID{Addr: from}, ecn, b)
		return
	}
	if b[0] == halfByte {
		if len(b) > 1 && b[1] == secondPort {
			s.receiveSecond(from, ecn, b)
			return
		}
		s.receiveHalf(from, ecn, b)
		return
	}
	kind, ok := disco.KindOf(b)
	if !ok {
		if s.cfg.Other != nil {
			s.cfg.Other(from, b)
		}
		return
	}
	p, msg := s.openDirect(from.Addr(), kind, b)
	if p == nil {
		return
	}
	id := path.ID{Addr: from}
	switch m := msg.(type) {
	case disco.Ping:
		// Our own ping leaves before the answer: its pong is then here before the
		// data that the answer sets free, which is not taken from an address that
		// has not answered (PATH-8).
		p.mu.Lock()
		if p.machine.State(id) != path.Valid {
			p.trace(Trace{Kind: TraceKnocked, Addr: from})
		}
		p.candidate(from)
		p.apply()
		p.mu.Unlock()
		p.sendDisco(id, disco.Pong{TxID: m.TxID, BootID: s.boot, Observed: from})
		p.wake()
	case disco.Pong:
		p.pong(id, m)
	case disco.PathGone:
		p.lost(id, "peer says it is gone", true)
	}
}

// openDirect opens what came straight and says whose it is; nil for what has no
// effect, which it counts.
func (s *Socket) openDirect(from netip.Addr, kind disco.Kind, b []byte) (*peer, disco.Message) {
	if kind == disco.Introduction && !s.sources.allow(from) {
		s.stats.rateLimited.Add(1)
		return nil, nil
	}
	k, msg, err := s.id.OpenDirect(b)
	if err != nil {
		s.stats.badBox.Add(1)
		return nil, nil
	}
	p := s.peer(k)
	if p == nil || !p.admitted.Load() { // PATH-13: strangers come over a relay first
		s.stats.unproven.Add(1)
		return nil, nil
	}
	if !p.fresh(msg) {
		s.stats.replayed.Add(1)
		return nil, nil
	}
	return p, msg
}

// deliver hands a packet that came over the path to QUIC.
func (s *Socket) deliver(p *peer, id path.ID, ecn byte, b []byte) {
	if len(b) > MaxPacket {
		s.stats.tooLarge.Add(1)
		return
	}
	buf := s.buffers.Get().(*[MaxPacket]byte)
	s.deliverBuf(p, id, ecn, buf, copy(buf[:], b), p.label.Load())
}

// deliverBuf is deliver for a packet of n bytes in a buffer of the pool, which
// QUIC sees to come from a virtual address of the peer's.
func (s *Socket) deliverBuf(p *peer, id path.ID, ecn byte, buf *[MaxPacket]byte, n int, from *net.UDPAddr) {
	s.arrived(p, id, n)
	select {
	case s.queue <- packet{b: buf[:n], segment: n, buf: buf, ecn: ecn, from: from}:
	default:
		s.buffers.Put(buf)
		s.stats.queueFull.Add(1)
	}
}

// arrived notes what QUIC packets tell about the path they came over.
func (s *Socket) arrived(p *peer, id path.ID, size int) {
	now := s.now()
	p.cameOver(id)
	late := p.heard(id, true, now)
	// What is sent again when a pong ends a silence may come before the peer has
	// our own pong, and is then not taken (PATH-8). Once it sends, it takes it.
	if p.owing.Load() && p.owing.Swap(false) || late {
		p.sendAgain(now)
	}
	p.used(size, now)
}

// SetAddrs tells where this node may be reached straight, best first: as seen
// from outside and on its own networks. Peers in use hear of a change at once
// (PATH-16).
func (s *Socket) SetAddrs(addrs []netip.AddrPort) {
	addrs = slices.Clone(addrs[:min(len(addrs), disco.MaxAddrs)])
	if old := s.addrs.Swap(&addrs); old != nil && slices.Equal(*old, addrs) {
		return
	}
	s.callAll()
}

// callAll lets peers in use hear where this node is.
func (s *Socket) callAll() {
	now := s.now()
	for p := range s.index.byKey.all() {
		if p.admitted.Load() && (p.pinned() || p.active(now)) {
			p.mu.Lock()
			p.call(s.time(now))
			p.mu.Unlock()
			p.wake()
		}
	}
}

// NetworkChanged tells that addresses, links or routes changed. Paths in use
// must prove themselves, and peers hear where this node may be now (PATH-21).
func (s *Socket) NetworkChanged() {
	now := s.now()
	s.moved.Add(1) // ends the tries under way
	s.openings.Reset()
	s.probings.Reset()
	for p := range s.index.byKey.all() {
		if !p.pinned() && !p.active(now) {
			continue
		}
		p.mu.Lock()
		p.tcp.tried, p.tcp.vain = time.Time{}, 0
		p.machine.Shake(s.time(now))
		if p.admitted.Load() {
			p.call(s.time(now))
		}
		p.apply()
		p.mu.Unlock()
		p.wake()
	}
}

// WriteRaw sends a packet of another protocol from the port that peers know,
// such as a question to a reflector.
func (s *Socket) WriteRaw(b []byte, to netip.AddrPort) error {
	c, to := s.exit(to)
	if c == nil {
		return udp.ErrUnreachable
	}
	return c.Write(b, to, 0, 0)
}

func (s *Socket) udpFor(v6 bool) *udp.Conn {
	for _, c := range s.cfg.UDP {
		if c.LocalAddr().Addr().Is6() == v6 {
			return c
		}
	}
	return nil
}

// sendDirect gives a packet, or several of size segment, to an address. What
// cannot leave is lost, as on any network: the error is counted and must not
// reach QUIC, which would end.
func (s *Socket) sendDirect(b []byte, to netip.AddrPort, segment int, ecn byte) error {
	c, to := s.exit(to)
	if c == nil {
		return udp.ErrUnreachable
	}
	return s.sendOn(c, b, to, segment, ecn)
}

// sendOn is sendDirect by the socket c.
func (s *Socket) sendOn(c *udp.Conn, b []byte, to netip.AddrPort, segment int, ecn byte) error {
	err := c.Write(b, to, segment, ecn)
	if err != nil {
		s.stats.noPath.Add(1)
	}
	return err
}

// source is what limits of senders count by: who has one address of IPv6 has its
// /64 (PATH-14).
func source(ip netip.Addr) netip.Addr {
	if !ip.Is6() || ip.Is4In6() {
		return ip
	}
	p, _ := ip.Prefix(64) // of 128 bits: never an error
	return p.Addr()
}

// sources limits introductions by where they come from (PATH-14).
type sources struct {
	mu  sync.Mutex
	all *rate.Limiter
	by  map[netip.Addr]*rate.Limiter
}

func (s *sources) allow(ip netip.Addr) bool {
	ip = source(ip)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.all = rate.NewLimiter(introductionsAll, introductionsAll)
		s.by = make(map[netip.Addr]*rate.Limiter)
	}
	l := s.by[ip]
	if l == nil {
		if len(s.by) >= 4096 {
			clear(s.by)
		}
		l = rate.NewLimiter(introductionsPerIP, introductionsPerIP)
		s.by[ip] = l
	}
	return l.Allow() && s.all.Allow()
}

// admit lets a peer learn our addresses and makes us try its own (PATH-13).
// The caller does not hold p.mu.
func (p *peer) admit() {
	if !p.admitted.CompareAndSwap(false, true) {
		return
	}
	p.mu.Lock()
	p.call(p.s.time(p.s.now()))
	p.mu.Unlock()
}

// call sends our addresses to the peer over its relays, and before them the
// key of this boot, so that it can open what comes straight. The caller holds
// p.mu.
func (p *peer) call(now time.Time) {
	addrs := p.s.addrs.Load()
	if addrs == nil || len(p.s.cfg.UDP) == 0 {
		return
	}
	msg := disco.CallMeMaybe{BootID: p.s.boot, Addrs: *addrs, Network: p.s.network.Load().Network, Punch: p.punch}
	if p.s.cfg.Homes != nil {
		for _, k := range p.s.cfg.Homes() {
			if len(msg.Homes) < disco.MaxHomes {
				msg.Homes = append(msg.Homes, k)
			}
		}
	}
	p.s.tcp.tell(&msg)
	for _, id := range p.machine.IDs() {
		if id.Kind() == path.Relayed && p.machine.State(id) != path.Dead {
			p.called = now // not before there is a way to say it
			p.trace(Trace{Kind: TraceCalled, Addrs: msg.Addrs, Relay: id.Relay})
			p.sendDisco(id, disco.Hello{TxID: disco.NewTxID(), BootID: p.s.boot})
			// Before the addresses, which are disclosed by them (PATH-13, PATH-23).
			_ = p.s.cfg.Relays.Send(id.Relay, p.key, relay.FrameAttest, 0, nil)
			msg.TxID = disco.NewTxID()
			p.sendDisco(id, msg)
		}
	}
}

// calledBy takes a CallMeMaybe of the peer, if it may ask us to knock.
func (p *peer) calledBy(m disco.CallMeMaybe) {
	if !p.admitted.Load() {
		return
	}
	p.punched(m)
	p.mu.Lock()
	waits := p.held != nil
	taken := p.take(m)
	wake := taken || !waits && p.held != nil
	p.mu.Unlock()
	if wake {
		p.wake()
	}
}

// take tells whether a CallMeMaybe was within the limits, and does what it asks
// for. What it says must not be lost when it comes too early: the latest that was
// refused is held, and taken as soon as the limits allow. The caller holds p.mu.
func (p *peer) take(m disco.CallMeMaybe) bool {
	now := p.s.time(p.s.now())
	m.TxID = disco.TxID{} // a copy by another relay has one of its own
	if now.Sub(p.tookAt) < copyWithin && reflect.DeepEqual(m, p.took) {
		return false
	}
	if !p.asks.Allow() {
		p.s.stats.rateLimited.Add(1)
		p.held = &m
		return false
	}
	p.held = nil
	p.trace(Trace{Kind: TraceHeard, Addrs: m.Addrs, Peer: m.Network})
	p.asked(m)
	p.took, p.tookAt = m, now
	if now.Sub(p.called) > callEvery {
		p.call(now)
	}
	p.apply()
	return true
}

// takeHeld takes the CallMeMaybe that came too early, once its time has come.
// The caller holds p.mu.
func (p *peer) takeHeld() {
	switch {
	case p.held == nil:
	case p.held.BootID.Before(p.boots.Current()): // of a run of the peer that is over
		p.held = nil
	case p.asks.Tokens() >= 1:
		p.take(*p.held)
	}
}

// asked is what a CallMeMaybe of the peer asks for. The caller holds p.mu.
func (p *peer) asked(m disco.CallMeMaybe) {
	if !slices.Equal(p.took.Addrs, m.Addrs) {
		p.machine.Moved()
	}
	perIP := make(map[netip.Addr]int)
	for _, a := range m.Addrs[:min(len(m.Addrs), maxCandidates)] {
		// A candidate costs seven probes in its first second (PATH-16).
		if perIP[a.Addr()] += 7; perIP[a.Addr()] > maxProbesPerIP {
			p.trace(Trace{Kind: TraceRefused, Addr: a, Reason: "too many ports of one address"})
			continue
		}
		if !p.mayProbe(a, slices.Concat(m.Addrs, m.TCP)) {
			p.s.stats.refusedAddrs.Add(1)
			p.trace(Trace{Kind: TraceRefused, Addr: a, Reason: "private, and the peer is on another network"})
			continue
		}
		p.candidate(a)
	}
	p.askedTCP(m)
}

// candidate adds an address of the peer. The caller holds p.mu.
func (p *peer) candidate(a netip.AddrPort) {
	if !p.probeable(a) {
		p.s.stats.refusedAddrs.Add(1)
		p.trace(Trace{Kind: TraceRefused, Addr: a, Reason: "no address of a peer, or of a family without a socket here"})
		return
	}
	p.machine.Found(p.s.time(p.s.now()), path.ID{Addr: a}, false)
}

// probeable refuses what no peer can be at (PATH-14).
func (p *peer) probeable(a netip.AddrPort) bool {
	ip := a.Addr()
	if a.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	if ip.IsLoopback() && !p.s.cfg.Loopback {
		return false
	}
	if slices.Contains(p.s.ownAddrs(), a) {
		return false
	}
	if p.s.translated(ip) { // what is there is IPv4, and judged as such
		return false
	}
	c, _ := p.s.exit(a)
	return c != nil
}

// mayProbe keeps a stranger from making us knock inside our own network:
// private addresses count only when the peer is seen at the same public
// address as we are, or is known (PATH-14).
func (p *peer) mayProbe(a netip.AddrPort, all []netip.AddrPort) bool {
	if !local(a.Addr()) || p.s.cfg.Known != nil && p.s.cfg.Known(p.key) {
		return true
	}
	own := p.s.ownAddrs()
	if len(own) == 0 {
		return false
	}
	for _, theirs := range all {
		if local(theirs.Addr()) {
			continue
		}
		for _, ours := range own {
			if ours.Addr() == theirs.Addr() {
				return true
			}
		}
	}
	// Two nodes without any public address are on one network, or on none.
	return !slices.ContainsFunc(slices.Concat(all, own), func(a netip.AddrPort) bool { return !local(a.Addr()) })
}

// local tells that an address means something on its own network only.
func local(ip netip.Addr) bool {
	return ip.IsPrivate() || ip.IsLoopback() || carrierNAT.Contains(ip)
}

// carrierNAT is RFC 6598.
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")
