//go:build linux || darwin

package main

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// listenPrivate listens on a unix socket that only this user may open, from
// the first moment on.
func listenPrivate(path string) (net.Listener, error) {
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return owners{l, inOperation()}, nil
}

// owners is a listener that takes connections of the node's owners only:
// processes of this user and of root, but for the programs of operations,
// which run as this user and work for somebody else.
type owners struct {
	net.Listener
	isOperation func(pid int) bool
}

// Accept implements net.Listener.
func (l owners) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.admits(c) {
			return c, nil
		}
		_ = c.Close()
	}
}

func (l owners) admits(c net.Conn) bool {
	uid, pid, err := peerProcess(c)
	switch self := os.Geteuid(); {
	case err != nil:
		return false
	case uid == 0 && self != 0:
		return true // it may do all we can, and we may not look at it everywhere
	case uid != self:
		return false
	}
	return pid == os.Getpid() || !l.isOperation(pid)
}

// descends reports whether a process is below this one, by its parents; also
// when it is gone. parent tells the parent of a process.
func descends(pid int, parent func(pid int) (int, error)) bool {
	self := os.Getpid()
	for range maxAncestors {
		up, err := parent(pid)
		switch {
		case err != nil || up == self:
			return true
		case up <= 1:
			return false
		}
		pid = up
	}
	return true
}

const maxAncestors = 256

// checkServer refuses a socket that is not what up makes, or that somebody
// else listens on: nothing is asked of him, and nothing said to him.
func checkServer(path string, c net.Conn) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is no socket but %s", path, info.Mode().Type())
	}
	uid, _, err := peerProcess(c)
	if self := os.Geteuid(); err == nil && uid != self && self != 0 {
		err = fmt.Errorf("another user, %d, listens on %s", uid, path)
	}
	return err
}
