package lockfile

import (
	"errors"
	"os"
	"path/filepath"
)

// replace writes the file beside its place, syncs it and, if check agrees,
// renames it there.
// renameio does not serve Windows, whose rename replaces but is not atomic.
func replace(path string, text []byte, check func() error) (err error) {
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
	if err = check(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
