//go:build !linux

package tcp

func makePrompt(uintptr) {}
