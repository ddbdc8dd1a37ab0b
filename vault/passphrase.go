package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

// maxPassphrase is the longest passphrase, in bytes.
const maxPassphrase = 1024

// ReadPassphraseFile reads a passphrase: the first line of a file without its
// line ending, LF or CR LF, byte for byte. The file's mode must be 0600 or
// stricter and its owner the user or root, else ErrInsecurePermissions; it may
// be a pipe, as /dev/fd/3 is. An empty passphrase, or one over 1024 bytes, is
// ErrPassphrase. The caller wipes the result.
func ReadPassphraseFile(path string) ([]byte, error) {
	passphrase, err := readPassphraseFile(path)
	if err != nil {
		return nil, fmt.Errorf("read passphrase file: %w", err)
	}
	return passphrase, nil
}

func readPassphraseFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkPassphraseFile(path, info); err != nil {
		return nil, err
	}

	buf := make([]byte, maxPassphrase+len("\r\n"))
	defer wipe.Bytes(buf)
	n, end := 0, -1
	for end < 0 && n < len(buf) {
		read, err := f.Read(buf[n:])
		n += read
		end = bytes.IndexByte(buf[:n], '\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	line := buf[:n]
	if end >= 0 {
		line = bytes.TrimSuffix(buf[:end], []byte("\r"))
	}
	if err := checkPassphrase(line); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return slices.Clone(line), nil
}

// checkPassphrase refuses what age cannot take or its command could not be
// given at a prompt.
func checkPassphrase(passphrase []byte) error {
	switch {
	case len(passphrase) == 0:
		return fmt.Errorf("%w: it is empty", ErrPassphrase)
	case len(passphrase) > maxPassphrase:
		return fmt.Errorf("%w: it is longer than %d bytes", ErrPassphrase, maxPassphrase)
	case bytes.ContainsAny(passphrase, "\r\n"):
		return fmt.Errorf("%w: it has more than one line", ErrPassphrase)
	}
	return nil
}
