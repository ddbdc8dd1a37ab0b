//go:build linux

package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

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
