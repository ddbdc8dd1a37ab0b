package udp

import "net/netip"

// ListenPlain is Listen with the driver of systems other than Linux.
func ListenPlain(network string, addr netip.AddrPort) (*Conn, error) {
	return listen(network, addr, newPlain)
}
