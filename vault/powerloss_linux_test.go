package vault_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/internal/crash"
	"github.com/alkdev/alknet-p2p/vault"
)

// A process that is killed at any system call that touches a file leaves the
// old state or the new one, and the next one goes on from there.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	for name, c := range changes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(map[string]int)
			for step := 1; ; step++ {
				home := changeHome(t)
				require.Equal(t, "old", c.state(home))
				killed := runUntil(t, step, name, home)
				state := c.state(home)
				require.Contains(t, []string{"old", "new"}, state, "killed at step %d", step)
				seen[state]++
				if !killed {
					require.Equal(t, "new", state)
					require.Greater(t, step, 5, "few steps were seen")
					break
				}
				if state == "old" {
					require.NoError(t, c.do(home))
					require.Equal(t, "new", c.state(home))
					requireNoLeftovers(t, home)
				}
			}
			require.NotZero(t, seen["old"])
		})
	}
}

// The first vault of a home is there as a whole or not at all.
func TestKilledWhileCreating(t *testing.T) {
	t.Parallel()
	for step := 1; ; step++ {
		home := filepath.Join(t.TempDir(), "home")
		killed := runUntil(t, step, "create", home)
		v, err := vault.Open(home, []byte(passphrase), nil)
		if err == nil {
			require.NoError(t, v.Close())
			_, err = vault.ReadInfo(home)
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, vault.ErrNoVault)
			_, err = vault.ReadInfo(home)
			require.ErrorIs(t, err, vault.ErrNoVault)
			require.True(t, killed)
			_, err = vault.Create(home, parse(t, about), []byte(passphrase), vault.FileOptions{WorkFactor: cheap})
			require.NoError(t, err)
			requireNoLeftovers(t, home)
		}
		if !killed {
			require.Greater(t, step, 5, "few steps were seen")
			break
		}
	}
}

// changeHome is a home in the old state of all changes.
func changeHome(t *testing.T) string {
	t.Helper()
	home, v, s := store(t)
	require.NoError(t, s.Seal(v, "a", []byte("of a")))
	require.NoError(t, s.Seal(v, "b", []byte("of b")))
	return home
}

func requireNoLeftovers(t *testing.T, home string) {
	t.Helper()
	for _, name := range names(t, home) {
		require.NotEqual(t, ".", name[:1])
	}
}

// runUntil makes a change in a process of its own, which is killed as it enters
// its step-th system call that may change a file. It reports whether the
// process got that far.
func runUntil(t *testing.T, step int, args ...string) (killed bool) {
	t.Helper()
	cmd := child(t, "change", args...)
	call, err := crash.At(step, cmd.Path, cmd.Args, os.ProcAttr{Env: cmd.Env, Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if errors.Is(err, syscall.EPERM) {
		t.Skip("processes may not be traced here")
	}
	require.NoError(t, err)
	return call != ""
}
