package lockfile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// save writes as editors do that replace the file.
func save(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+"~", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+"~", path))
}

// NODE-33: what an editor saves after the last look at the file, and while that
// is put back, is what is there in the end.
func TestNODE33SaveAfterTheLastLook(t *testing.T) {
	for name, c := range map[string]struct {
		saves []string // after each look; "" = none
		want  string
		err   error
	}{
		"none":                      {want: "new"},
		"one":                       {saves: []string{"one"}, want: "one", err: errChanged},
		"another while it is back":  {saves: []string{"one", "two"}, want: "two", err: errChanged},
		"one while the old one out": {saves: []string{"", "two"}, want: "two"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			save(t, path, "old")
			err := replace(path, []byte("new"), true, func(name string) bool {
				now, err := Read(name, 16)
				require.NoError(t, err)
				if len(c.saves) > 0 {
					if c.saves[0] != "" {
						save(t, path, c.saves[0])
					}
					c.saves = c.saves[1:]
				}
				return string(now) == "old"
			})
			require.ErrorIs(t, err, c.err)
			now, err := Read(path, 16)
			require.NoError(t, err)
			require.Equal(t, c.want, string(now))
			left, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			require.Len(t, left, 1, "the file alone")
		})
	}
}

// NODE-33: nor is a file lost that an editor makes where there was none; and one
// that it removes stays removed.
func TestNODE33FileThatComesOrGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	come := func(string) bool { save(t, path, "one"); return true }
	require.ErrorIs(t, replace(path, []byte("new"), false, come), errChanged)
	now, err := Read(path, 16)
	require.NoError(t, err)
	require.Equal(t, "one", string(now))

	goes := func(string) bool { require.NoError(t, os.Remove(path)); return true }
	require.ErrorIs(t, replace(path, []byte("new"), true, goes), errChanged)
	require.NoFileExists(t, path)
}
