//go:build !unix && !windows

package udp

// unreachable knows no errors of this system.
func unreachable(error) bool { return false }

// tooLong knows no way to tell; the rest of the datagram is lost.
func tooLong(int, error) bool { return false }

// TooLarge knows no error of this system.
func TooLarge(error) bool { return false }
