package main

import (
	"errors"
	"io"
	"os"
)

// writeSecretFile makes a file that only this user can read; it must not be
// there yet.
func writeSecretFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Sync(), f.Close())
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// isTaken reports whether something stands at a path, so that nothing can be
// written there.
func isTaken(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

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
