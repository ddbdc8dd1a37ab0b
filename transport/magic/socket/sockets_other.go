//go:build !unix

package socket

// spareSockets is how many sockets may be opened for a while.
func spareSockets() int { return 256 }
