package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// scripted answers as the test wants, in place of a node.
type scripted struct {
	peerNode
	asked   request
	failure error
	left    chan struct{} // closed when a subscriber has left
}

func (s *scripted) ping(_ context.Context, r request, reply func(node.Ping) error) (*node.PingResult, error) {
	s.asked = r
	if err := reply(node.Ping{Seq: 1}); err != nil {
		return nil, err
	}
	return &node.PingResult{Result: "failed"}, s.failure
}

func (s *scripted) call(_ context.Context, r request) (json.RawMessage, error) {
	s.asked = r
	return r.Input, s.failure
}

func (s *scripted) subscribe(ctx context.Context, _ request, item func(json.RawMessage) error) error {
	for {
		if err := item(json.RawMessage(`1`)); err != nil || ctx.Err() != nil {
			close(s.left)
			return err
		}
	}
}

// scriptedOwner has nothing to reload.
type scriptedOwner struct{ ownNode }

func (scriptedOwner) reload() (*reloadReport, error) { return new(reloadReport), nil }

func serveScripted(t *testing.T, h home, n peerNode) *client {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	s, err := serveControl(h, n, scriptedOwner{}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(s.close)
	return newClient(h)
}

func TestControlCarriesRequestsAndFailures(t *testing.T) {
	n := &scripted{}
	c := serveScripted(t, home(t.TempDir()), n)

	// Bytes of JSON go through as they are.
	r := request{Target: "alice", Operation: "a/b", Input: json.RawMessage(`{"n":12345678901234567890,"z":1,"a":"<&>"}`), Timeout: duration{1500}}
	out, err := c.call(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, string(r.Input), string(out))
	require.Equal(t, r, n.asked)
	_, err = c.reload(t.Context())
	require.NoError(t, err)

	n.failure = call.Errorf("DISK_FULL", "no room").WithDetails(map[string]int{"left": 0})
	_, err = c.call(t.Context(), r)
	var f *failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, &failure{Code: "DISK_FULL", Message: "no room", Details: json.RawMessage(`{"left":0}`), exit: exitFailed, called: true}, f)
	require.EqualError(t, f, "DISK_FULL: no room")

	for err, exit := range map[error]int{
		call.Errorf(call.CodeForbidden, "no"):                   exitDenied,
		call.Errorf(call.CodeTimeout, "late"):                   exitTimeout,
		call.Errorf("UNREACHABLE", "said it"):                   exitFailed, // an operation's code is not ours
		failf(exitUnreachable, codeUnreachable, "nobody there"): exitUnreachable,
		context.DeadlineExceeded:                                exitTimeout,
		errors.New("anything"):                                  exitFailed,
	} {
		n.failure = err
		_, got := c.call(t.Context(), r)
		require.ErrorAs(t, got, &f)
		require.Equal(t, exit, f.exit, err)
	}

	// A ping that fails has a result and an error.
	n.failure = failf(exitUnreachable, codeUnreachable, "nobody there")
	replies := 0
	result, err := c.ping(t.Context(), r, func(node.Ping) error { replies++; return nil })
	require.EqualError(t, err, "nobody there")
	require.Equal(t, "failed", result.Result)
	require.Equal(t, 1, replies)
}

func TestControlEndsWhatNobodyReads(t *testing.T) {
	n := &scripted{left: make(chan struct{})}
	c := serveScripted(t, home(t.TempDir()), n)
	ctx, cancel := context.WithCancel(t.Context())
	items := 0
	err := c.subscribe(ctx, request{}, func(json.RawMessage) error {
		if items++; items == 3 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	<-n.left
}

// A home with a long path has its socket elsewhere, the same one
// for every process and not where the environment says.
func TestControlOfALongHome(t *testing.T) {
	long := home(filepath.Join(t.TempDir(), strings.Repeat("x", 120)))
	require.NoError(t, long.make())
	t.Setenv("TMPDIR", t.TempDir())
	path, own := long.socket()
	require.True(t, own)
	require.LessOrEqual(t, len(path), maxSocketPath)
	require.True(t, strings.HasPrefix(path, "/tmp/alknet-p2p-"), path)

	c := serveScripted(t, long, &scripted{})
	_, err := c.call(t.Context(), request{Input: json.RawMessage(`1`)})
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	folder, err := os.Stat(filepath.Dir(path))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), folder.Mode().Perm())
}

// A socket that a killed node left behind is replaced.
func TestControlReplacesAStaleSocket(t *testing.T) {
	h := home(t.TempDir())
	path, _ := h.socket()
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, err := newClient(h).status(t.Context())
	require.True(t, isNotRunning(err), err)
	_, err = serveScripted(t, h, &scripted{}).call(t.Context(), request{Input: json.RawMessage(`1`)})
	require.NoError(t, err)
}

func TestNothingSteersTheTerminal(t *testing.T) {
	require.Equal(t, "a b\ufffd[31mred", oneLine("a\nb\x1b[31mred"))
	require.Equal(t, `{"a":"\u009b31m\u202e","b":"ü"}`, string(escapeUnprintable([]byte("{\"a\":\"\u009b31m\u202e\",\"b\":\"ü\"}"))))
}

func TestInputs(t *testing.T) {
	a := &app{out: io.Discard, err: io.Discard}
	in, err := a.input(nil)
	require.NoError(t, err)
	require.Equal(t, `{}`, string(in))
	for _, bad := range []string{"", "{", "{} {}", `{"a":1,"a":2}`, "@" + filepath.Join(t.TempDir(), "none")} {
		_, err := a.input([]string{bad})
		require.Error(t, err, bad)
	}
}

func FuzzConfig(f *testing.F) {
	scripts, err := os.ReadFile("testdata/config.txt")
	require.NoError(f, err)
	for file := range strings.SplitSeq(string(scripts), "\n-- ") {
		if _, text, ok := strings.Cut(file, " --\n"); ok {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig("config.toml", text)
		if err == nil {
			_, err := c.operations(slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			return
		}
		var at *configError
		require.ErrorAs(t, err, &at)
		require.NotContains(t, at.Error(), "\n")
	})
}
