package socket

import (
	"encoding/binary"
	"net"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

// PacketConn is the socket as QUIC should be given it. With UDP sockets of its
// own it lets QUIC send trains of packets in one call (GSO), read several at a
// time and see ECN marks (PATH-7); for that QUIC asks for the file descriptor,
// which it only sets options on.
func (s *Socket) PacketConn() net.PacketConn {
	if len(s.cfg.UDP) == 0 {
		return s
	}
	return &kernelConn{s, s.cfg.UDP[0]}
}

type kernelConn struct {
	*Socket
	udp *udp.Conn
}

// SyscallConn lends the descriptor of one of the sockets.
func (c *kernelConn) SyscallConn() (syscall.RawConn, error) { return c.udp.SyscallConn() }

// ReadMsgUDP is ReadFrom without control messages; QUIC uses ReadBatch.
func (c *kernelConn) ReadMsgUDP(b, _ []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	n, from, err := c.ReadFrom(b)
	if err != nil {
		return 0, 0, 0, nil, err
	}
	return n, 0, 0, from.(*net.UDPAddr), nil
}

// ReadBatch waits for a packet and takes those behind it along.
func (c *kernelConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if err := c.fill(); err != nil {
		return 0, err
	}
	n := 0
	for n < len(ms) && c.more() {
		m := &ms[n]
		m.NN = putECN(m.OOB, c.rest.ecn)
		m.Addr = c.rest.from
		m.N = c.take(m.Buffers[0])
		n++
	}
	return n, nil
}

// WriteMsgUDP sends what QUIC asks for by control messages: how the packet is
// to be cut, and its ECN mark. It reports success whatever happens on the way.
func (c *kernelConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	p := c.byVirtual(addr)
	if p == nil {
		c.stats.noPath.Add(1)
		return len(b), len(oob), nil
	}
	segment, ecn := controls(oob)
	p.send(b, segment, ecn)
	return len(b), len(oob), nil
}

// Second is one more PacketConn onto the socket, for QUIC to migrate to. It only
// sends: what comes is read from the other. Its Close does nothing.
func (s *Socket) Second() net.PacketConn {
	m := &mute{s: s}
	m.deadline.init()
	if len(s.cfg.UDP) == 0 {
		return &plainSecond{s, m}
	}
	return &kernelSecond{&kernelConn{s, s.cfg.UDP[0]}, m}
}

type kernelSecond struct {
	*kernelConn
	mute *mute
}

// ReadMsgUDP waits for the deadline.
func (c *kernelSecond) ReadMsgUDP(_, _ []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	return 0, 0, 0, nil, c.mute.wait()
}

// ReadBatch waits for the deadline.
func (c *kernelSecond) ReadBatch([]ipv4.Message, int) (int, error) { return 0, c.mute.wait() }

// WriteMsgUDP is that of kernelConn, from the second port.
func (c *kernelSecond) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	p := c.byVirtual(addr)
	if p == nil {
		c.stats.noPath.Add(1)
		return len(b), len(oob), nil
	}
	segment, ecn := controls(oob)
	p.sendSecond(b, segment, ecn)
	return len(b), len(oob), nil
}

// ReadFrom waits for the deadline.
func (c *kernelSecond) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, c.mute.wait() }

// WriteTo sends from the second port.
func (c *kernelSecond) WriteTo(b []byte, addr net.Addr) (int, error) {
	return (&plainSecond{c.Socket, c.mute}).WriteTo(b, addr)
}

// SetReadDeadline wakes who waits in a read.
func (c *kernelSecond) SetReadDeadline(t time.Time) error {
	c.mute.deadline.set(t)
	return nil
}

// SetDeadline is SetReadDeadline; writes never block.
func (c *kernelSecond) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// Close does nothing.
func (c *kernelSecond) Close() error { return nil }

// controls reads UDP_SEGMENT and the traffic class from control messages.
func controls(oob []byte) (segment int, ecn byte) {
	for len(oob) > 0 {
		hdr, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return segment, ecn
		}
		switch {
		case hdr.Level == unix.IPPROTO_UDP && hdr.Type == unix.UDP_SEGMENT && len(body) >= 2:
			segment = int(binary.NativeEndian.Uint16(body))
		case hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_TCLASS && len(body) >= 4:
			ecn = byte(binary.NativeEndian.Uint32(body)) & 3
		case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_TOS && len(body) >= 1:
			ecn = body[0] & 3
		}
		oob = rest
	}
	return segment, ecn
}

// putECN writes the control message by which QUIC learns of an ECN mark.
func putECN(oob []byte, ecn byte) int {
	const size = unix.SizeofCmsghdr + 8 // an int32 and its padding
	if ecn == 0 || len(oob) < size {
		return 0
	}
	clear(oob[:size])
	// struct cmsghdr: length, level, type; the length field is one word.
	word := unix.SizeofCmsghdr - 8
	if word == 8 {
		binary.NativeEndian.PutUint64(oob, uint64(unix.CmsgLen(4)))
	} else {
		binary.NativeEndian.PutUint32(oob, uint32(unix.CmsgLen(4)))
	}
	binary.NativeEndian.PutUint32(oob[word:], unix.IPPROTO_IPV6)
	binary.NativeEndian.PutUint32(oob[word+4:], unix.IPV6_TCLASS)
	binary.NativeEndian.PutUint32(oob[unix.CmsgLen(0):], uint32(ecn))
	return unix.CmsgSpace(4)
}
