//go:build !linux && !darwin

package main

import "net"

// listenPrivate listens on a unix socket; the home's folder keeps others out.
func listenPrivate(path string) (net.Listener, error) { return net.Listen("unix", path) }

// sameUser would check who connects, where the system can tell.
type sameUser struct{ net.Listener }
