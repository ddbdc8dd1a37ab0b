//go:build linux || darwin

package main

import (
	"context"
	"net"
	"os"
	"syscall"
)

// listenPrivate listens on a unix socket that only this user may open, from
// the first moment on.
func listenPrivate(path string) (net.Listener, error) {
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	var l net.ListenConfig
	return l.Listen(context.Background(), "unix", path)
}

// sameUser is a listener that takes connections of this user and of root only.
type sameUser struct{ net.Listener }

// Accept implements net.Listener.
func (l sameUser) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if unixConn, ok := c.(*net.UnixConn); ok {
			if uid, err := peerUID(unixConn); err == nil && (uid == os.Geteuid() || uid == 0) {
				return c, nil
			}
		}
		_ = c.Close()
	}
}
