//go:build !windows

package lockfile

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// replace writes the file beside its place, syncs it and, if check agrees,
// renames it there; the folder is synced as well, or a power cut might bring the
// old file back.
func replace(path string, text []byte, check func() error) error {
	folder := filepath.Dir(path)
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(folder), renameio.WithStaticPermissions(fileMode))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // nothing is left to clean once it has replaced the file
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil { // it takes long; the check shall be the last thing
		return err
	}
	if err := check(); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
