//go:build !darwin && !windows

package udp

// dontFragment does nothing: the system may cut large packets up on the way.
func dontFragment(uintptr, bool) error { return nil }
