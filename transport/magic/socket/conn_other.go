//go:build !linux

package socket

import "net"

// PacketConn is the socket as QUIC should be given it.
func (s *Socket) PacketConn() net.PacketConn { return s }
