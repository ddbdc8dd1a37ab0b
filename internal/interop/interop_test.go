package interop

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/ping"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

var required = flag.Bool("interop.required", false, "fail instead of skip where no js-libp2p node can be run")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	network   = "test"
	installIn = 5 * time.Minute
)

// sources are the files of the js-libp2p node.
var sources = []string{"package.json", "package-lock.json", "polyfill.mjs", "ping.mjs", "call.mjs", "peer.mjs"}

// modules installs what package-lock.json names, once on a machine for one
// content of that file, and returns the folder.
var modules = sync.OnceValues(func() (string, error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%w; install Node.js 20 or later, with npm", err)
		}
	}
	lock, err := os.ReadFile("js/package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "alknet-p2p-interop", hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := copyTo(fresh, "package.json", "package-lock.json"); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), installIn)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = fresh
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, os.ErrExist) {
		if _, there := os.Stat(dir); there != nil { // nor did another run put it there
			return "", err
		}
	}
	return dir, nil
})

// nodeFlags turn on what Node.js 20 and 21 have, but not by default.
func nodeFlags(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "node", "--version").Output()
	if version := string(out); err == nil && (strings.HasPrefix(version, "v20.") || strings.HasPrefix(version, "v21.")) {
		return []string{"--experimental-websocket"}
	}
	return nil
}

func copyTo(dir string, names ...string) error {
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join("js", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// jsNode is a running js-libp2p node.
type jsNode struct {
	ID    peer.ID
	Addrs []ma.Multiaddr
	in    io.Writer
	out   *bufio.Scanner
}

// startJS runs a js-libp2p node that listens on the addresses given.
func startJS(t *testing.T, listen ...string) *jsNode {
	t.Helper()
	installed, err := modules()
	if err != nil {
		if *required {
			t.Fatalf("js-libp2p is required: %v", err)
		}
		t.Skipf("no js-libp2p: %v", err)
	}
	dir := t.TempDir()
	require.NoError(t, copyTo(dir, sources...))
	require.NoError(t, os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules")))

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	args := append(nodeFlags(ctx), "--import", "./polyfill.mjs", "peer.mjs")
	cmd := exec.CommandContext(ctx, "node", append(args, listen...)...)
	cmd.Dir = dir
	cmd.Stderr = &testLog{t: t}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		defer cancel()
		_ = in.Close()
		require.NoError(t, cmd.Wait(), "the js-libp2p node ends when its input does")
	})
	js := &jsNode{in: in, out: bufio.NewScanner(out)}
	var hello struct {
		PeerID string   `json:"peer_id"`
		Addrs  []string `json:"addrs"`
	}
	require.True(t, js.out.Scan(), "the js-libp2p node did not start: %v", js.out.Err())
	require.NoError(t, json.Unmarshal(js.out.Bytes(), &hello))
	js.ID, err = peer.Decode(hello.PeerID)
	require.NoError(t, err)
	for _, text := range hello.Addrs {
		info, err := peer.AddrInfoFromString(text)
		require.NoError(t, err)
		js.Addrs = append(js.Addrs, info.Addrs...)
	}
	return js
}

// do has the node do something and reads the value it answers.
func (js *jsNode) do(t *testing.T, value any, command map[string]any) {
	t.Helper()
	line, err := json.Marshal(command)
	require.NoError(t, err)
	_, err = js.in.Write(append(line, '\n'))
	require.NoError(t, err)
	require.True(t, js.out.Scan(), "the js-libp2p node is gone: %v", js.out.Err())
	var answer struct {
		Value json.RawMessage `json:"value"`
		Error string          `json:"error"`
	}
	require.NoError(t, json.Unmarshal(js.out.Bytes(), &answer))
	require.Empty(t, answer.Error)
	require.NoError(t, json.Unmarshal(answer.Value, value))
}

// testLog passes what the process says on standard error to the test's log.
type testLog struct{ t *testing.T }

func (l *testLog) Write(b []byte) (int, error) {
	l.t.Logf("js: %s", b)
	return len(b), nil
}

func newNode(t *testing.T, listen ...string) *node.Node {
	t.Helper()
	return newServer(t, nil, listen...)
}

// newServer starts a node with operations of its own.
func newServer(t *testing.T, ops []call.Operation, listen ...string) *node.Node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	n, err := node.New(node.Config{Key: key, Network: network, Listen: append([]string{}, listen...), NoMDNS: true})
	require.NoError(t, err)
	require.NoError(t, n.Calls().Register(ops...))
	require.NoError(t, n.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// addr is the node's one address, with its peer ID, as js-libp2p dials it.
func addr(t *testing.T, n *node.Node) string {
	t.Helper()
	ticket, err := discovery.ParseTicket(n.Ticket())
	require.NoError(t, err)
	require.Len(t, ticket.Addrs, 1)
	return fmt.Sprintf("%s/p2p/%s", ticket.Addrs[0], n.ID())
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

var ways = map[string]string{"TCP": "/ip4/127.0.0.1/tcp/0", "WebSocket": "/ip4/127.0.0.1/tcp/0/ws"}

// A js-libp2p node dials ours: identify, pings, a call; and ours calls back by
// its key over the connection there is.
func TestJSDialsUs(t *testing.T) {
	for way, listen := range ways {
		t.Run(way, func(t *testing.T) {
			js := startJS(t) // listens nowhere
			ours := newNode(t, listen)
			at := addr(t, ours)

			var dialled struct {
				PeerID string `json:"peer_id"`
			}
			js.do(t, &dialled, map[string]any{"do": "dial", "addr": at})
			require.Equal(t, ours.ID().String(), dialled.PeerID)

			var pongs int
			js.do(t, &pongs, map[string]any{"do": "ping", "addr": at, "count": 20})
			require.Equal(t, 20, pongs)

			var answer outcome
			input := map[string]any{"text": "grüße", "list": []int{1, 2, 3}}
			js.do(t, &answer, map[string]any{"do": "call", "addr": at, "operation": "node/echo", "input": input})
			want, err := json.Marshal(input)
			require.NoError(t, err)
			require.JSONEq(t, string(want), string(answer.Output))

			var said struct {
				Agent     string   `json:"agent"`
				Protocols []string `json:"protocols"`
			}
			require.Eventually(t, func() bool {
				js.do(t, &said, map[string]any{"do": "identified", "addr": at})
				return said.Agent != ""
			}, 10*time.Second, 20*time.Millisecond)
			require.Equal(t, "alknet-p2p", said.Agent)
			require.Contains(t, said.Protocols, "/"+call.ALPN)
			require.Contains(t, said.Protocols, "/"+ping.ALPN)

			back, err := ours.Call(within(t, 10*time.Second), js.ID.String(), "js/greet", "go")
			require.NoError(t, err)
			require.JSONEq(t, `{"hello":"go","from":"js"}`, string(back))
		})
	}
}

// Ours dials a js-libp2p node by a ticket that names its address.
func TestWeDialJS(t *testing.T) {
	for way, listen := range ways {
		t.Run(way, func(t *testing.T) {
			js := startJS(t, listen)
			require.Len(t, js.Addrs, 1)
			ticket, err := discovery.NewTicket(network, js.ID, nil, js.Addrs)
			require.NoError(t, err)
			ours := newNode(t)

			out, err := ours.Call(within(t, 20*time.Second), ticket.String(), "js/greet", "go")
			require.NoError(t, err)
			require.JSONEq(t, `{"hello":"go","from":"js"}`, string(out))

			_, err = ours.Call(within(t, 10*time.Second), js.ID.String(), "js/none", nil)
			var failure *call.Error
			require.ErrorAs(t, err, &failure)
			require.Equal(t, call.CodeNotFound, failure.Code)

			replies, result := ours.Ping(within(t, 20*time.Second), js.ID.String(), node.PingOptions{Count: 3, Interval: time.Millisecond})
			for reply := range replies {
				require.False(t, reply.Lost)
			}
			require.NoError(t, result.Err)
			require.Equal(t, "direct", result.Result)
		})
	}
}
