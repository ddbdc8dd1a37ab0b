//go:build !linux

package natlab

import (
	"fmt"
	"runtime"
)

// lock says that the owner of a lab is alive; there are no labs on this system.
type lock struct{}

func newLock(string) (*lock, error) { return nil, ErrUnavailable }

func takeLock(string) (*lock, error) { return nil, ErrUnavailable }

func (*lock) release() error { return nil }

func (*lock) abandon() error { return nil }

func capable() error {
	return fmt.Errorf("%w: this is %s", ErrUnavailable, runtime.GOOS)
}
