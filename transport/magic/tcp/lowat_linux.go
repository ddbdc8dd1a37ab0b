package tcp

import "golang.org/x/sys/unix"

func setUnsentLimit(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLimit)
}
