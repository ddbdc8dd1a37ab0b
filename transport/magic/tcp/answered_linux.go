package tcp

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// prepare makes a connection that is given up while it is being made vanish at
// once. Else its ports stay taken for a minute (TIME_WAIT) as soon as the other
// end's SYN has come, and nothing connects the two again.
func prepare(raw syscall.RawConn) error {
	var err error
	if failed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}); failed != nil {
		return failed
	}
	return err
}

// answered tells that something of the other end came for a connection that is
// being made.
func answered(raw syscall.RawConn) bool {
	const synSent = 2 // TCP_SYN_SENT of the kernel
	state := uint8(synSent)
	_ = raw.Control(func(fd uintptr) { // fails when it is closed
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return state != synSent
}
