package udp

import (
	"net/netip"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// RefuseGSO makes sends of several datagrams fail with errno, as kernels do
// for some devices and routes, and counts the others.
func (c *Conn) RefuseGSO(errno syscall.Errno) (single *atomic.Int64) {
	k := c.driver.(*kernel)
	single = new(atomic.Int64)
	send := k.send
	k.send = func(b, control []byte, to netip.AddrPort) error {
		for rest := control; len(rest) > 0; {
			head, _, next, err := unix.ParseOneSocketControlMessage(rest)
			if err != nil {
				return err
			}
			if head.Level == unix.SOL_UDP && head.Type == unix.UDP_SEGMENT {
				return errno
			}
			rest = next
		}
		single.Add(1)
		return send(b, control, to)
	}
	return single
}
