//go:build !linux && !darwin

package main

import (
	"context"
	"net"
)

// listenPrivate listens on a unix socket; the home's folder keeps others out.
func listenPrivate(path string) (net.Listener, error) {
	var l net.ListenConfig
	return l.Listen(context.Background(), "unix", path)
}

// sameUser would check who connects, where the system can tell.
type sameUser struct{ net.Listener }
