//go:build unix && !linux

package main

import "syscall"

// harden keeps a process that holds secrets from leaving a core dump.
func harden() {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) // a limit a process may always tighten
}
