package socket

import (
	"net"
	"net/netip"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// Quiet is how long the peer may be silent while data waits.
func (s *Socket) Quiet(k relay.Key) time.Duration { return time.Duration(s.peer(k).quiet.Load()) }

// WriteTrain sends packets of size segment to an address as QUIC's are sent.
func (s *Socket) WriteTrain(b []byte, to netip.AddrPort, segment int) error {
	return s.udpFor(to.Addr().Is6()).Write(b, to, segment, 0)
}

// CutTCP ends the TCP connections to the peer.
func (s *Socket) CutTCP(k relay.Key) { s.peer(k).closeTCP() }

// UDPAddr is where the socket's UDP is.
func (s *Socket) UDPAddr() netip.AddrPort { return s.cfg.UDP[0].LocalAddr() }

// Wide tells whether packets to the peer take a direct path whole.
func (s *Socket) Wide(k relay.Key) bool {
	p := s.peer(k)
	id, _, _, ok := s.Path(k)
	return ok && p.isWide(id.Addr)
}

// Extra is how many sockets are open beside those of Config.UDP.
func (s *Socket) Extra() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.extra)
}

// AllowsIntroduction counts an introduction from the address against the limits.
func (s *Socket) AllowsIntroduction(from netip.Addr) bool { return s.sources.allow(from) }

// SentTo is where packets to an address are really sent.
func SentTo(s *Socket, to netip.AddrPort) netip.AddrPort {
	_, at := s.exit(to)
	return at
}

// SeenAt is where packets from an address are taken to come from.
func SeenAt(s *Socket, from netip.AddrPort) netip.AddrPort { return s.plain(from) }

// Translated tells that nobody is taken to be at an address.
func Translated(s *Socket, ip netip.Addr) bool { return s.translated(ip) }

// PlaceWeb gives places to n connections to port 443, as if each proved at once
// whose it is, and tells how many got one.
func (s *Socket) PlaceWeb(n int) (placed int) {
	for i := range n {
		if c := connFrom(byte(i), true); s.tcp.place(c) {
			placed++
			s.tcp.mu.Lock()
			s.tcp.release(c)
			s.tcp.mu.Unlock()
		}
	}
	return placed
}

// PlaceWebOf gives a place to a connection that the peer made to port 443, and
// returns the other end of it.
func (s *Socket) PlaceWebOf(k relay.Key) (far net.Conn, ok bool) {
	near, far := net.Pipe()
	c := connFrom(255, true)
	c.conn = tcp.Carry(near, c.id.Addr)
	c.peer.Store(s.peer(k))
	return far, s.tcp.place(c)
}

// PlaceTCP gives a place to a connection to a port of UDP's number.
func (s *Socket) PlaceTCP() bool { return s.tcp.place(connFrom(0, false)) }

// connFrom is a connection that somebody opened, from an address of its own.
func connFrom(i byte, web bool) *tcpConn {
	a, _ := net.Pipe()
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{31, 21, 0, i}), 5000)
	return &tcpConn{conn: tcp.Carry(a, at), id: path.ID{Addr: at, TCP: true, Web: web}, accepted: true, ended: make(chan struct{})}
}

// HoldTCP takes all tries by TCP that may be under way, until release is called.
func (s *Socket) HoldTCP() (release func()) {
	for range cap(s.tcp.dials) {
		s.tcp.dials <- struct{}{}
	}
	return func() {
		for range cap(s.tcp.dials) {
			<-s.tcp.dials
		}
	}
}

// StillOpen tells whether holes made for the peer at that time would be kept.
func (s *Socket) StillOpen(k relay.Key, since time.Time) bool { return s.peer(k).stillOpen(since) }

// Pinged are, for the pings to the peer that were not answered yet, the times by
// which the machine shall know them, and those of its last ping over each one's path.
func (s *Socket) Pinged(k relay.Key) (known, last []time.Time) {
	p := s.peer(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, asked := range p.pending {
		if !asked.aside {
			known, last = append(known, asked.pinged), append(last, p.machine.Pinged(asked.id))
		}
	}
	return known, last
}
