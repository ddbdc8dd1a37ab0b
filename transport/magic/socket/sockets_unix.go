//go:build unix

package socket

import "golang.org/x/sys/unix"

// spareSockets is how many sockets may be opened for a while: a quarter of what
// this process may have open in all.
func spareSockets() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 64
	}
	return int(min(limit.Cur/4, 1<<16))
}
