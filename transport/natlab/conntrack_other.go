//go:build !linux

package natlab

func (namespace) forgetUDP() error { return ErrUnavailable }
