//go:build linux

package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

// kills is how often each command is killed.
const kills = 6

// killed starts a command and kills it after a part of the time that it takes.
func (tr *trail) killed(within time.Duration, home, stdin string, args ...string) {
	tr.t.Helper()
	cmd := exec.Command(binary, append([]string{"--home", tr.home(home)}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	require.NoError(tr.t, cmd.Start())
	timer := time.AfterFunc(rand.N(within), func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // killed, or done before
	timer.Stop()
}

// takes is how long a command takes.
func (tr *trail) takes(home, stdin string, args ...string) time.Duration {
	tr.t.Helper()
	begin := time.Now()
	tr.mustRun(home, stdin, args...)
	return time.Since(begin) * 5 / 4
}

// Whenever a command is killed, the home is as it was before or as it should be
// after, and the next command works.
func TestKilledCommands(t *testing.T) {
	tr := newTrail(t)
	pass := tr.secret("passphrase", passphrase+"\n")
	other := tr.secret("other", "another\n")
	initialise := func(name string) []string {
		return []string{"init", "--passphrase-file", pass, "--words-file", filepath.Join(tr.input, name), "--work-factor", "10"}
	}
	within := tr.takes("h", "", initialise("words")...)
	open := func() *vault.Vault {
		v, err := vault.Open(tr.home("h"), []byte(passphrase), nil)
		require.NoError(t, err)
		return v
	}

	t.Run("init", func(t *testing.T) {
		for i := range kills {
			home := fmt.Sprintf("init%d", i)
			tr.killed(within, home, "", initialise(home)...)
			if v, err := vault.Open(tr.home(home), []byte(passphrase), nil); err == nil {
				_ = v.Close()
				words, err := os.ReadFile(filepath.Join(tr.input, home))
				require.NoError(t, err, "the words were given away before the vault was made")
				tr.mustRun(home, string(words), "vault", "verify")
				continue
			}
			tr.mustRun(home, "", initialise(home+"again")...)
		}
	})
	t.Run("seal", func(t *testing.T) {
		store := vault.NewCredentialStore(tr.home("h"))
		within := tr.takes("h", "value 0", "vault", "seal", "github", "--passphrase-file", pass)
		before := "value 0"
		for i := range kills {
			after := fmt.Sprintf("value %d", i+1)
			tr.killed(within, "h", after, "vault", "seal", "github", "--passphrase-file", pass)
			v := open()
			secret, err := store.Open(v, "github")
			require.NoError(t, err)
			require.NoError(t, v.Close())
			require.Contains(t, []string{before, after}, string(secret))
			before = string(secret)
		}
	})
	t.Run("rotate", func(t *testing.T) {
		store := vault.NewCredentialStore(tr.home("h"))
		for i := range 20 {
			tr.mustRun("h", fmt.Sprint("secret ", i), "vault", "seal", fmt.Sprint("name", i), "--passphrase-file", pass)
		}
		within := tr.takes("h", "", "vault", "rotate", "--passphrase-file", pass)
		for range kills {
			tr.killed(within, "h", "", "vault", "rotate", "--passphrase-file", pass)
			v := open()
			for i := range 20 {
				secret, err := store.Open(v, fmt.Sprint("name", i))
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint("secret ", i), string(secret))
			}
			require.NoError(t, v.Close())
		}
		tr.mustRun("h", "", "vault", "rotate", "--passphrase-file", pass)
		list, err := store.List()
		require.NoError(t, err)
		for _, c := range list {
			require.Equal(t, list[0].KeyVersion, c.KeyVersion, "it goes on where it was cut off")
		}
	})
	t.Run("rm", func(t *testing.T) {
		store := vault.NewCredentialStore(tr.home("h"))
		for i := range kills {
			tr.killed(within/2, "h", "", "vault", "rm", fmt.Sprint("name", i))
			list, err := store.List()
			require.NoError(t, err)
			require.Contains(t, []int{21 - i - 1, 21 - i}, len(list))
			if err := store.Delete(fmt.Sprint("name", i)); err != nil {
				require.ErrorIs(t, err, vault.ErrNoCredential)
			}
		}
	})
	t.Run("passwd", func(t *testing.T) {
		from, to := pass, other
		passwd := func() []string {
			return []string{"vault", "passwd", "--passphrase-file", from, "--new-passphrase-file", to}
		}
		within := tr.takes("h", "", passwd()...)
		from, to = to, from
		for range kills {
			tr.killed(within, "h", "", passwd()...)
			oldOpens := tr.run("h", "", "key", "--device", "1", "--passphrase-file", from) == 0
			newOpens := tr.run("h", "", "key", "--device", "1", "--passphrase-file", to) == 0
			require.NotEqual(t, oldOpens, newOpens, "the one or the other")
			if newOpens {
				from, to = to, from
			}
		}
		if from != pass {
			tr.mustRun("h", "", passwd()...)
		}
	})
	t.Run("rotate-identity", func(t *testing.T) {
		within := tr.takes("h", "", "vault", "rotate-identity", "--passphrase-file", pass)
		generation := 1
		for range kills {
			tr.killed(within, "h", "", "vault", "rotate-identity", "--passphrase-file", pass)
			v := open() // repairs the sidecar
			require.NoError(t, v.Close())
			info, err := vault.ReadInfo(tr.home("h"))
			require.NoError(t, err)
			require.Contains(t, []int{generation, generation + 1}, int(info.Generation))
			generation = int(info.Generation)
		}
		tr.mustRun("h", "", "vault", "rotate-identity", "--passphrase-file", pass)
	})

	// Nothing is left of all those that were killed but their files, locks and
	// audit log; and each line of that is whole.
	log, err := os.ReadFile(filepath.Join(tr.home("h"), "audit.log"))
	require.NoError(t, err)
	for line := range bytes.Lines(log) {
		require.True(t, json.Valid(line), "%s", line)
	}
}

// Of several that write at once each has its way or is told that it has not.
func TestCommandsAtOnce(t *testing.T) {
	tr := newTrail(t)
	pass := tr.secret("passphrase", passphrase+"\n")
	tr.mustRun("h", "", "init", "--passphrase-file", pass, "--words-file", filepath.Join(tr.input, "words"), "--work-factor", "10")
	codes := make([]int, 10)
	var commands sync.WaitGroup
	for i := range codes {
		commands.Go(func() {
			cmd := exec.Command(binary, "--home", tr.home("h"), "vault", "seal", fmt.Sprint("name", i), "--passphrase-file", pass)
			cmd.Stdin = strings.NewReader("secret")
			out, err := cmd.CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				codes[i] = exit.ExitCode()
				if !bytes.Contains(out, []byte("in use by another process")) || bytes.Count(out, []byte("\n")) != 1 {
					t.Errorf("refused otherwise: %s", out)
				}
			}
		})
	}
	commands.Wait()
	var sealed []string
	for i, code := range codes {
		if code == 0 {
			sealed = append(sealed, fmt.Sprint("name", i))
		}
	}
	require.NotEmpty(t, sealed)
	list, err := vault.NewCredentialStore(tr.home("h")).List()
	require.NoError(t, err)
	var have []string
	for _, c := range list {
		have = append(have, c.Name)
	}
	require.Equal(t, sealed, have)
}

// What stands in the way of a command is said in one line, and nothing changes.
func TestRefusals(t *testing.T) {
	needRoot(t)
	tr := newTrail(t)
	pass := tr.secret("passphrase", passphrase+"\n")
	tr.mustRun("h", "", "init", "--passphrase-file", pass, "--words-file", filepath.Join(tr.input, "words"), "--work-factor", "10")
	tr.mustRun("h", "secret", "vault", "seal", "github", "--passphrase-file", pass)
	home := tr.home("h")
	file := func(name string) string { return filepath.Join(home, name) }
	refused := func(t *testing.T, says string, args ...string) {
		t.Helper()
		out, err := exec.Command(binary, append([]string{"--home", home}, args...)...).CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%v", args)
		require.Equal(t, 1, exit.ExitCode(), "%s", out)
		require.Equal(t, 1, bytes.Count(out, []byte("\n")), "%s", out)
		require.Contains(t, string(out), says)
		require.NotContains(t, string(out), passphrase)
	}
	opens := []string{"key", "--device", "1", "--passphrase-file", pass}
	reveals := []string{"vault", "open", "github", "--reveal", "--passphrase-file", pass}

	require.NoError(t, os.Chmod(file("vault.age"), 0o640))
	refused(t, "vault.age has mode 0640; run: chmod 0600 ", opens...)
	require.NoError(t, os.Chmod(file("vault.age"), 0o600))
	require.NoError(t, os.Chmod(file("credentials.json"), 0o604))
	refused(t, "credentials.json has mode 0604; run: chmod 0600 ", reveals...)
	require.NoError(t, os.Chmod(file("credentials.json"), 0o600))
	require.NoError(t, os.Chmod(home, 0o750))
	refused(t, "has mode 0750; run: chmod 0700 ", opens...)
	require.NoError(t, os.Chmod(home, 0o700))
	require.NoError(t, os.Chmod(pass, 0o644))
	refused(t, "has mode 0644; run: chmod 0600 ", opens...)
	require.NoError(t, os.Chmod(pass, 0o600))

	require.NoError(t, os.Chown(file("vault.age"), 65534, 65534))
	refused(t, "vault.age belongs to another user (uid 65534)", opens...)
	require.NoError(t, os.Chown(file("vault.age"), 0, 0))

	require.NoError(t, os.Rename(file("credentials.json"), file("elsewhere")))
	require.NoError(t, os.Symlink("elsewhere", file("credentials.json")))
	refused(t, "credentials.json is a symbolic link", reveals...)
	require.NoError(t, os.Remove(file("credentials.json")))
	require.NoError(t, os.Rename(file("elsewhere"), file("credentials.json")))
	tr.mustRun("h", "", reveals...)

	// In a file system of its own that is full, or may not be written to.
	small := func(t *testing.T, prepare, says string, args ...string) {
		t.Helper()
		script := `mount -t tmpfs -o size=64k,mode=700 none "$1" && cp -p "$2"/vault.age "$2"/vault.json "$2"/credentials.json "$1" && cd "$1" && ` +
			prepare + `; shift 2; "$@"; echo "exit $?" >&2; cmp vault.age "$KEEP/vault.age" && cmp credentials.json "$KEEP/credentials.json"`
		mount := filepath.Join(tr.dir, "mount")
		require.NoError(t, os.MkdirAll(mount, 0o700))
		cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh", mount, home, binary, "--home", mount}, args...)...)
		cmd.Env = append(os.Environ(), "KEEP="+home)
		cmd.Stdin = strings.NewReader("other")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "what was there has changed: %s", out)
		require.Contains(t, string(out), "\nexit 1\n")
		require.Contains(t, string(out), says)
	}
	const full = `dd if=/dev/zero of=filler bs=1k 2>/dev/null; sync`
	const readOnly = `: >vault.lock && mount -o remount,ro "$1"`
	for _, args := range [][]string{
		{"vault", "passwd", "--passphrase-file", pass, "--new-passphrase-file", tr.secret("new", "new\n")},
		{"vault", "seal", "github", "--passphrase-file", pass},
	} {
		small(t, full, "no space left on device", args...)
		small(t, readOnly, "read-only file system", args...)
	}
}
