package lockfile

import (
	"errors"
	"os"
	"path/filepath"
)

// replace writes the file beside its place, syncs it and renames it there,
// unless what is there is another than before, by unchanged: then the error is
// errChanged. One that is saved between the look and the renaming is lost.
// renameio does not serve Windows, whose rename replaces but is not atomic.
func replace(path string, text []byte, _ bool, unchanged func(name string) bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !unchanged(path) {
		return errChanged
	}
	return os.Rename(f.Name(), path)
}
