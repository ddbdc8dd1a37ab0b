package lockfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth/internal/lockfile"
)

func write(t *testing.T, path, text string) error {
	t.Helper()
	return lockfile.Update(t.Context(), path, 16, func() ([]byte, error) { return []byte(text), nil })
}

func TestReadAndUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	text, err := lockfile.Read(path, 16)
	require.NoError(t, err)
	require.Nil(t, text, "there is no file")
	require.NoError(t, write(t, path, ""))
	text, err = lockfile.Read(path, 16)
	require.NoError(t, err)
	require.NotNil(t, text)
	require.NoError(t, write(t, path, "one"))
	require.ErrorIs(t, write(t, path, "more than 16 bytes"), lockfile.ErrTooLarge)
	failed := errors.New("failed")
	require.ErrorIs(t, lockfile.Update(t.Context(), path, 16, func() ([]byte, error) { return []byte("x"), failed }), failed)
	text, err = lockfile.Read(path, 16)
	require.NoError(t, err)
	require.Equal(t, "one", string(text))
	_, err = lockfile.Read(path, 2)
	require.ErrorIs(t, err, lockfile.ErrTooLarge)
	_, err = lockfile.Read(filepath.Dir(path), 2)
	require.Error(t, err)
}

// What an editor, which asks for no lock, writes during an Update is not lost.
func TestUpdateKeepsWhatAnEditorWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, write(t, path, "a"))
	saves := []string{"b", "bb"}
	require.NoError(t, lockfile.Update(t.Context(), path, 16, func() ([]byte, error) {
		text, err := lockfile.Read(path, 16)
		if len(saves) > 0 {
			require.NoError(t, os.WriteFile(path, []byte(saves[0]), 0o600))
			saves = saves[1:]
		}
		return append(text, '+'), err
	}))
	text, err := lockfile.Read(path, 16)
	require.NoError(t, err)
	require.Equal(t, "bb+", string(text))
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 2, "the file and its lock")
}

// What writes that were cut off have left is gone after the next; what is
// somebody else's is not.
func TestUpdateRemovesDrafts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	beside := func(name string) string { return filepath.Join(filepath.Dir(path), name) }
	drafts, others := []string{".f123", ".f.123"}, []string{".f", ".f.", ".f.swp", ".f.1.swp", ".f12x", ".g123", "f123"}
	for _, name := range append(drafts, others...) {
		require.NoError(t, os.WriteFile(beside(name), nil, 0o600))
	}
	require.NoError(t, write(t, path, "text"))
	for _, name := range drafts {
		require.NoFileExists(t, beside(name))
	}
	for _, name := range others {
		require.FileExists(t, beside(name))
	}
}

// A file that never stops changing is read all the same.
func TestWatchReadsWhileWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var reads atomic.Int32
	w, err := lockfile.Watch(path, func() error { reads.Add(1); return nil }, func(error) {})
	require.NoError(t, err)
	defer w.Close()
	require.EqualValues(t, 1, reads.Load())
	deadline := time.Now().Add(10 * time.Second)
	for reads.Load() < 3 && time.Now().Before(deadline) {
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	}
	require.GreaterOrEqual(t, reads.Load(), int32(3))
}
