package main

import (
	"errors"
	"io"
)

// readInput reads a secret of at most limit bytes to its end, into one buffer.
func readInput(r io.Reader, limit int) ([]byte, error) {
	buf := make([]byte, limit+1)
	n, err := io.ReadFull(r, buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return buf[:n], nil
	case err == nil:
		clear(buf)
		return nil, usagef("the input is longer than %d bytes", limit)
	}
	clear(buf)
	return nil, err
}
