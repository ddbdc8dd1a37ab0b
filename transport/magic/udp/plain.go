package udp

import (
	"net"
	"net/netip"
)

// plain is the driver that works everywhere: a datagram per call, no ECN.
type plain struct{ udp *net.UDPConn }

func newPlain(conn *net.UDPConn, six bool) (driver, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Old systems do not know it, and cut large packets up instead (PATH-9).
	if err := raw.Control(func(fd uintptr) { _ = dontFragment(fd, six) }); err != nil {
		return nil, err
	}
	for _, set := range []func(int) error{conn.SetReadBuffer, conn.SetWriteBuffer} {
		// Some systems refuse what is too much. Any size works, so what is
		// left then is taken.
		for size := socketBuffer; size >= 1<<16 && set(size) != nil; size /= 2 {
		}
	}
	return plain{conn}, nil
}

func (plain) caps() Caps { return Caps{} }

func (p plain) read(ms []Message) (int, error) {
	m := &ms[0]
	for failed := 0; ; {
		n, _, flags, from, err := p.udp.ReadMsgUDPAddrPort(m.Buf, nil)
		switch {
		case tooLong(flags, err): // dropped
		case err == nil:
			*m = Message{Buf: m.Buf, N: n, From: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
			return 1, nil
		case failed < maxTransient && unreachable(err): // news of a datagram sent earlier
			failed++
		default:
			return 0, err
		}
	}
}

func (p plain) write(b []byte, to netip.AddrPort, segment int, _ byte) error {
	if segment <= 0 || len(b) == 0 {
		segment = len(b)
	}
	for {
		n := min(len(b), segment)
		if _, err := p.udp.WriteToUDPAddrPort(b[:n], to); err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
}
