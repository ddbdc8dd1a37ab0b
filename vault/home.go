package vault

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

const lockFile = "vault.lock"

// lockHome takes the lock under which the files of a private home are written.
func lockHome(home string) (unlock func(), err error) {
	if err := checkHome(home); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(home, lockFile))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	if !locked {
		return nil, ErrFileInUse
	}
	if err := removeLeftovers(home); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return func() { _ = lock.Close() }, nil
}

// removeLeftovers deletes what writes that were cut off have left behind: who
// has the lock is the only one to write.
func removeLeftovers(home string) error {
	entries, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		for _, name := range []string{vaultFile, sidecarFile, credentialsFile} {
			if strings.HasPrefix(entry.Name(), "."+name) && entry.Type().IsRegular() {
				if err := os.Remove(filepath.Join(home, entry.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readVaultFile is readFile for what makes a vault.
func readVaultFile(home, name string) ([]byte, error) {
	data, err := readFile(home, name, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoVault, home)
	}
	return data, err
}

// readFile reads a file of a home, both of which must be private, up to limit
// bytes.
func readFile(home, name string, limit int) ([]byte, error) {
	if err := checkHome(home); err != nil {
		return nil, err
	}
	f, err := openPrivate(filepath.Join(home, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrCorruptFile, name, limit)
	}
	return data, nil
}
