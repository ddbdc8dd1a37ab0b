package socket

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

const (
	busyTick     = 50 * time.Millisecond // how often a peer with traffic is looked at
	maxPending   = 128                   // pings without an answer yet
	pingTimeout  = 10 * time.Second      // after that the answer no longer counts
	replayLen    = 8                     // packets kept for the first path that works
	replayFor    = 2 * time.Second
	refreshEvery = 5 * time.Second

	keepAliveSize = 64 // a QUIC packet with a PING or an ACK in it
)

// peer is one node the socket exchanges packets with.
type peer struct {
	s    *Socket
	key  relay.Key
	addr *net.UDPAddr  // virtual
	gone chan struct{} // closed when forgotten
	born int64

	// The data plane reads and writes these without a lock (PATH-8).
	route      atomic.Pointer[[]path.ID]
	proven     atomic.Pointer[[]relay.Key] // relays on whose present link a valid box came
	lastSent   atomic.Int64
	lastRecv   atomic.Int64
	lastData   atomic.Int64 // in either direction, keep-alives apart
	unanswered atomic.Int64
	due        atomic.Int64 // when the loop looks next; 0 when it does not run
	pins       atomic.Int32
	settled    atomic.Bool // the best path is valid

	mu        sync.Mutex
	machine   path.Machine
	pending   map[disco.TxID]pending
	seen      disco.Window
	boots     disco.Boots
	waiting   []waiting // the last packets, while no path has answered
	changed   chan struct{}
	running   bool
	refreshed time.Time
	kick      chan struct{}
}

type pending struct {
	id   path.ID
	sent time.Time
}

type waiting struct {
	data []byte
	at   int64
}

func newPeer(s *Socket, k relay.Key) *peer {
	return &peer{
		s:       s,
		key:     k,
		addr:    net.UDPAddrFromAddrPort(VirtualAddr(k)),
		gone:    make(chan struct{}),
		born:    s.now(),
		pending: make(map[disco.TxID]pending),
		changed: make(chan struct{}),
		kick:    make(chan struct{}, 1),
	}
}

func (p *peer) pin()         { p.pins.Add(1) }
func (p *peer) unpin()       { p.pins.Add(-1) }
func (p *peer) pinned() bool { return p.pins.Load() > 0 }

// active tells that the peer is still of interest.
func (p *peer) active(now int64) bool {
	return time.Duration(now-max(p.born, p.lastData.Load())) < coldAfter
}

// heard notes that something of the peer arrived.
func (p *peer) heard(now int64) {
	p.lastRecv.Store(now)
	if p.unanswered.Load() != 0 {
		p.unanswered.Store(0)
	}
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

// send gives a packet to the path, or to every candidate while none has
// answered.
func (p *peer) send(b []byte) {
	now := p.s.now()
	p.lastSent.Store(now)
	p.used(len(b), now)
	p.unanswered.CompareAndSwap(0, now)
	if due := p.due.Load(); due == 0 || time.Duration(due-now) > 2*busyTick {
		p.wake()
	}
	route := p.route.Load()
	if !p.settled.Load() {
		p.keep(b, now)
	}
	if route == nil || len(*route) == 0 {
		p.s.stats.noPath.Add(1)
		return
	}
	for _, id := range *route {
		_ = p.s.cfg.Relays.Send(id.Relay, p.key, relay.FrameData, b) // loss is QUIC's to mend
	}
}

// keep remembers the last packets sent before any path answered, so that the
// first one that does need not wait for QUIC to send them again (PATH-18).
func (p *peer) keep(b []byte, now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == replayLen {
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
	p.waiting = append(p.waiting, waiting{slices.Clone(b), now})
}

// fresh refuses a ping seen before, or of an earlier boot than one seen
// (PATH-11).
func (p *peer) fresh(m disco.Ping) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.boots.Check(m.BootID, false) != disco.BootStale && p.seen.Add(m.TxID)
}

// pong takes the answer to a ping of ours. It proves its boot id to be fresh:
// a peer that has booted since has lost every path it had (PATH-11).
func (p *peer) pong(id path.ID, m disco.Pong) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ping, ok := p.pending[m.TxID]
	if !ok || ping.id != id {
		return false
	}
	delete(p.pending, m.TxID)
	now := p.s.time(p.s.now())
	if m.BootID != (disco.BootID{}) && p.boots.Check(m.BootID, true) == disco.BootRestarted {
		for _, o := range p.machine.IDs() {
			if o != id {
				p.machine.Lost(now, o, "peer was restarted", true)
			}
		}
	}
	p.machine.Pong(now, id, ping.sent)
	p.apply()
	return true
}

func (p *peer) lost(id path.ID, reason string, retry bool) {
	p.mu.Lock()
	p.machine.Lost(p.s.time(p.s.now()), id, reason, retry)
	p.apply()
	p.mu.Unlock()
	p.wake()
}

// apply carries out what the machine decided. The caller holds p.mu.
func (p *peer) apply() {
	now := p.s.now()
	for _, id := range p.machine.Pings() {
		p.ping(id)
	}
	_, state, _, _, ok := p.machine.Best()
	p.settled.Store(ok && state == path.Valid)
	old := p.route.Load()
	route := p.machine.Route()
	if old == nil || !slices.Equal(*old, route) {
		p.route.Store(&route)
		p.replay(old, route, now)
		close(p.changed)
		p.changed = make(chan struct{})
	}
	for _, ev := range p.machine.Events() {
		p.s.log.Debug("path changed", "peer", p.key, "path", ev.Path.Kind(), "event", ev.Kind, "relay", relay.Key(ev.Path.Relay), "reason", ev.Reason)
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

// replay sends the packets kept over paths that were not there when they were
// sent.
func (p *peer) replay(old *[]path.ID, route []path.ID, now int64) {
	for _, id := range route {
		if old != nil && slices.Contains(*old, id) {
			continue
		}
		for _, w := range p.waiting {
			if time.Duration(now-w.at) < replayFor {
				_ = p.s.cfg.Relays.Send(id.Relay, p.key, relay.FrameData, w.data)
			}
		}
	}
	if p.settled.Load() {
		p.waiting = nil
	}
}

func (p *peer) ping(id path.ID) {
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
	p.pending[tx] = pending{id, now}
	p.s.sendDisco(id, p.key, disco.Ping{TxID: tx, BootID: p.s.boot})
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
			LastRecv:   p.s.time(p.lastRecv.Load()),
			Unanswered: p.s.time(p.unanswered.Load()),
			Held:       p.pinned(),
		})
		p.apply()
		p.mu.Unlock()
		if !p.active(now) && p.s.forgetCold(p) {
			return
		}
		wait := coldAfter
		if !due.IsZero() {
			wait = due.Sub(p.s.time(now))
		}
		if time.Duration(now-p.lastSent.Load()) < time.Second {
			wait = min(wait, busyTick)
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
