package socket

import (
	"net/netip"

	"github.com/alkdev/alknet-p2p/transport/magic/nat64"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

// SetNAT64 tells by which prefix this network reaches IPv4, which it has none of
// its own; the zero Prefix when it has, or there is no NAT64. Public IPv4
// addresses of peers are reached by it, and known as IPv4 all the same (PATH-24).
func (s *Socket) SetNAT64(p netip.Prefix) {
	if !p.IsValid() {
		s.nat64.Store(nil)
		return
	}
	s.nat64.Store(&p)
}

// exit is the socket by which an address is reached, nil without one, and where
// to send.
func (s *Socket) exit(to netip.AddrPort) (*udp.Conn, netip.AddrPort) {
	if p := s.nat64.Load(); p != nil && nat64.Public(to.Addr()) {
		to = netip.AddrPortFrom(nat64.Synthesize(*p, to.Addr()), to.Port())
	}
	return s.udpFor(to.Addr().Is6()), to
}

// plain is where something comes from that was seen to come from an address.
func (s *Socket) plain(from netip.AddrPort) netip.AddrPort {
	if p := s.nat64.Load(); p != nil {
		if v4 := nat64.Extract(*p, from.Addr()); nat64.Public(v4) {
			return netip.AddrPortFrom(v4, from.Port())
		}
	}
	return from
}

// translated tells that an IPv6 address stands for an IPv4 one.
func (s *Socket) translated(ip netip.Addr) bool {
	p := s.nat64.Load()
	return p != nil && nat64.Extract(*p, ip).IsValid()
}
