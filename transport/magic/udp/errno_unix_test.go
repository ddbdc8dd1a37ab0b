//go:build unix

package udp_test

import "syscall"

const addressInUse = syscall.EADDRINUSE
