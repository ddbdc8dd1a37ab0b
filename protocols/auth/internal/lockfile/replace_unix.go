//go:build !windows

package lockfile

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// replace writes the file beside its place, syncs it and puts it there, unless
// what is there is another than before, by unchanged, or one exists that did not:
// then the error is errChanged. The folder is synced as well, or a power cut might
// bring the old file back.
func replace(path string, text []byte, existed bool, unchanged func(name string) bool) error {
	folder := filepath.Dir(path)
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(folder), renameio.WithStaticPermissions(fileMode))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // of what was replaced, too, where it was exchanged
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.File.Close()); err != nil { // it takes long; the look shall be the last thing
		return err
	}
	if !unchanged(path) {
		return errChanged
	}
	if err := put(f.Name(), path, existed, unchanged); err != nil {
		return err
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
