package socket

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/punch"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// How hard NATs are met (PATH-23); what is sent when is package punch's.
const (
	openSlots  = 2 // tries at once that open sockets
	probeSlots = 1 // and that look for ports: their budget is the node's
	fewSockets = 16
	maxTargets = 2 // addresses of the peer each socket opens towards
	maxOffered = 4

	openAfter  = 250 * time.Millisecond // what becomes direct by itself has done so by then
	openFor    = punch.FastFor + punch.SlowFor
	openAgain  = 6 * time.Second   // NATs forget what was never answered after 20 s and more
	turnFor    = 2 * punch.FastFor // of openFor, while others wait for the slot
	holdFor    = 40 * time.Second  // the longest, while the peer looks for others first
	waitAgain  = time.Second       // between two words of ours that a peer is to wait
	watchEvery = 20 * time.Millisecond
	settleFor  = time.Second            // for the path, once the peer says it has one
	hitFor     = 500 * time.Millisecond // for a socket that was hit to prove that it works

	maxWitnesses = 4
	witnessFor   = 2 * time.Minute

	askEvery   = 100 * time.Millisecond
	askFirst   = time.Second
	askMisses  = 3
	fewestAsks = 300 * time.Millisecond // the shortest wait for a reflector: this machine may be busy too
)

// way is what this node tells peers of its way out.
type way struct {
	disco.Network
	ports []uint16 // at which it was seen
}

// holes is what one peer has to do with hard NATs; under peer.mu.
type holes struct {
	theirs       disco.Network
	offered      []netip.AddrPort // its public IPv4 addresses, as it says
	local        []uint16         // and the ports of its own machine
	witnesses    []witness
	answeredFrom netip.Addr  // it answered a ping of ours from there
	punch        disco.Punch // what we tell it
	asking       disco.Punch // what it told us last
	askedAt      time.Time
	opening      bool
	waits        time.Time     // since when for a slot of ours; zero: it does not
	told         time.Time     // when the peer last said that we are to wait
	toldIt       time.Time     // when we last said so to it
	stop         chan struct{} // of our probing, closed when it is of no more use; nil: none
}

// witness is an IP that a relay of ours attests for the peer.
type witness struct {
	ip netip.Addr
	at time.Time
}

// exit is the socket whose hole in our NAT the peer has found. What goes to the
// address leaves by it.
type exit struct {
	addr netip.AddrPort
	conn *udp.Conn
	at   time.Time
}

// SetNetwork tells what is known of this node's way out, and at which ports of
// IPv4 it was seen from outside. Peers that are not reached straight hear of a
// change at once, since it may help (PATH-23).
func (s *Socket) SetNetwork(n disco.Network, ports []uint16) {
	old := s.network.Swap(&way{n, slices.Clone(ports[:min(len(ports), disco.MaxPorts)])})
	if old.Network == n {
		return
	}
	now := s.now()
	for p := range s.index.byKey.all() {
		p.mu.Lock()
		if n.IPv4 != disco.MappingUnknown && n.IPv4 != disco.MappingDependent {
			p.leaveHole()
		}
		if p.admitted.Load() && !p.direct.Load() && (p.pinned() || p.active(now)) {
			p.call(s.time(now))
			p.punchOn()
		}
		p.mu.Unlock()
	}
}

// leaveHole gives up a hole in a hard NAT that this node is no longer behind, unless
// it still works: the peer is asked from the socket of all others, at once. The
// caller holds p.mu.
func (p *peer) leaveHole() {
	e := p.exit.Load()
	if e == nil || p.opening || p.machine.State(path.ID{Addr: e.addr}) == path.Valid {
		return
	}
	p.exit.Store(nil)
	_ = e.conn.Close()
	p.machine.Found(p.s.time(p.s.now()), path.ID{Addr: e.addr}, true)
	p.apply()
}

// attested takes the IP of a peer from a relay. Only relays that this node has
// chosen as its homes are believed: links to others are made because a peer
// names them, and could be the peer's own, in which case its word is no better
// than that.
func (s *Socket) attested(via, from relay.Key, payload []byte) {
	p := s.peer(from)
	if p == nil || len(payload) != 16 || s.cfg.Homes == nil || !slices.Contains(s.cfg.Homes(), via) {
		s.stats.refusedAttests.Add(1)
		return
	}
	ip := netip.AddrFrom16([16]byte(payload)).Unmap()
	if !s.punchable(ip) {
		s.stats.refusedAttests.Add(1)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.witnesses = slices.DeleteFunc(p.witnesses, func(w witness) bool { return w.ip == ip })
	if len(p.witnesses) >= maxWitnesses {
		p.witnesses = slices.Delete(p.witnesses, 0, 1)
	}
	p.witnesses = append(p.witnesses, witness{ip, s.time(s.now())})
}

// punchable tells whether a NAT may be at the IP.
func (s *Socket) punchable(ip netip.Addr) bool {
	return ip.Is4() && (ip.IsGlobalUnicast() && !local(ip) || ip.IsLoopback() && s.cfg.Loopback)
}

// isAt tells whether the peer is at the IP for all we know: it has answered
// from there, or a relay of ours attests it. What the peer says itself does not
// count: it may name anybody's. The caller holds p.mu.
func (p *peer) isAt(ip netip.Addr) bool {
	now := p.s.time(p.s.now())
	return ip.IsValid() && ip == p.answeredFrom || slices.ContainsFunc(p.witnesses, func(w witness) bool {
		return w.ip == ip && now.Sub(w.at) < witnessFor
	})
}

// punched takes what a CallMeMaybe says of NATs, and begins what helps.
func (p *peer) punched(m disco.CallMeMaybe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.theirs = m.Network
	p.offered, p.local = nil, nil
	for _, a := range m.Addrs {
		switch ip := a.Addr(); {
		case !ip.Is4():
		case !p.s.punchable(ip):
			p.local = append(p.local, a.Port())
		case len(p.offered) < maxOffered:
			p.offered = append(p.offered, a)
		}
	}
	switch m.Punch.State {
	case disco.PunchOpen:
		p.asking, p.askedAt = m.Punch, p.s.time(p.s.now())
	case disco.PunchWait:
		p.told = time.Now()
	case disco.PunchDone:
		p.asking, p.waits = disco.Punch{}, time.Time{}
		if p.stop != nil {
			close(p.stop)
			p.stop = nil
		}
	}
	p.punchOn()
}

// punchOn begins what helps towards a peer that is not reached straight, or no
// more. The caller holds p.mu.
func (p *peer) punchOn() {
	if p.direct.Load() || !p.admitted.Load() || !p.active(p.s.now()) || p.s.udpFor(false) == nil {
		p.waits = time.Time{}
		return
	}
	role := p.role()
	asked := role == punch.Probe && p.asking.State == disco.PunchOpen && p.s.time(p.s.now()).Sub(p.askedAt) < openFor
	switch {
	case role == punch.Open:
		// Not from behind a NAT64: sockets of IPv4 lead nowhere there.
		if !p.opening && p.s.nat64.Load() == nil && p.s.spawn(p.open) {
			p.opening = true
		}
	case !asked:
		p.waits = time.Time{}
	case p.stop == nil:
		p.beginProbing(p.asking.Ports)
	}
}

// role is what we do for a path to the peer. The caller holds p.mu.
func (p *peer) role() punch.Role {
	return punch.RoleOf(p.s.network.Load().IPv4, p.theirs.IPv4)
}

// who is the peer as the ledger knows it. The caller holds p.mu.
func (p *peer) who(ip netip.Addr) punch.Who {
	return punch.Who{Peer: p.key, Boot: p.boots.Current(), IP: ip, Known: p.known()}
}

// known tells that the peer is no stranger.
func (p *peer) known() bool {
	return p.dialled.Load() || p.s.cfg.Known != nil && p.s.cfg.Known(p.key)
}

// spawn runs f in a goroutine that Close waits for; false when it is closed.
func (s *Socket) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// pause waits, and tells whether there is still a reason to go on: the peer is
// of interest, not yet reached straight, and the network is the same.
func (p *peer) pause(d time.Duration, moved int64, stop <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !p.direct.Load() && p.s.moved.Load() == moved
	case <-stop:
	case <-p.gone:
	case <-p.s.done:
	}
	return false
}

// begin enters a try in the ledger, or counts it as held; then the peer may wait for
// its turn. The caller holds p.mu.
func (p *peer) begin(l *punch.Ledger, ip netip.Addr) *punch.Try {
	now := time.Now()
	try, err := l.Begin(now, p.who(ip))
	if err == nil {
		p.waits = time.Time{}
		p.s.stats.punches.Add(1)
		return try
	}
	p.s.stats.punchesHeld.Add(1)
	p.s.log.Debug("hard NAT not tried", "peer", p.key, "addr", ip, "err", err)
	switch {
	case !errors.Is(err, punch.ErrBusy):
		p.waits = time.Time{}
		p.trace(Trace{Kind: TracePunch, Reason: "not tried again: it failed not long ago"})
	case p.waits.IsZero():
		p.waits = now
		p.trace(Trace{Kind: TracePunch, Reason: "waits for its turn: others are tried"})
	}
	return nil
}

// turns lets the peers go on that wait for a slot, now that one is free: those that
// are known first, then those that have waited longest. The caller holds no peer's mu.
func (s *Socket) turns() {
	type place struct {
		p     *peer
		known bool
		since time.Time
	}
	var line []place
	for p := range s.index.byKey.all() {
		p.mu.Lock()
		if !p.waits.IsZero() {
			line = append(line, place{p, p.known(), p.waits})
		}
		p.mu.Unlock()
	}
	slices.SortFunc(line, func(a, b place) int {
		switch {
		case a.known == b.known:
			return a.since.Compare(b.since)
		case a.known:
			return -1
		}
		return 1
	})
	for _, at := range line {
		at.p.mu.Lock()
		at.p.punchOn()
		at.p.mu.Unlock()
	}
}

// finish ends a try towards ip. It helped if the path leads there: a peer that is
// reached elsewhere must not get any number of tries towards that IP.
func (s *Socket) finish(try *punch.Try, p *peer, ip netip.Addr) {
	route := p.route.Load()
	helped := p.direct.Load() && route != nil && len(*route) > 0 && (*route)[0].Addr.Addr() == ip
	if helped {
		s.stats.punchesHelped.Add(1)
	}
	try.End(time.Now(), helped)
}

// open makes holes in our hard NAT, for the peer to find one of them: many
// sockets, each of which has sent to it.
func (p *peer) open() {
	moved, tried := p.s.moved.Load(), false
	p.mu.Lock()
	waited := !p.waits.IsZero()
	p.mu.Unlock()
	ready := waited || p.pause(openAfter, moved, nil)
	p.mu.Lock()
	if _, _, rtt, _, ok := p.machine.Best(); ok && ready && !waited && rtt > openAfter/2 {
		p.mu.Unlock()
		ready = p.pause(2*rtt-openAfter, moved, nil)
		p.mu.Lock()
	}
	defer func() {
		p.opening = false
		p.mu.Unlock()
		if tried {
			p.s.turns()
		}
	}()
	if !ready || p.role() != punch.Open {
		return
	}
	var to []netip.AddrPort
	for _, a := range p.offered {
		if len(to) < maxTargets && p.isAt(a.Addr()) && p.probeable(a) && (len(to) == 0 || to[0].Addr() == a.Addr()) {
			to = append(to, a)
		}
	}
	if len(to) == 0 {
		if len(p.offered) > 0 {
			p.s.stats.punchesUnsure.Add(1)
			p.trace(Trace{Kind: TracePunch, Reason: "the peer's not tried: no relay of ours attests where the peer is"})
		}
		return
	}
	try := p.begin(&p.s.openings, to[0].Addr())
	if try == nil {
		return
	}
	tried = true
	p.trace(Trace{Kind: TracePunch, Reason: "ours: opening sockets for the peer to find"})
	defer p.s.finish(try, p, to[0].Addr())
	earlier := p.exit.Load()
	if earlier != nil {
		p.exit.Store(&exit{addr: earlier.addr, conn: earlier.conn}) // gives way to the first hit
	}
	p.mu.Unlock()
	conns := p.s.openExtra(to, p)
	if earlier != nil { // the way once more, or closed with the others
		conns = append(conns, earlier.conn)
	}
	p.holdOpen(conns, to, moved)
	p.mu.Lock()
	p.closeExtra(conns) // before another hit may be taken for the way
}

// holdOpen keeps the holes open until one of them is the way to the peer, or
// the peer has had its time.
func (p *peer) holdOpen(conns []*udp.Conn, to []netip.AddrPort, moved int64) {
	if len(conns) < fewSockets {
		p.s.log.Info("hard NAT not tried: too few sockets can be opened", "peer", p.key, "sockets", len(conns))
		return
	}
	p.s.log.Debug("holes made for the peer to find", "peer", p.key, "addr", to[0], "sockets", len(conns))
	p.spray(conns, to)
	p.tell(disco.PunchOpen)
	began, again := time.Now(), openAgain
	for p.pause(watchEvery, moved, nil) && p.stillOpen(began) {
		if time.Since(began) >= again {
			p.spray(conns, to)
			again += openAgain
		}
	}
	p.tell(disco.PunchDone)
}

// stillOpen tells whether holes that are open since then are still of use: the peer
// looks for them, or will.
func (p *peer) stillOpen(began time.Time) bool {
	now, from, most := time.Now(), began, openFor
	p.mu.Lock()
	if p.told.After(from) {
		from = p.told
	}
	p.mu.Unlock()
	if p.s.openings.Wanted(now) {
		most = turnFor
	}
	return now.Sub(from) < most && now.Sub(began) < holdFor
}

// haveWait says to the peer, now and then, that its holes are to stay open. The
// caller holds p.mu.
func (p *peer) haveWait() {
	if now := time.Now(); now.Sub(p.toldIt) >= waitAgain {
		p.toldIt = now
		p.punch = disco.Punch{State: disco.PunchWait}
		p.call(p.s.time(p.s.now()))
		p.punch = disco.Punch{}
	}
}

// tell says to the peer where we stand.
func (p *peer) tell(state disco.PunchState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.punch = disco.Punch{State: state}
	if state == disco.PunchOpen {
		p.punch.Ports = p.s.network.Load().ports
	}
	p.call(p.s.time(p.s.now()))
	if state == disco.PunchDone {
		p.punch = disco.Punch{}
	}
}

// openExtra opens sockets for one peer, as many as are of use and as this
// system gives without want for others.
func (s *Socket) openExtra(to []netip.AddrPort, p *peer) []*udp.Conn {
	at := s.udpFor(false).LocalAddr().Addr()
	var conns []*udp.Conn
	for range min(punch.Sockets, spareSockets()) {
		c, err := udp.Listen("udp4", netip.AddrPortFrom(at, 0))
		if err != nil {
			s.log.Debug("no more sockets", "err", err)
			break
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = c.Close()
			break
		}
		s.extra[c] = struct{}{}
		s.wg.Go(func() { s.readExtra(c, p, to) })
		s.mu.Unlock()
		conns = append(conns, c)
	}
	return conns
}

// closeExtra closes all but the one that is the way to the peer. The caller
// holds p.mu.
func (p *peer) closeExtra(conns []*udp.Conn) {
	e := p.exit.Load()
	if e != nil {
		st := p.machine.State(path.ID{Addr: e.addr})
		if isClosed(p.gone) || st != path.Valid && st != path.Suspect {
			p.exit.Store(nil)
			e = nil
		}
	}
	for _, c := range conns {
		if e == nil || c != e.conn {
			_ = c.Close()
		}
	}
}

// dropExit closes the socket of a path that is no more: its hole is gone with
// it. The caller holds p.mu.
func (p *peer) dropExit() {
	e := p.exit.Load()
	if e == nil || p.opening {
		return
	}
	if st := p.machine.State(path.ID{Addr: e.addr}); st == path.Dead || st == path.Unknown {
		p.exit.Store(nil)
		_ = e.conn.Close()
	}
}

// spray sends an introduction from each socket to the peer.
func (p *peer) spray(conns []*udp.Conn, to []netip.AddrPort) {
	box, err := p.s.id.SealIntroduction(nil, p.key, disco.Ping{TxID: disco.NewTxID(), BootID: p.s.boot})
	if err != nil {
		return
	}
	for i, c := range conns {
		for _, a := range to {
			if c.Write(box, a, 0, 0) == nil {
				p.s.stats.punchOpeners.Add(1)
			}
		}
		if i%32 == 31 {
			time.Sleep(time.Millisecond) // routers have short queues
		}
	}
}

// readExtra takes what comes to an extra socket until it is closed: first only
// the peer's pings, and everything once it is the way to the peer.
func (s *Socket) readExtra(c *udp.Conn, p *peer, to []netip.AddrPort) {
	defer func() {
		s.mu.Lock()
		delete(s.extra, c)
		s.mu.Unlock()
		_ = c.Close()
	}()
	ms := []udp.Message{{Buf: make([]byte, 2*MaxPacket)}}
	for {
		if _, err := c.ReadBatch(ms); err != nil {
			return
		}
		m := ms[0]
		if m.Segment > 0 {
			m.N = m.Segment // the others are as good as it
		}
		if m.N > 0 && slices.Contains(to, m.From) && p.hit(c, m.From, m.Buf[:m.N]) {
			s.readUDP(c)
			return
		}
	}
}

// hit takes a packet that came through one of the holes; true when that hole
// is the way to the peer from now on.
func (p *peer) hit(c *udp.Conn, from netip.AddrPort, b []byte) bool {
	if kind, ok := disco.KindOf(b); !ok || kind == disco.Introduction && !p.s.sources.allow(from.Addr()) {
		return false
	}
	k, msg, err := p.s.id.OpenDirect(b)
	if err != nil || k != p.key {
		p.s.stats.badBox.Add(1)
		return false
	}
	ping, ok := msg.(disco.Ping)
	if !ok {
		return false
	}
	if !p.fresh(msg) {
		p.s.stats.replayed.Add(1)
		return false
	}
	id := path.ID{Addr: from}
	now := time.Now()
	p.mu.Lock()
	if e := p.exit.Load(); p.machine.State(id) == path.Valid || !p.opening || e != nil && now.Sub(e.at) < hitFor {
		p.mu.Unlock()
		return false
	}
	p.exit.Store(&exit{from, c, now})
	p.machine.Found(p.s.time(p.s.now()), id, true)
	p.apply()
	p.mu.Unlock()
	p.sendDisco(id, disco.Pong{TxID: ping.TxID, BootID: p.s.boot, Observed: from})
	p.wake()
	return true
}

// sendDirect is [Socket.sendDirect] for an address of the peer, by the socket
// through whose hole it is reached.
func (p *peer) sendDirect(b []byte, to netip.AddrPort, segment int, ecn byte) error {
	if e := p.exit.Load(); e != nil && e.addr == to {
		return p.s.sendOn(e.conn, b, to, segment, ecn)
	}
	return p.s.sendDirect(b, to, segment, ecn)
}

// beginProbing looks for the peer's holes, if it may be. The caller holds p.mu.
func (p *peer) beginProbing(samples []uint16) {
	ip := p.answeredFrom
	if n := len(p.witnesses); n > 0 && p.isAt(p.witnesses[n-1].ip) {
		ip = p.witnesses[n-1].ip
	}
	if !p.isAt(ip) || !p.s.punchable(ip) {
		p.s.stats.punchesUnsure.Add(1)
		p.s.log.Debug("hard NAT not tried: no relay of ours attests where the peer is", "peer", p.key)
		return
	}
	try := p.begin(&p.s.probings, ip)
	if try == nil {
		if !p.waits.IsZero() {
			p.haveWait()
		}
		return
	}
	p.trace(Trace{Kind: TracePunch, Reason: "the peer's: looking for its sockets at one port after another"})
	ports := slices.Concat(samples, p.local)
	stop := make(chan struct{})
	if !p.s.spawn(func() { p.probe(try, ip, ports, stop) }) {
		try.End(time.Now(), false)
		return
	}
	p.stop = stop
}

// probe sends to one port after another of the peer's NAT until the peer is
// reached straight, at the pace of package punch.
func (p *peer) probe(try *punch.Try, ip netip.Addr, samples []uint16, stop chan struct{}) {
	defer p.s.turns()
	defer p.s.finish(try, p, ip)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	clogged := make(chan struct{})
	if p.s.cfg.Reflects != nil {
		if !p.s.spawn(func() { p.s.watchReflection(ctx, clogged) }) {
			return
		}
	}
	p.s.log.Debug("looking for a hole of the peer's NAT", "peer", p.key, "addr", ip)
	sent := p.sweep(ip, samples, stop, clogged)
	p.mu.Lock()
	if p.stop == stop {
		p.stop = nil
	}
	p.mu.Unlock()
	moved := p.s.moved.Load()
	for range int(settleFor / watchEvery) {
		if !p.pause(watchEvery, moved, nil) {
			break
		}
	}
	p.s.log.Debug("looked for a hole of the peer's NAT", "peer", p.key, "addr", ip, "sent", sent, "direct", p.direct.Load())
}

// sweep sends the probes and says how many.
func (p *peer) sweep(ip netip.Addr, samples []uint16, stop, clogged <-chan struct{}) (sent int) {
	var seed [16]byte
	_, _ = crand.Read(seed[:]) // never fails
	ports := punch.NewPorts(samples, rand.New(rand.NewPCG(binary.BigEndian.Uint64(seed[:8]), binary.BigEndian.Uint64(seed[8:]))))
	pace, moved := punch.NewPace(time.Now()), p.s.moved.Load()
	for {
		n, next, over := pace.Take(time.Now())
		if over || pace.Slow() && p.s.probings.Wanted(time.Now()) {
			return sent // the others' turn
		}
		if n > 0 {
			// A box of its own each time: a peer takes it once, and after a hit that
			// led nowhere should take the next.
			box, err := p.s.id.SealIntroduction(nil, p.key, disco.Ping{TxID: disco.NewTxID(), BootID: p.s.boot})
			if err != nil {
				return sent
			}
			for range n {
				port, ok := ports.Next()
				if !ok {
					return sent
				}
				if to := netip.AddrPortFrom(ip, port); p.probeable(to) && p.s.WriteRaw(box, to) == nil {
					p.s.stats.punchProbes.Add(1)
					sent++
				}
			}
		}
		select {
		case <-clogged:
			p.s.stats.punchesStopped.Add(1)
			p.s.log.Info("gave up on a hard NAT: reflectors stopped answering, our router's table may be full", "peer", p.key, "sent", sent)
			return sent
		default:
		}
		if !p.pause(time.Until(next), moved, stop) {
			return sent
		}
	}
}

// watchReflection asks reflectors all the time, and closes clogged when they
// stop answering: the table of a router on the way is full.
func (s *Socket) watchReflection(ctx context.Context, clogged chan<- struct{}) {
	limit := askFirst
	for misses := 0; misses < askMisses; {
		asked := time.Now()
		one, cancel := context.WithTimeout(ctx, limit)
		ok := s.cfg.Reflects(one)
		cancel()
		took := time.Since(asked)
		if ok {
			misses, limit = 0, max(fewestAsks, 3*took+50*time.Millisecond)
		} else {
			misses++
		}
		select {
		case <-ctx.Done():
			return
		case <-s.done:
			return
		case <-time.After(max(0, askEvery-took)):
		}
	}
	close(clogged)
}
