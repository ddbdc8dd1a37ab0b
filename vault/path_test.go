package vault_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

func TestParsePath(t *testing.T) {
	for text, canonical := range map[string]vault.Path{
		"m":                        "m",
		"m/0":                      "m/0",
		"m/0'":                     "m/0'",
		"m/0h":                     "m/0'",
		"m/74h/0'/0h/0":            "m/74'/0'/0'/0",
		"m/2147483647'/2147483647": "m/2147483647'/2147483647",
		"m" + strings.Repeat("/1h", vault.MaxDepth): vault.Path("m" + strings.Repeat("/1'", vault.MaxDepth)),
	} {
		path, err := vault.ParsePath(text)
		require.NoError(t, err, text)
		require.Equal(t, canonical, path)
	}
	for _, text := range []string{
		"", "M", "/", "m/", "n/0", "mm/0", "mjunk", "m0", "0/1", "m//1", "m/1/", " m", "m ", "m/ 1", "m/1 ",
		"m/+1", "m/-1", "m/00", "m/01", "m/01'", "m/1''", "m/1'h", "m/1hh", "m/1H", "m/h", "m/'", "m/1_0", "m/0x1", "m/1e3",
		"m/2147483648", "m/2147483648'", "m/4294967296'", "m/99999999999999999999", "m/\u0661", "m/1\u2019", "m/1\x00",
		"m" + strings.Repeat("/1", vault.MaxDepth+1),
		"m" + strings.Repeat("/", 1<<20),
	} {
		path, err := vault.ParsePath(text)
		require.ErrorIs(t, err, vault.ErrInvalidPath, text)
		require.Empty(t, path)
		require.Less(t, len(err.Error()), 100, "bounded, whatever was given")
	}
}

func TestPathConstants(t *testing.T) {
	for _, path := range []vault.Path{vault.Identity, vault.DevicePrefix, vault.SSHHost, vault.Encryption, vault.Ethereum} {
		canonical, err := vault.ParsePath(string(path))
		require.NoError(t, err)
		require.Equal(t, path, canonical)
	}
}

func TestDerivedPaths(t *testing.T) {
	path := func(p vault.Path, err error) vault.Path {
		t.Helper()
		require.NoError(t, err)
		return p
	}
	require.Equal(t, vault.Identity, path(vault.DevicePath(0)))
	require.EqualValues(t, "m/74'/0'/0'/7'", path(vault.DevicePath(7)))
	require.EqualValues(t, "m/74'/0'/0'/2147483647'", path(vault.DevicePath(vault.MaxIndex)))
	require.EqualValues(t, "m/74'/0'/0'/7'", path(vault.IdentityPath(7, 0)))
	require.EqualValues(t, "m/74'/0'/0'/7'/3'", path(vault.IdentityPath(7, 3)))
	require.Equal(t, vault.Encryption, path(vault.EncryptionPath(vault.CurrentKeyVersion)))
	require.EqualValues(t, "m/74'/2'/0'/1'", path(vault.EncryptionPath(3)))
	require.EqualValues(t, "m/74'/2'/0'/2147483647'", path(vault.EncryptionPath(2147483649)))

	for _, call := range []func() (vault.Path, error){
		func() (vault.Path, error) { return vault.DevicePath(vault.MaxIndex + 1) },
		func() (vault.Path, error) { return vault.IdentityPath(math.MaxUint32, 0) },
		func() (vault.Path, error) { return vault.IdentityPath(0, vault.MaxIndex+1) },
		func() (vault.Path, error) { return vault.EncryptionPath(0) },
		func() (vault.Path, error) { return vault.EncryptionPath(1) },
		func() (vault.Path, error) { return vault.EncryptionPath(2147483650) },
		func() (vault.Path, error) { return vault.EncryptionPath(math.MaxUint32) },
	} {
		_, err := call()
		require.ErrorIs(t, err, vault.ErrInvalidPath)
	}
}

func FuzzParsePath(f *testing.F) {
	for _, path := range []vault.Path{vault.Identity, vault.DevicePrefix, vault.SSHHost, vault.Encryption, vault.Ethereum} {
		f.Add(string(path))
		f.Add(strings.ReplaceAll(string(path), "'", "h"))
	}
	f.Add("m")
	f.Add("m/2147483647'/2147483648")
	f.Add("m/01/+1/1''")
	f.Fuzz(func(t *testing.T, text string) {
		path, err := vault.ParsePath(text)
		if err != nil {
			require.ErrorIs(t, err, vault.ErrInvalidPath)
			return
		}
		require.EqualValues(t, strings.ReplaceAll(text, "h", "'"), path, "all that is accepted is canonical but for h")
		again, err := vault.ParsePath(string(path))
		require.NoError(t, err)
		require.Equal(t, path, again)
	})
}
