//go:build !windows

package lockfile

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// replace writes the file beside its place, syncs it and renames it there; the
// folder is synced as well, or a power cut might bring the old file back.
func replace(path string, text []byte) error {
	folder := filepath.Dir(path)
	err := renameio.WriteFile(path, text, fileMode,
		renameio.WithTempDir(folder), renameio.WithStaticPermissions(fileMode))
	if err != nil {
		return err
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
