package vault_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

func TestReadPassphraseFile(t *testing.T) {
	read := func(content string) (string, error) {
		path := filepath.Join(t.TempDir(), "passphrase")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		passphrase, err := vault.ReadPassphraseFile(path)
		return string(passphrase), err
	}
	long := strings.Repeat("x", 1024)
	for content, want := range map[string]string{
		"one":               "one",
		"one\n":             "one",
		"one\r\n":           "one",
		"one\ntwo\n":        "one",
		" one \n":           " one ",
		"e\u0301\n":         "e\u0301",
		"\xff\xfe\n":        "\xff\xfe",
		long:                long,
		long + "\r\nsecond": long,
	} {
		passphrase, err := read(content)
		require.NoError(t, err, "%q", content)
		require.Equal(t, want, passphrase)
	}
	for _, content := range []string{"", "\n", "\r\n", "\nsecond", "a\rb\n", "a\r", long + "x", long + "x\n", strings.Repeat("y", 1<<20)} {
		_, err := read(content)
		require.ErrorIs(t, err, vault.ErrPassphrase)
	}
	_, err := vault.ReadPassphraseFile(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = vault.ReadPassphraseFile(t.TempDir())
	require.Error(t, err)
}
