package socket

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

const (
	busyTick     = 50 * time.Millisecond // how often a peer with traffic is looked at
	maxPending   = 128                   // pings without an answer yet
	pingTimeout  = 10 * time.Second      // after that the answer no longer counts
	refreshEvery = 5 * time.Second

	ackDelay = 30 * time.Millisecond // for which QUIC may hold back an acknowledgement, and some

	keepAliveSize = 64 // a QUIC packet with a PING or an ACK in it
)

// peer is one node the socket exchanges packets with.
type peer struct {
	s    *Socket
	key  relay.Key
	addr *net.UDPAddr  // virtual
	gone chan struct{} // closed when forgotten
	born int64

	taken []netip.AddrPort // addresses at which the index has it; under Socket.mu

	pinning sync.Mutex // held over a change of pins and what it means to the keys

	// The data plane reads and writes these without a lock (PATH-8).
	route      atomic.Pointer[[]path.ID]
	proven     atomic.Pointer[[]relay.Key] // relays on whose present link a valid box came
	lastSent   atomic.Int64
	lastRecv   atomic.Int64
	bestRecv   atomic.Int64 // over the path that ours takes
	quiet      atomic.Int64 // a longer silence means that packets were lost
	missed     atomic.Int64 // after this one the path is asked
	longest    atomic.Int64 // silence over that path, since the last beat of the loop
	lastData   atomic.Int64 // in either direction, keep-alives apart
	unanswered atomic.Int64
	due        atomic.Int64 // when the loop looks next; 0 when it does not run
	pins       atomic.Int32
	pinnedAt   atomic.Int64                     // by the youngest connection
	settled    atomic.Bool                      // the best path is valid
	direct     atomic.Bool                      // and it is direct
	admitted   atomic.Bool                      // may know our addresses (PATH-13)
	dialled    atomic.Bool                      // by this node
	doubted    atomic.Int64                     // when a packet last came over another path than our direct one
	answerIn   atomic.Int64                     // time in which QUIC answers over the best path
	repeated   atomic.Int64                     // when the last packets were sent again for a ping
	owing      atomic.Bool                      // a pong ended a silence in which packets were lost
	wide       atomic.Pointer[[]netip.AddrPort] // direct paths that carry MaxPacket
	wideSent   atomic.Int64                     // packets for whose sake that is asked again
	halves     atomic.Pointer[halves]
	label      atomic.Pointer[net.UDPAddr] // where its packets come from, as QUIC sees it
	unmoved    atomic.Bool                 // no connection had a new label yet
	probing    atomic.Bool                 // our QUIC asks about its second port
	exit       atomic.Pointer[exit]        // the socket by which one of its addresses is sent to; nil: the common ones

	mu         sync.Mutex
	machine    path.Machine
	pending    map[disco.TxID]pending
	seen       disco.Window
	boots      disco.Boots
	paths      []netip.AddrPort  // direct paths its packets are taken from
	took       disco.CallMeMaybe // the last one taken, without its transaction
	tookAt     time.Time
	held       *disco.CallMeMaybe // the latest that came too early
	called     time.Time          // when our addresses were last sent
	greeted    disco.BootID       // what the peer introduced last
	changed    chan struct{}
	running    bool
	refreshed  time.Time
	kick       chan struct{}
	widths     map[netip.AddrPort]*path.Width // of direct paths that work
	widthAsked time.Time
	relayed    bool      // packets went over a relay
	onDirect   []*func() // called once when they do not any more
	silences   silences

	tcp   tcpWays
	holes // through hard NATs; under mu

	asks   *rate.Limiter // CallMeMaybes taken: each one makes us knock
	recent ring          // the last packets sent
}

type pending struct {
	id     path.ID
	sent   time.Time
	pinged time.Time // the same to the machine, which tells its pings apart by that
	wide   bool      // asked whether the path carries MaxPacket
	aside  bool      // not for the machine
}

func newPeer(s *Socket, k relay.Key) *peer {
	p := &peer{
		s:       s,
		key:     k,
		addr:    net.UDPAddrFromAddrPort(VirtualAddr(k)),
		gone:    make(chan struct{}),
		born:    s.now(),
		pending: make(map[disco.TxID]pending),
		changed: make(chan struct{}),
		asks:    rate.NewLimiter(asksPerSecond, asksAtOnce),
		kick:    make(chan struct{}, 1),
	}
	p.label.Store(p.addr)
	return p
}

// pin keeps the peer, and its keys, for a connection, whoever else comes
// (PATH-14).
func (p *peer) pin() error {
	p.pinning.Lock()
	defer p.pinning.Unlock()
	if p.pins.Load() == 0 {
		if err := p.s.id.Pin(p.key); err != nil {
			return err
		}
	}
	p.pinnedAt.Store(p.s.now())
	p.pins.Add(1)
	p.unmoved.Store(true)
	return nil
}

func (p *peer) unpin() {
	p.pinning.Lock()
	defer p.pinning.Unlock()
	if p.pins.Add(-1) == 0 {
		p.s.id.Unpin(p.key)
	}
}

func (p *peer) pinned() bool { return p.pins.Load() > 0 }

// active tells that the peer is still of interest.
func (p *peer) active(now int64) bool {
	return time.Duration(now-max(p.born, p.lastData.Load())) < coldAfter
}

// cold tells that nobody speaks of or with the peer any more. One that pings comes
// back: what it says next must not meet a peer that was just forgotten.
func (p *peer) cold(now int64) bool {
	return !p.active(now) && time.Duration(now-p.lastRecv.Load()) >= coldAfter
}

// heard notes that something of the peer came over a path. Probes over another
// path than ours say nothing about ours. late tells that it ends a silence too
// long for the path.
func (p *peer) heard(id path.ID, data bool, now int64) (late bool) {
	p.lastRecv.Store(now)
	route := p.route.Load()
	ours := route != nil && len(*route) > 0 && (*route)[0] == id
	if ours {
		if silence := now - p.bestRecv.Swap(now); silence > p.longest.Load() {
			p.longest.Store(silence)
		}
	}
	if !ours && !data && p.settled.Load() {
		return false
	}
	since := p.unanswered.Load()
	return since != 0 && p.unanswered.CompareAndSwap(since, 0) && now-since >= p.quiet.Load()
}

// sendAgain repeats the last packets after a silence in which they were lost:
// QUIC itself waits ever longer before it tries (PATH-18).
func (p *peer) sendAgain(now int64) {
	if route := p.route.Load(); route != nil {
		for _, id := range *route {
			p.replayOver(id, now)
		}
	}
}

// repeat sends the last packets again over a path in use from which the peer
// asks though they should have been answered by now: its link was away, perhaps,
// and what came before its ping was dropped. QUIC, which has had its own tries in
// the silence, waits longer for its next one (PATH-18).
func (p *peer) repeat(id path.ID, now int64) {
	route := p.route.Load()
	if route == nil || !slices.Contains(*route, id) {
		return
	}
	if last := p.repeated.Load(); now-last < p.quiet.Load() || !p.repeated.CompareAndSwap(last, now) {
		return
	}
	p.replayOver(id, now)
}

// used notes traffic. What is as small as a keep-alive is no sign that anybody
// uses the connection (PATH-17).
func (p *peer) used(size int, now int64) {
	if size > keepAliveSize {
		p.lastData.Store(now)
	}
}

func (p *peer) isProven(via relay.Key) bool {
	list := p.proven.Load()
	return list != nil && slices.Contains(*list, via)
}

func (p *peer) prove(via relay.Key) {
	if p.isProven(via) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proveLocked(via)
}

// proveLocked is prove for a caller that holds p.mu.
func (p *peer) proveLocked(via relay.Key) {
	var list []relay.Key
	if old := p.proven.Load(); old != nil {
		list = slices.Clone(*old)
	}
	if !slices.Contains(list, via) {
		list = append(list, via)
		p.proven.Store(&list)
	}
}

func (p *peer) disprove(via relay.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.proven.Load()
	if old == nil || !slices.Contains(*old, via) {
		return
	}
	list := slices.DeleteFunc(slices.Clone(*old), func(k relay.Key) bool { return k == via })
	p.proven.Store(&list)
}

// send gives a packet, or several of size segment, to the path, or to every
// candidate while none has answered.
func (p *peer) send(b []byte, segment int, ecn byte) {
	if len(b) == 0 {
		return
	}
	now := p.s.now()
	p.lastSent.Store(now)
	p.used(len(b), now)
	p.unanswered.CompareAndSwap(0, now)
	if due := p.due.Load(); due == 0 || time.Duration(due-now) > 2*busyTick {
		p.wake()
	}
	if segment == 0 || segment >= len(b) {
		segment = len(b)
	}
	// Of a long train only the end may still be wanted.
	for tail := b[max(0, (len(b)-1)/segment+1-replayLen)*segment:]; len(tail) > 0; {
		n := min(segment, len(tail))
		p.recent.keep(tail[:n], ecn, now)
		tail = tail[n:]
	}
	route := p.route.Load()
	if route == nil || len(*route) == 0 {
		p.s.stats.noPath.Add(1)
		return
	}
	for i, id := range *route {
		if i == 0 || segment <= smallSize || p.mayDouble(id, len(b), now) {
			p.sendOver(id, b, segment, ecn)
		}
	}
}

func (p *peer) sendOver(id path.ID, b []byte, segment int, ecn byte) {
	if id.TCP {
		p.sendTCP(id, b, segment)
		return
	}
	if id.Kind() == path.Direct {
		p.sendStraight(id.Addr, b, segment, ecn)
		return
	}
	for len(b) > 0 {
		n := min(segment, len(b))
		_ = p.s.cfg.Relays.Send(id.Relay, p.key, relay.FrameData, ecn, b[:n]) // loss is QUIC's to mend
		b = b[n:]
	}
}

// cameOver notes data, or a ping while data waits, that came over another path
// than the one ours takes.
// Perhaps ours does not arrive: one direction can fail alone, and the peer can
// have moved (PATH-18). It says whether data goes over that path as well from now
// on; the last packets did already.
func (p *peer) cameOver(id path.ID) (doubled bool) {
	if !p.settled.Load() {
		return false
	}
	if r := p.route.Load(); r == nil || len(*r) != 1 || (*r)[0] == id {
		return false
	}
	now := p.s.now()
	if last := p.doubted.Load(); time.Duration(now-last) < busyTick || !p.doubted.CompareAndSwap(last, now) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.machine.Doubt(p.s.time(now), id)
	p.apply()
	return slices.Contains(*p.route.Load(), id)
}

// hello notes the boot a peer introduces: one that was restarted does not know
// our boot key any more, and is told again when it asks.
func (p *peer) hello(boot disco.BootID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if boot != p.greeted {
		p.greeted, p.called = boot, time.Time{}
	}
}

// gonePaths ends the path to an address of the peer, or to all of them.
func (p *peer) gonePaths(a netip.AddrPort) {
	p.mu.Lock()
	now := p.s.time(p.s.now())
	for _, id := range p.machine.IDs() {
		if id.Kind() == path.Direct && (!a.IsValid() || id.Addr == a && !id.TCP) {
			p.machine.Lost(now, id, "peer says it is gone", true)
		}
	}
	p.apply()
	p.mu.Unlock()
	p.wake()
}

// fresh refuses a message seen before, or of an earlier boot than one seen
// (PATH-11). A Pong is fresh by the ping it answers.
func (p *peer) fresh(m disco.Message) bool {
	tx, boot := m.Stamp()
	if _, ok := m.(disco.Pong); ok {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.boots.Check(boot, false) != disco.BootStale && p.seen.Add(tx)
}

// pong takes the answer to a ping of ours. It proves its boot id to be fresh:
// a peer that has booted since has lost every path it had (PATH-11).
func (p *peer) pong(id path.ID, m disco.Pong) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ping, ok := p.pending[m.TxID]
	if !ok || ping.id != id {
		p.s.stats.unknownPongs.Add(1)
		return false
	}
	delete(p.pending, m.TxID)
	if id.Kind() == path.Relayed {
		p.proveLocked(id.Relay)
	} else if !id.Web { // that may be a proxy's
		p.answeredFrom = id.Addr.Addr()
	}
	at := p.s.now()
	if p.heard(id, false, at) {
		p.owing.Store(true)
	}
	now := p.s.time(at)
	if m.BootID != (disco.BootID{}) && p.boots.Check(m.BootID, true) == disco.BootRestarted {
		for _, o := range p.machine.IDs() {
			if o != id && !p.outlives(o, m.BootID) {
				p.machine.Lost(now, o, "peer was restarted", true)
			}
		}
	}
	if !ping.aside {
		p.machine.Pong(now, id, ping.pinged)
	}
	p.apply()
	p.answered(ping, now)
	return true
}

func (p *peer) lost(id path.ID, reason string, retry bool) {
	p.mu.Lock()
	p.machine.Lost(p.s.time(p.s.now()), id, reason, retry)
	p.apply()
	p.mu.Unlock()
	p.wake()
}

// leave ends a path that is about to end by itself, if another one works.
func (p *peer) leave(id path.ID) {
	p.mu.Lock()
	other := slices.ContainsFunc(p.machine.IDs(), func(o path.ID) bool { return o != id && p.machine.State(o) == path.Valid })
	if other {
		p.machine.Lost(p.s.time(p.s.now()), id, "relay is going down", false)
		p.apply()
	}
	p.mu.Unlock()
}

// apply carries out what the machine decided. The caller holds p.mu.
func (p *peer) apply() {
	now := p.s.now()
	for _, id := range p.machine.Pings() {
		p.ping(id)
	}
	best, state, rtt, _, ok := p.machine.Best()
	p.answerIn.Store(int64(rtt + ackDelay))
	settled := ok && state == path.Valid
	again := !p.settled.Swap(settled) && settled
	direct := settled && best.Kind() == path.Direct
	if p.direct.Swap(direct) && !direct {
		p.punchOn()
	}
	p.relayed = p.relayed || settled && best.Kind() == path.Relayed
	p.quiet.Store(int64(p.machine.Quiet()))
	p.missed.Store(int64(p.machine.Missed(p.silences.longest())))
	old := p.route.Load()
	route := p.machine.Route()
	if old == nil || !slices.Equal(*old, route) {
		p.route.Store(&route)
		p.replay(old, route, now)
		close(p.changed)
		p.changed = make(chan struct{})
	}
	if again && old != nil && slices.Contains(*old, best) {
		p.replayOver(best, now) // what it carried while it did not work
	}
	p.takeFrom()
	p.dropExit()
	p.forgetWidths()
	p.becameDirect()
	for _, ev := range p.machine.Events() {
		p.s.log.Debug("path changed", "peer", p.key, "path", ev.Path.Kind(), "event", ev.Kind, "addr", ev.Path.Addr, "relay", relay.Key(ev.Path.Relay), "reason", ev.Reason)
		if p.s.cfg.Events != nil {
			p.s.cfg.Events(p.key, ev)
		}
	}
	if len(route) == 0 && p.pinned() && p.s.cfg.Refresh != nil {
		if t := p.s.time(now); t.Sub(p.refreshed) >= refreshEvery {
			p.refreshed = t
			p.s.cfg.Refresh(p.key)
		}
	}
}

// takeFrom makes the addresses that have answered those from which packets are
// taken (PATH-8). The caller holds p.mu.
func (p *peer) takeFrom() {
	p.takeFromTCP()
	var paths []netip.AddrPort
	for _, id := range p.machine.IDs() {
		if id.Kind() != path.Direct || id.TCP {
			continue
		}
		if st := p.machine.State(id); st == path.Valid || st == path.Suspect {
			paths = append(paths, id.Addr)
		}
	}
	if slices.Equal(paths, p.paths) {
		return
	}
	p.paths = paths
	p.s.mu.Lock()
	if p.s.peer(p.key) == p { // else it was forgotten just now
		p.s.index.setPaths(p, p.taken, paths)
		p.taken = paths
	}
	p.s.mu.Unlock()
}

// replay sends the last packets over paths that were not in use when they were
// sent, with their ECN marks: QUIC that is told of fewer marks than it sent does
// without them for the rest of the connection. Packets that came before count
// once: QUIC knows them.
func (p *peer) replay(old *[]path.ID, route []path.ID, now int64) {
	for _, id := range route {
		if old == nil || !slices.Contains(*old, id) {
			p.recent.eachSmall(now, func(b []byte, ecn byte) { p.sendOver(id, b, len(b), ecn) })
			p.replayOver(id, now)
		}
	}
}

func (p *peer) replayOver(id path.ID, now int64) {
	p.recent.each(now, func(b []byte, ecn byte) { p.sendOver(id, b, len(b), ecn) })
}

// ping asks a path for the machine. The caller holds p.mu.
func (p *peer) ping(id path.ID) {
	if !id.TCP && p.isWide(id.Addr) {
		p.pingSized(id, MaxPacket) // before the narrow one: see path.Width
	}
	p.sendPing(id, narrowPacket, false, false)
}

// sendPing sends a ping of the size, or over a relay the smallest. The caller
// holds p.mu.
func (p *peer) sendPing(id path.ID, size int, wide, aside bool) {
	tx := disco.NewTxID()
	now := p.s.time(p.s.now())
	if len(p.pending) >= maxPending {
		for k, v := range p.pending {
			if now.Sub(v.sent) > pingTimeout {
				delete(p.pending, k)
			}
		}
		if len(p.pending) >= maxPending {
			clear(p.pending)
		}
	}
	ping := disco.Ping{TxID: tx, BootID: p.s.boot}
	asked := pending{id: id, sent: now, pinged: p.machine.Pinged(id), wide: wide, aside: aside}
	if id.Kind() == path.Relayed {
		p.pending[tx] = asked
		p.sendDisco(id, ping)
		return
	}
	// Padded, so that the answer also tells that the path carries full packets
	// (PATH-9). An address that has not answered is introduced to.
	var box []byte
	var err error
	if id.TCP {
		p.pending[tx] = asked
		p.pingTCP(id, ping)
		return
	}
	if p.machine.State(id) == path.Valid {
		box, err = p.s.id.SealDirect(nil, p.key, ping.Sized(disco.Direct, size))
	} else {
		if p.machine.State(id) == path.Probing && !p.s.probes.Allow() {
			p.s.stats.probesHeld.Add(1)
			p.trace(Trace{Kind: TraceHeld, Addr: id.Addr})
			return
		}
		p.s.stats.probes.Add(1)
		p.trace(Trace{Kind: TraceProbed, Addr: id.Addr})
		box, err = p.s.id.SealIntroduction(nil, p.key, ping.Sized(disco.Introduction, size))
	}
	if err != nil {
		return
	}
	if wide {
		p.width(id.Addr).Asked(now, p.isWide(id.Addr))
	}
	p.pending[tx] = asked
	_ = p.sendDirect(box, id.Addr, 0, 0)
}

// wake makes the loop look now, starting it when it does not run.
func (p *peer) wake() {
	p.mu.Lock()
	start := !p.running
	p.running = true
	p.mu.Unlock()
	if !start {
		select {
		case p.kick <- struct{}{}:
		default:
		}
		return
	}
	p.s.mu.Lock()
	closed := p.s.closed
	if !closed {
		p.s.wg.Add(1)
	}
	p.s.mu.Unlock()
	if closed {
		p.mu.Lock()
		p.running = false
		p.mu.Unlock()
		return
	}
	go p.run()
}

// run lets the machine see time pass while the peer is of interest; it ends
// by itself once the peer is cold (PATH-17).
func (p *peer) run() {
	defer p.s.wg.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := p.s.now()
		p.mu.Lock()
		due := p.machine.Tick(p.s.time(now), path.Activity{
			LastData:   p.s.time(p.lastData.Load()),
			LastRecv:   p.s.time(p.bestRecv.Load()),
			Unanswered: p.s.time(p.unanswered.Load()),
			Held:       p.pinned(),
			Longest:    p.silent(now),
		})
		p.apply()
		p.checkWidth(p.s.time(now))
		if p.admitted.Load() && !p.direct.Load() && p.active(now) && p.s.time(now).Sub(p.called) >= callEvery {
			p.call(p.s.time(now))
		}
		p.takeHeld()
		held := p.held != nil
		p.considerTCP(p.s.time(now))
		p.mu.Unlock()
		if p.cold(now) && p.s.forgetCold(p) {
			return
		}
		if time.Duration(now-p.lastSent.Load()) > smallFor {
			p.recent.forget()
		}
		wait := coldAfter
		if !due.IsZero() {
			wait = due.Sub(p.s.time(now))
		}
		if time.Duration(now-p.lastSent.Load()) < time.Second {
			wait = min(wait, busyTick, time.Duration(p.missed.Load()))
		}
		if held {
			wait = min(wait, time.Second/asksPerSecond)
		}
		p.due.Store(now + int64(wait))
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-p.kick:
		case <-p.gone:
			return
		case <-p.s.done:
			return
		}
	}
}
