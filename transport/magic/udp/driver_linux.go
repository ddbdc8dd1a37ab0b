package udp

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits of one GSO send: UDP_MAX_SEGMENTS before Linux 6.9, and the payload
// of the largest IPv4 packet.
const (
	maxSegments = 64
	maxPayload  = 1<<16 - 1 - 20 - 8
)

// kernel is the driver that uses what Linux offers.
type kernel struct {
	six      bool
	gso      atomic.Bool
	gro, ecn bool
	reader   *reader

	writing sync.Mutex
	// send is one sendmsg; tests make it fail as kernels do.
	send func(b, control []byte, to netip.AddrPort) error
	// control is reused, so that no write allocates.
	control [64]byte
}

func newDriver(conn *net.UDPConn, six bool) (driver, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	k := &kernel{six: six, reader: newReader(raw)}
	k.send = func(b, control []byte, to netip.AddrPort) error {
		_, _, err := conn.WriteMsgUDPAddrPort(b, control, to)
		return err
	}
	if err := raw.Control(func(fd uintptr) { k.configure(int(fd)) }); err != nil {
		return nil, err
	}
	return k, nil
}

// configure sets what this kernel knows; the socket works without any of it.
func (k *kernel) configure(fd int) {
	try := func(level, option, value int) bool {
		return unix.SetsockoptInt(fd, level, option, value) == nil
	}
	for _, buffer := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		// Force needs CAP_NET_ADMIN; without, the system's own limit holds.
		_ = try(unix.SOL_SOCKET, buffer[0], socketBuffer) || try(unix.SOL_SOCKET, buffer[1], socketBuffer)
	}
	if k.six {
		k.ecn = try(unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		// Never fragment, and do not believe ICMP about the size (PATH-9).
		try(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	} else {
		k.ecn = try(unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		try(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}
	k.gro = try(unix.SOL_UDP, unix.UDP_GRO, 1)
	_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	k.gso.Store(err == nil)
}

func (k *kernel) caps() Caps {
	return Caps{GSO: k.gso.Load(), GRO: k.gro, ECN: k.ecn, Batch: true}
}

func (k *kernel) read(ms []Message) (int, error) { return k.reader.read(ms) }

func (k *kernel) write(b []byte, to netip.AddrPort, segment int, ecn byte) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	if segment <= 0 || segment >= len(b) {
		return k.send(b, k.controls(0, ecn), to)
	}
	run := segment
	if k.gso.Load() {
		run = segment * max(1, min(maxSegments, maxPayload/segment))
	}
	for len(b) > 0 {
		n := min(len(b), run)
		var err error
		if n <= segment {
			err = k.send(b[:n], k.controls(0, ecn), to)
		} else if err = k.send(b[:n], k.controls(segment, ecn), to); err != nil {
			switch {
			case errors.Is(err, unix.EIO): // the device or an IPsec route cannot do it
				k.gso.Store(false)
				run = segment
				continue
			case errors.Is(err, unix.EINVAL): // older kernels: a segment is over the MTU
				run = segment // alone it gets an error that says so
				continue
			}
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// controls returns the control messages of a send, valid until the next call.
func (k *kernel) controls(segment int, ecn byte) []byte {
	c := k.control[:0]
	if segment > 0 {
		var v [2]byte
		binary.NativeEndian.PutUint16(v[:], uint16(segment))
		c = appendControl(c, unix.SOL_UDP, unix.UDP_SEGMENT, v[:])
	}
	if ecn != 0 && k.ecn {
		var v [4]byte
		binary.NativeEndian.PutUint32(v[:], uint32(ecn))
		if k.six {
			c = appendControl(c, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, v[:])
		} else {
			c = appendControl(c, unix.IPPROTO_IP, unix.IP_TOS, v[:])
		}
	}
	return c
}

// appendControl appends a control message to c, which has room for it.
func appendControl(c []byte, level, kind int32, value []byte) []byte {
	var head unix.Cmsghdr
	head.Level, head.Type = level, kind
	head.SetLen(unix.CmsgLen(len(value)))
	start := len(c)
	c = c[:start+unix.CmsgSpace(len(value))]
	clear(c[start:])
	copy(c[start:], (*[unix.SizeofCmsghdr]byte)(unsafe.Pointer(&head))[:]) //nolint:gosec // its own bytes
	copy(c[start+unix.CmsgLen(0):], value)
	return c
}
