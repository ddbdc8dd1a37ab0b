//go:build !linux

package socket

import "net"

// PacketConn is the socket as QUIC should be given it.
func (s *Socket) PacketConn() net.PacketConn { return s }

// Second is one more PacketConn onto the socket, for QUIC to migrate to. It only
// sends: what comes is read from the other. Its Close does nothing.
func (s *Socket) Second() net.PacketConn {
	m := &mute{s: s}
	m.deadline.init()
	return &plainSecond{s, m}
}
