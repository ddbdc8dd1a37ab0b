package tcp

import (
	"bytes"
	"net"
	"net/netip"
)

// Addr is where the listener listens.
func (l *Listener) Addr() netip.AddrPort { return l.tcp.Addr().(*net.TCPAddr).AddrPort() }

// Read reads a whole stream, and returns why it ended.
func Read(stream []byte, receive func([]byte)) error { return read(bytes.NewReader(stream), receive) }

// Stream is what an end sends that has these packets.
func Stream(packets ...[]byte) []byte {
	out := []byte{version}
	for _, p := range packets {
		out = appendPacket(out, p)
	}
	return out
}
