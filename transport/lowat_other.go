//go:build !linux

package transport

func setUnsentLimit(uintptr) {}
