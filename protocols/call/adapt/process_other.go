//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package adapt

import (
	"context"
	"errors"
	"io"
	"runtime"
)

// supported fails: without process groups nothing could promise that no process is
// left behind.
func supported() error { return errNoPrograms }

func (p *program) run(_ context.Context, _, _ []byte, _ func(io.Reader) error) (int, error) {
	return 0, errNoPrograms
}

var errNoPrograms = errors.New("operations that run a program are not available on " + runtime.GOOS)
