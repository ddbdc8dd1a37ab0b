package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxBatch is how many messages are read at once at most.
const maxBatch = 64

// maxZones is how many names of zones are kept.
const maxZones = 256

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	received uint32
}

// reader reads batches. What the kernel writes into is reused, so that no read
// allocates.
type reader struct {
	raw     syscall.RawConn
	receive func(fd uintptr) bool // made once

	reading  sync.Mutex
	heads    []mmsghdr // of these, the first want are in use
	vectors  []unix.Iovec
	names    []unix.RawSockaddrInet6 // large enough for IPv4
	controls [][64]byte
	zones    map[uint32]string
	want     int
	got      int // result of recvmmsg
	errno    syscall.Errno
}

func newReader(raw syscall.RawConn) *reader {
	r := &reader{raw: raw, zones: make(map[uint32]string)}
	r.receive = r.recvmmsg
	return r
}

func (r *reader) read(ms []Message) (int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	ms = ms[:min(len(ms), maxBatch)]
	for failed := 0; ; failed++ {
		r.prepare(ms)
		if err := r.raw.Read(r.receive); err != nil {
			return 0, err
		}
		if r.errno == 0 {
			break
		}
		if failed == maxTransient || !unreachable(r.errno) {
			return 0, os.NewSyscallError("recvmmsg", r.errno)
		}
	}
	for i := range ms[:r.got] {
		r.finish(&ms[i], i)
	}
	return r.got, nil
}

// prepare points the kernel at the messages' buffers.
func (r *reader) prepare(ms []Message) {
	if len(r.heads) < len(ms) {
		r.heads = make([]mmsghdr, len(ms))
		r.vectors = make([]unix.Iovec, len(ms))
		r.names = make([]unix.RawSockaddrInet6, len(ms))
		r.controls = make([][64]byte, len(ms))
	}
	r.want = len(ms)
	for i := range ms {
		r.vectors[i].Base = unsafe.SliceData(ms[i].Buf) //nolint:gosec // its length goes with it
		r.vectors[i].SetLen(len(ms[i].Buf))
		h := &r.heads[i]
		h.Name = (*byte)(unsafe.Pointer(&r.names[i])) //nolint:gosec // as the system call wants it
		h.Namelen = unix.SizeofSockaddrInet6
		h.Iov = &r.vectors[i]
		h.SetIovlen(1)
		h.Control = &r.controls[i][0]
		h.SetControllen(len(r.controls[i]))
	}
}

// recvmmsg is called when the socket may be readable; false waits.
func (r *reader) recvmmsg(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd,
			uintptr(unsafe.Pointer(&r.heads[0])), uintptr(r.want), 0, 0, 0) //nolint:gosec // want are made
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			r.got, r.errno = int(n), errno
			return true
		}
	}
}

// finish turns what the kernel wrote at i into the message.
func (r *reader) finish(m *Message, i int) {
	h := &r.heads[i]
	*m = Message{Buf: m.Buf, N: int(h.received), From: r.sender(&r.names[i])}
	for c := r.controls[i][:h.Controllen]; len(c) > 0; {
		head, value, rest, err := unix.ParseOneSocketControlMessage(c)
		if err != nil {
			break
		}
		switch {
		case head.Level == unix.IPPROTO_IP && head.Type == unix.IP_TOS && len(value) >= 1:
			m.ECN = value[0] & 0b11
		case head.Level == unix.IPPROTO_IPV6 && head.Type == unix.IPV6_TCLASS && len(value) >= 4:
			m.ECN = byte(binary.NativeEndian.Uint32(value)) & 0b11
		case head.Level == unix.SOL_UDP && head.Type == unix.UDP_GRO && len(value) >= 4:
			m.Segment = int(binary.NativeEndian.Uint32(value))
		}
		c = rest
	}
	if h.Flags&unix.MSG_TRUNC != 0 { // only whole datagrams count
		if m.Segment > 0 {
			m.N -= m.N % m.Segment
		} else {
			m.N = 0
		}
	}
	if m.Segment >= m.N {
		m.Segment = 0
	}
}

func (r *reader) sender(name *unix.RawSockaddrInet6) netip.AddrPort {
	// Port stands at the same place in both families, in network byte order,
	// and IPv4's address where IPv6 has the flow.
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], name.Port)
	if name.Family == unix.AF_INET {
		var ip [4]byte
		binary.NativeEndian.PutUint32(ip[:], name.Flowinfo)
		return netip.AddrPortFrom(netip.AddrFrom4(ip), binary.BigEndian.Uint16(port[:]))
	}
	addr := netip.AddrFrom16(name.Addr).Unmap()
	if name.Scope_id != 0 {
		addr = addr.WithZone(r.zone(name.Scope_id))
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port[:]))
}

// zone names an interface as package net does.
func (r *reader) zone(index uint32) string {
	if z, ok := r.zones[index]; ok {
		return z
	}
	z := strconv.FormatUint(uint64(index), 10)
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		z = ifi.Name
	}
	if len(r.zones) >= maxZones {
		clear(r.zones)
	}
	r.zones[index] = z
	return z
}
