//go:build linux

package secrets

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	required  = flag.Bool("natlab.required", false, "fail instead of skip without root")
	panicking = flag.String("panicking.node", "", "be a node whose operation panics, configured by this file")
)

// binary is the command, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	if *panicking != "" {
		if err := runPanicking(*panicking); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "alknet-secrets-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "alknet-p2p")
		build := exec.Command("go", "build", "-o", binary, "github.com/alkdev/alknet-p2p/cmd/alknet-p2p")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		if err = errors.Join(err, os.Chmod(dir, 0o755)); err != nil { // for another user, too
			fmt.Fprintf(os.Stderr, "build the command: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if *required {
		t.Fatal("it reads the memory of other processes, which takes root")
	}
	t.Skip("it reads the memory of other processes, which takes root")
}

// trail is what commands leave: all that they write, on any stream and on the
// control socket, and their files.
type trail struct {
	t     *testing.T
	dir   string // homes, working folder and temporary files
	input string // secrets that are given to commands; not searched

	mu   sync.Mutex
	said bytes.Buffer
}

func newTrail(t *testing.T) *trail {
	t.Helper()
	top, err := os.MkdirTemp("", "alknet") //nolint:usetesting // a socket's path must fit
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	tr := &trail{t: t, dir: filepath.Join(top, "dir"), input: filepath.Join(top, "input")}
	require.NoError(t, os.Mkdir(tr.dir, 0o700))
	require.NoError(t, os.Mkdir(tr.input, 0o700))
	return tr
}

// Write implements io.Writer.
func (tr *trail) Write(b []byte) (int, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.said.Write(b)
}

func (tr *trail) text() []byte {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return bytes.Clone(tr.said.Bytes())
}

// secret makes a file of a secret that is given to a command.
func (tr *trail) secret(name, text string) string {
	tr.t.Helper()
	file := filepath.Join(tr.input, name)
	require.NoError(tr.t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func (tr *trail) home(name string) string { return filepath.Join(tr.dir, name) }

// command is the command on a home, which would leave a core dump if it could.
func (tr *trail) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-c", `ulimit -c unlimited; exec "$0" "$@"`, program}, args...)...)
	cmd.Dir = tr.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + tr.dir, "TMPDIR=" + tr.dir, "GOTRACEBACK=crash"}
	cmd.Stdout, cmd.Stderr = tr, tr
	return cmd
}

// run runs a command to its end and returns its exit code.
func (tr *trail) run(home, stdin string, args ...string) int {
	tr.t.Helper()
	cmd := tr.command(binary, append([]string{"--home", tr.home(home)}, args...)...)
	cmd.Stdin = bytes.NewReader([]byte(stdin))
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(tr.t, err)
	}
	return cmd.ProcessState.ExitCode()
}

func (tr *trail) mustRun(home, stdin string, args ...string) {
	tr.t.Helper()
	require.Zero(tr.t, tr.run(home, stdin, args...), "%v:\n%s", args, tr.tail())
}

func (tr *trail) tail() []byte {
	text := tr.text()
	return text[max(0, len(text)-2000):]
}

// start starts a program that ends with the test at the latest.
func (tr *trail) start(program string, args ...string) (cmd *exec.Cmd, stdin io.WriteCloser) {
	tr.t.Helper()
	cmd = tr.command(program, args...)
	stdin, err := cmd.StdinPipe()
	require.NoError(tr.t, err)
	require.NoError(tr.t, cmd.Start())
	tr.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // again, for most
	})
	return cmd, stdin
}

// await waits until what was said matches, and returns the first group.
func (tr *trail) await(pattern string) string {
	tr.t.Helper()
	re := regexp.MustCompile(pattern)
	var got [][]byte
	require.Eventually(tr.t, func() bool {
		got = re.FindSubmatch(tr.text())
		return got != nil
	}, 30*time.Second, 20*time.Millisecond, "nothing like %s in:\n%s", pattern, tr.tail())
	return string(got[len(got)-1])
}

// tap puts a proxy before the control socket of a home that notes all that
// goes through.
func (tr *trail) tap(home string) {
	tr.t.Helper()
	path := filepath.Join(tr.home(home), "control.sock")
	behind := filepath.Join(tr.home(home), "behind.sock")
	require.NoError(tr.t, os.Rename(path, behind))
	listener, err := net.Listen("unix", path)
	require.NoError(tr.t, err)
	require.NoError(tr.t, os.Chmod(path, 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	var proxies sync.WaitGroup
	tr.t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		proxies.Wait()
	})
	proxies.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", behind)
			if err != nil {
				_ = client.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
			proxies.Go(func() {
				_, _ = io.Copy(io.MultiWriter(server, tr), client)
				_ = server.(*net.UnixConn).CloseWrite()
			})
			proxies.Go(func() {
				_, _ = io.Copy(io.MultiWriter(client, tr), server)
				_ = client.Close()
				_ = server.Close()
			})
		}
	})
}

// search looks for needles in all that was said and in all files.
func (tr *trail) search(needles []needle) {
	tr.t.Helper()
	require.Empty(tr.t, found(tr.text(), needles), "in output or control traffic")
	files := 0
	require.NoError(tr.t, filepath.WalkDir(tr.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		require.Empty(tr.t, found(b, needles), "in %s", path)
		return err
	}))
	require.GreaterOrEqual(tr.t, files, 4)
}

// coreDumped reports whether a process left a core dump.
func coreDumped(cmd *exec.Cmd) bool {
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.CoreDump()
}
