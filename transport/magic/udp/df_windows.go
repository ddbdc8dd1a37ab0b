package udp

import "golang.org/x/sys/windows"

// Of ws2ipdef.h.
const (
	ipDontFragment = 14
	ipv6DontFrag   = 14
)

// dontFragment makes packets that are too large an error, or lost.
func dontFragment(fd uintptr, six bool) error {
	if six {
		return windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, ipv6DontFrag, 1)
	}
	return windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IP, ipDontFragment, 1)
}
