package socket

import "net/netip"

// WriteTrain sends packets of size segment to an address as QUIC's are sent.
func (s *Socket) WriteTrain(b []byte, to netip.AddrPort, segment int) error {
	return s.udpFor(to.Addr().Is6()).Write(b, to, segment, 0)
}
