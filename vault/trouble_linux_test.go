package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/vault"
)

// Two processes that change one home at once: each change happens as a whole or
// is refused, and none is lost.
func TestTwoProcesses(t *testing.T) {
	home, _ := create(t, vault.FileOptions{})
	const writers, each = 3, 20
	var outputs [writers]bytes.Buffer
	waits := make([]func() error, 0, writers)
	for i := range writers {
		cmd := child(t, "writer", home, strconv.Itoa(i), strconv.Itoa(each))
		cmd.Stdout = &outputs[i]
		require.NoError(t, cmd.Start())
		waits = append(waits, cmd.Wait)
	}
	for _, wait := range waits {
		require.NoError(t, wait())
	}
	v, s := openVault(t, home), vault.NewCredentialStore(home)
	list, err := s.List()
	require.NoError(t, err)
	stored := 0
	for i := range writers {
		var sealed, refused int
		_, err := fmt.Sscan(outputs[i].String(), &sealed, &refused)
		require.NoError(t, err)
		require.Equal(t, each, sealed)
		t.Logf("writer %d: %d refused", i, refused)
		stored += sealed
	}
	require.Len(t, list, stored)
	for _, c := range list {
		requireSecret(t, v, s, c.Name, "of "+c.Name)
	}
}

// On a full disk a change is refused, and the old state stays.
func TestFullDisk(t *testing.T) { inMount(t, "full") }

// On a file system that is read only a change is refused, and the vault opens.
func TestReadOnlyHome(t *testing.T) { inMount(t, "read-only") }

// inMount runs a part of children on a small file system of its own.
func inMount(t *testing.T, part string) {
	t.Helper()
	cmd := child(t, part, filepath.Join(t.TempDir()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.Output()
	if cmd.Process == nil {
		t.Skipf("no mount namespace: %v", err)
	}
	require.NoError(t, err)
	require.Equal(t, "ok\n", string(out))
}

func mountChild(f func(home string) error) func([]string) int {
	return func(args []string) int {
		if err := f(args[0]); err != nil {
			return fail(err)
		}
		fmt.Fprintln(os.Stdout, "ok")
		return 0
	}
}

// mountHome is a home in the old state of all changes, on a file system of 256
// KiB.
func mountHome(dir string) (home string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		return "", err
	}
	home = filepath.Join(dir, "home")
	m, err := vault.ParseMnemonic([]byte(about))
	if err != nil {
		return "", err
	}
	if _, err := vault.Create(home, m, []byte(passphrase), vault.FileOptions{WorkFactor: cheap}); err != nil {
		return "", err
	}
	v, err := vault.Open(home, []byte(passphrase), nil)
	if err != nil {
		return "", err
	}
	defer v.Close()
	s := vault.NewCredentialStore(home)
	for _, name := range []string{"a", "b"} {
		if err := s.Seal(v, name, []byte("of "+name)); err != nil {
			return "", err
		}
	}
	return home, nil
}

// fullDisk fills the file system, and expects every change to be refused.
func fullDisk(dir string) error {
	home, err := mountHome(dir)
	if err != nil {
		return err
	}
	fill, err := os.OpenFile(filepath.Join(dir, "fill"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer fill.Close()
	for err == nil {
		_, err = fill.Write(make([]byte, 512))
	}
	return refused(home, syscall.ENOSPC)
}

func readOnlyHome(dir string) error {
	home, err := mountHome(dir)
	if err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := refused(home, syscall.EROFS); err != nil {
		return err
	}
	_, err = vault.Create(filepath.Join(dir, "new"), nil, []byte("x"), vault.FileOptions{})
	return wants(err, vault.ErrMnemonic)
}

// refused expects every change to fail with an error, and to leave the old state
// and no other file.
func refused(home string, want error) error {
	before, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	for name, c := range changes() {
		err := c.do(home)
		if err := wants(err, want); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if state := c.state(home); state != "old" {
			return fmt.Errorf("%s: %s", name, state)
		}
	}
	after, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	if len(after) != len(before) {
		return fmt.Errorf("%d files became %d", len(before), len(after))
	}
	return nil
}

func wants(err, want error) error {
	switch {
	case err == nil:
		return errors.New("it succeeded")
	case !errors.Is(err, want):
		return err
	}
	return nil
}

// writerChild seals credentials, again and again as long as it is refused.
func writerChild(args []string) int {
	var each int
	if _, err := fmt.Sscan(args[2], &each); err != nil {
		return fail(err)
	}
	v, err := vault.Open(args[0], []byte(passphrase), nil)
	if err != nil {
		return fail(err)
	}
	defer v.Close()
	s := vault.NewCredentialStore(args[0])
	sealed, refused := 0, 0
	for sealed < each {
		name := fmt.Sprintf("%s-%d", args[1], sealed)
		switch err := s.Seal(v, name, []byte("of "+name)); {
		case err == nil:
			sealed++
		case oneOf(err, vault.ErrFileInUse):
			refused++
		default:
			return fail(err)
		}
	}
	fmt.Fprintln(os.Stdout, sealed, refused)
	return 0
}
