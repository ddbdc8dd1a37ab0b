package main

import "golang.org/x/sys/unix"

// harden keeps the memory of a process that holds secrets to itself: it leaves
// no core dump, and only root may trace it or read its memory.
func harden() {
	// Both are limits a process may always tighten.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}
