package socket

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// QUIC keeps the window it learnt on a slow relay when packets go straight
// (PATH-22). It forgets it when it migrates, which it is made to do once for each
// connection. Its server does when the client's address changes: the label is
// then another port. Its client does when it moves to another socket, a
// [Socket.Second], after it had an answer from there; the server answers what
// comes from another address than the client's, so that those questions are
// marked (SPEC.md, "Second port").
const (
	secondPort   = 2 // in the place of which half
	secondHeader = 2
	questionSize = 1200 // to which QUIC pads questions (RFC 9000, section 8.2.1)
	probePort    = virtualPort - 1
	lastPort     = virtualPort + 1000

	// youngFor is how long a connection is left alone after it was dialled or
	// accepted. Its first packets may come twice, over a relay and straight; and
	// QUIC (quic-go until v0.65.0) that is told a second time of the connection ID it
	// uses, while it probes with a later one, retires it in a packet to itself, which
	// ends the connection (RFC 9000, section 19.16).
	youngFor = 2 * time.Second
)

// becameDirect tells QUIC of the first direct path after a relayed one. The
// caller holds p.mu.
func (p *peer) becameDirect() {
	if !p.relayed || !p.direct.Load() || !p.pinned() || time.Duration(p.s.now()-p.pinnedAt.Load()) < youngFor {
		return
	}
	if best, _, _, _, _ := p.machine.Best(); best.TCP {
		return // marks go in datagrams; and perhaps those come yet
	}
	if p.unmoved.CompareAndSwap(true, false) {
		label := *p.label.Load()
		if label.Port++; label.Port > lastPort {
			label.Port = virtualPort
		}
		p.label.Store(&label)
	}
	for _, f := range p.onDirect {
		(*f)()
	}
	p.onDirect = nil
}

// OnDirect calls f once, when packets to the peer have gone over a relay and go
// straight, and no connection to it is younger than two seconds: perhaps at once. f must not block and must not call the Socket. It
// is not called after cancel has returned.
func (s *Socket) OnDirect(k relay.Key, f func()) (cancel func()) {
	p := s.peer(k)
	if p == nil {
		return func() {}
	}
	p.mu.Lock()
	p.onDirect = append(p.onDirect, &f)
	p.becameDirect()
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.onDirect = slices.DeleteFunc(p.onDirect, func(g *func()) bool { return g == &f })
		p.mu.Unlock()
	}
}

// Probing says that what a Second sends to the peer are questions, from now on
// or no more.
func (s *Socket) Probing(k relay.Key, on bool) {
	if p := s.peer(k); p != nil {
		p.probing.Store(on)
	}
}

// sendSecond is send for a Second. Another connection to the peer, which has moved
// there before, sends what is no question meanwhile.
func (p *peer) sendSecond(b []byte, segment int, ecn byte) {
	if !p.probing.Load() || len(b) != questionSize {
		p.send(b, segment, ecn)
		return
	}
	route := p.route.Load()
	if route == nil || len(*route) == 0 || (*route)[0].Kind() != path.Direct || (*route)[0].TCP {
		p.s.stats.noPath.Add(1) // QUIC asks again
		return
	}
	_ = p.sendDirect(appendSecond(b), (*route)[0].Addr, 0, ecn)
}

// appendSecond marks a packet as coming from the second port.
func appendSecond(packet []byte) []byte { return append([]byte{halfByte, secondPort}, packet...) }

// parseSecond takes the mark off again. The packet lies in b.
func parseSecond(b []byte) (packet []byte, ok bool) {
	if len(b) <= secondHeader || len(b) > narrowPacket || b[0] != halfByte || b[1] != secondPort {
		return nil, false
	}
	return b[secondHeader:], b[secondHeader]&0xc0 != 0
}

// receiveSecond takes a question of the peer's second port (PATH-8).
func (s *Socket) receiveSecond(from netip.AddrPort, ecn byte, b []byte) {
	p := s.index.byPath.get(from)
	if p == nil {
		s.stats.unproven.Add(1)
		return
	}
	packet, ok := parseSecond(b)
	if !ok {
		s.stats.badHalf.Add(1)
		return
	}
	buf := s.buffers.Get().(*[MaxPacket]byte)
	label := *p.addr
	label.Port = probePort
	s.deliverBuf(p, path.ID{Addr: from}, ecn, buf, copy(buf[:], packet), &label)
}

// mute is the reading half of a Second: nothing ever comes.
type mute struct {
	s        *Socket
	deadline deadline
}

func (m *mute) wait() error {
	select {
	case <-m.deadline.wait():
		return timeoutError{}
	case <-m.s.done:
		return net.ErrClosed
	}
}

// plainSecond is a Second without control messages.
type plainSecond struct {
	*Socket
	mute *mute
}

// ReadFrom waits for the deadline.
func (c *plainSecond) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, c.mute.wait() }

// WriteTo sends from the second port.
func (c *plainSecond) WriteTo(b []byte, addr net.Addr) (int, error) {
	p := c.byVirtual(addr)
	if p == nil || len(b) > MaxPacket {
		c.stats.noPath.Add(1)
		return len(b), nil
	}
	p.sendSecond(b, 0, 0)
	return len(b), nil
}

// SetReadDeadline wakes who waits in a read.
func (c *plainSecond) SetReadDeadline(t time.Time) error {
	c.mute.deadline.set(t)
	return nil
}

// SetDeadline is SetReadDeadline; writes never block.
func (c *plainSecond) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// Close does nothing.
func (c *plainSecond) Close() error { return nil }
