//go:build unix

package udp

import (
	"errors"
	"syscall"
)

// unreachable reports whether err says that a datagram did not leave although
// nothing is wrong with the socket.
func unreachable(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return false
	}
	switch errno {
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.ECONNREFUSED,
		syscall.EHOSTDOWN,     // no answer to ARP, on BSDs
		syscall.EADDRNOTAVAIL, // no address to send from
		syscall.EPERM,         // firewall; on Linux also spurious, on a socket's first packet (golang/go#63322)
		syscall.EACCES,        // a route that prohibits
		syscall.ENOBUFS:       // the interface's queue is full
		return true
	}
	return false
}

// tooLong reports whether a read found a datagram longer than its buffer.
func tooLong(flags int, err error) bool { return err == nil && flags&syscall.MSG_TRUNC != 0 }

// TooLarge reports whether an error of Write says that a datagram is larger than
// the interface it would leave by carries.
func TooLarge(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }
