//go:build unix

package vault

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func createVault(t *testing.T) (home string) {
	t.Helper()
	home = filepath.Join(t.TempDir(), "home")
	m, err := ParseMnemonic([]byte(about))
	require.NoError(t, err)
	_, err = Create(home, m, []byte("x"), FileOptions{WorkFactor: 1})
	require.NoError(t, err)
	sealed := &EncryptedData{KeyVersion: CurrentKeyVersion, IV: make([]byte, ivSize), Data: make([]byte, tagSize)}
	require.NoError(t, NewCredentialStore(home).Put("a", sealed))
	return home
}

// requireRefused checks that no call reads or writes in home.
func requireRefused(t *testing.T, home, text string) {
	t.Helper()
	m, err := ParseMnemonic([]byte(about))
	require.NoError(t, err)
	_, err = Open(home, []byte("x"), nil)
	require.ErrorIs(t, err, ErrInsecurePermissions)
	require.ErrorContains(t, err, text)
	_, err = Create(home, m, []byte("x"), FileOptions{WorkFactor: 1, Overwrite: true})
	require.ErrorIs(t, err, ErrInsecurePermissions)
	_, err = ReadInfo(home)
	require.ErrorIs(t, err, ErrInsecurePermissions)
	require.ErrorIs(t, ChangePassphrase(home, []byte("x"), []byte("y"), 0), ErrInsecurePermissions)
	_, err = RotateIdentity(home, []byte("x"), nil, 1)
	require.ErrorIs(t, err, ErrInsecurePermissions)
	_, err = ReadKit(home, []byte("x"))
	require.ErrorIs(t, err, ErrInsecurePermissions)
	_, err = NewCredentialStore(home).List()
	require.ErrorIs(t, err, ErrInsecurePermissions)
	require.ErrorIs(t, NewCredentialStore(home).Delete("a"), ErrInsecurePermissions)
}

func TestHomePermissions(t *testing.T) {
	for mode := range fs.FileMode(0o100) {
		home := createVault(t)
		require.NoError(t, os.Chmod(home, 0o700|mode))
		if mode == 0 {
			v, err := Open(home, []byte("x"), nil)
			require.NoError(t, err)
			require.NoError(t, v.Close())
			continue
		}
		requireRefused(t, home, "chmod 0700 "+home)
	}
}

func TestHomeIsNoLink(t *testing.T) {
	home := createVault(t)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(home, link))
	requireRefused(t, link, "is not a directory")
}

func TestFilePermissions(t *testing.T) {
	for _, name := range []string{vaultFile, sidecarFile, credentialsFile} {
		t.Run(name, func(t *testing.T) {
			read := func(home string) error {
				switch name {
				case sidecarFile:
					_, err := ReadInfo(home)
					return err
				case credentialsFile:
					_, err := NewCredentialStore(home).List()
					return err
				}
				v, err := Open(home, []byte("x"), nil)
				if err == nil {
					return v.Close()
				}
				return err
			}
			for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666} {
				home := createVault(t)
				require.NoError(t, os.Chmod(filepath.Join(home, name), mode))
				err := read(home)
				require.ErrorIs(t, err, ErrInsecurePermissions, mode)
				require.ErrorContains(t, err, "chmod 0")
			}
			home := createVault(t)
			path := filepath.Join(home, name)
			require.NoError(t, os.Chmod(path, 0o400))
			require.NoError(t, read(home), "stricter is fine")

			moved := filepath.Join(home, "moved")
			require.NoError(t, os.Rename(path, moved))
			require.NoError(t, os.Symlink(moved, path))
			err := read(home)
			require.ErrorIs(t, err, ErrInsecurePermissions)
			require.ErrorContains(t, err, "symbolic link")

			require.NoError(t, os.Remove(path))
			require.NoError(t, syscall.Mkfifo(path, 0o600))
			err = read(home) // must not wait for a writer
			require.ErrorIs(t, err, ErrInsecurePermissions)
			require.ErrorContains(t, err, "not a regular file")

			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Mkdir(path, 0o700))
			require.ErrorIs(t, read(home), ErrInsecurePermissions)
		})
	}
}

// The owner is compared with one that is not ours, which needs no second user.
func TestForeignOwner(t *testing.T) {
	info, err := os.Lstat(createVault(t))
	require.NoError(t, err)
	require.NoError(t, checkPrivate("p", info, os.Geteuid()))
	require.NoError(t, checkPrivate("p", info, os.Geteuid()+1, os.Geteuid()))
	err = checkPrivate("p", info, os.Geteuid()+1)
	require.ErrorIs(t, err, ErrInsecurePermissions)
	require.ErrorContains(t, err, "belongs to another user")
}

func TestForeignOwnerForReal(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	home := createVault(t)
	require.NoError(t, os.Chown(filepath.Join(home, vaultFile), 12345, 12345))
	_, err := Open(home, []byte("x"), nil)
	require.ErrorIs(t, err, ErrInsecurePermissions)
	require.ErrorIs(t, ChangePassphrase(home, []byte("x"), []byte("y"), 0), ErrInsecurePermissions)
	require.NoError(t, os.Chown(filepath.Join(home, credentialsFile), 12345, 12345))
	require.ErrorIs(t, NewCredentialStore(home).Delete("a"), ErrInsecurePermissions)
	home = createVault(t)
	require.NoError(t, os.Chown(home, 12345, 12345))
	requireRefused(t, home, "belongs to another user (uid 12345)")
}

// A write that fails leaves the old file and no other.
func TestReplaceFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	require.NoError(t, os.MkdirAll(filepath.Join(path, "full"), 0o700)) // cannot be replaced by a file
	require.Error(t, replaceFile(path, []byte("new")))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Error(t, replaceFile(filepath.Join(dir, "none", "f"), []byte("new")))
}

// The mode is 0600 whatever the umask or the old file's mode.
func TestReplaceFileMode(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o666))
	require.NoError(t, replaceFile(path, []byte("new")))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(data))
}

func TestPassphraseFilePermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	require.NoError(t, os.WriteFile(path, []byte("secret\n"), 0o600))
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		require.NoError(t, os.Chmod(path, mode))
		passphrase, err := ReadPassphraseFile(path)
		require.NoError(t, err)
		require.Equal(t, "secret", string(passphrase))
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o644, 0o601} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := ReadPassphraseFile(path)
		require.ErrorIs(t, err, ErrInsecurePermissions)
		require.NotContains(t, err.Error(), "secret")
	}
	// A link is fine, since what it leads to is checked.
	require.NoError(t, os.Chmod(path, 0o600))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path, link))
	passphrase, err := ReadPassphraseFile(link)
	require.NoError(t, err)
	require.Equal(t, "secret", string(passphrase))
}

// A descriptor with a pipe that stays open, as a supervisor may give it.
func TestPassphraseFromDescriptor(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	w, err := os.OpenFile(fifo, os.O_RDWR, 0)
	require.NoError(t, err)
	defer w.Close()
	_, err = w.WriteString("from a pipe\n")
	require.NoError(t, err)
	passphrase, err := ReadPassphraseFile(fifo)
	require.NoError(t, err)
	require.Equal(t, "from a pipe", string(passphrase))
}
