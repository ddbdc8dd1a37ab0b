//go:build !linux

package tcp

import "syscall"

func prepare(syscall.RawConn) error { return nil }

// answered is not known here.
func answered(syscall.RawConn) bool { return false }
