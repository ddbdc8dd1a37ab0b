//go:build !windows

package lockfile

import (
	"path/filepath"

	"github.com/google/renameio/v2"
)

// replace writes the file beside its place, syncs it and renames it there.
func replace(path string, text []byte) error {
	return renameio.WriteFile(path, text, fileMode,
		renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(fileMode))
}
