package udp

import (
	"errors"

	"golang.org/x/sys/windows"
)

// unreachable reports whether err says that a datagram did not leave although
// nothing is wrong with the socket.
func unreachable(err error) bool {
	errno, ok := errors.AsType[windows.Errno](err)
	if !ok {
		return false
	}
	switch errno {
	case windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH, windows.WSAENETDOWN, windows.WSAECONNREFUSED,
		windows.WSAECONNRESET, windows.WSAENETRESET, // ICMP answers to an earlier datagram
		windows.WSAEHOSTDOWN,
		windows.WSAEADDRNOTAVAIL, // no address to send from
		windows.WSAEACCES,        // firewall
		windows.WSAENOBUFS:
		return true
	}
	return false
}

// tooLong reports whether a read found a datagram longer than its buffer.
func tooLong(_ int, err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }

// TooLarge reports whether an error of Write says that a datagram is larger than
// the interface it would leave by carries.
func TooLarge(err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }
