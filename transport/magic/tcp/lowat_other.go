//go:build !linux

package tcp

func setUnsentLimit(uintptr) {}
