package udp

import "golang.org/x/sys/unix"

// dontFragment makes packets that are too large an error, or lost.
func dontFragment(fd uintptr, six bool) error {
	if six {
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
	}
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_DONTFRAG, 1)
}
