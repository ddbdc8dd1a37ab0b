//go:build unix

package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
)

// openPrivate opens a file for reading, which must be a regular one of ours
// that nobody else can read: the file that was opened is the one checked.
func openPrivate(path string) (*os.File, error) {
	// O_NONBLOCK, or opening a FIFO would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%w: %s is a symbolic link", ErrInsecurePermissions, path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is not a regular file", ErrInsecurePermissions, path)
	}
	if err == nil {
		err = checkPrivate(path, info, os.Geteuid())
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// checkPrivate refuses what others may touch, and what belongs to none of
// owners.
func checkPrivate(path string, info fs.FileInfo, owners ...int) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w: the owner of %s is not known", ErrInsecurePermissions, path)
	}
	owned := false
	for _, owner := range owners {
		owned = owned || int(stat.Uid) == owner
	}
	if !owned {
		return fmt.Errorf("%w: %s belongs to another user (uid %d)", ErrInsecurePermissions, path, stat.Uid)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%w: %s has mode %#o; run: chmod %#o %s", ErrInsecurePermissions, path, mode, mode&0o700, path)
	}
	return nil
}

// checkPassphraseFile is checkPrivate for an opened passphrase file. It may
// belong to root, who can read it anyway: service managers hand secrets so.
func checkPassphraseFile(path string, info fs.FileInfo) error {
	return checkPrivate(path, info, os.Geteuid(), 0)
}

// checkHome refuses a home that others may enter or that is not ours.
func checkHome(home string) error {
	info, err := os.Lstat(home)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: %s is not a directory", ErrInsecurePermissions, home)
	}
	return checkPrivate(home, info, os.Geteuid())
}

// replaceFile writes a file of mode 0600 that is there as a whole or not at
// all, even after a power cut.
func replaceFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	// The folder is named so that renameio does not look for another one.
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Cleanup())
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return errors.Join(err, f.Cleanup())
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
