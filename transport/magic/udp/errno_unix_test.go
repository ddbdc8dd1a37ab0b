//go:build unix

package udp_test

import "syscall"

const errInUse = syscall.EADDRINUSE
