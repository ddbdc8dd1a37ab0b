package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

// filesOf returns what is in a folder, by name.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	files := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = string(b)
	}
	return files
}

func TestWriteSecretFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "words")
	failed := errors.New("failed")
	require.ErrorIs(t, writeSecretFile(path, func(w io.Writer) error { return errors.Join(text("some")(w), failed) }), failed)
	require.Empty(t, filesOf(t, dir))

	cutOff, err := writeDraft(path, text("some"))
	require.NoError(t, err)
	require.FileExists(t, cutOff)
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".words.swp"), nil, 0o600))
	require.NoError(t, writeSecretFile(path, text("all")))
	require.Equal(t, map[string]string{"words": "all", ".words.swp": ""}, filesOf(t, dir))

	require.ErrorIs(t, writeSecretFile(path, text("other")), os.ErrExist)
	require.NoError(t, replaceFile(path, []byte("next")))
	require.Equal(t, map[string]string{"words": "next", ".words.swp": ""}, filesOf(t, dir))
	require.Error(t, writeSecretFile(filepath.Join(dir, "none", "words"), text("")))
}

// Where the system has no such call a name that is taken stays, too.
func TestLinkNew(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	require.NoError(t, os.WriteFile(from, []byte("1"), 0o600))
	require.NoError(t, linkNew(from, to))
	require.Equal(t, map[string]string{"to": "1"}, filesOf(t, dir))
	require.NoError(t, os.WriteFile(from, []byte("2"), 0o600))
	require.ErrorIs(t, linkNew(from, to), os.ErrExist)
	require.Equal(t, map[string]string{"from": "2", "to": "1"}, filesOf(t, dir))
}
