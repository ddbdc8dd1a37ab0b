//go:build linux

package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var required = flag.Bool("natlab.required", false, "fail instead of skip where no namespaces can be made")

// binary is the command, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	if *roamNode != "" {
		if err := roam(*roamNode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if *bulkNode != "" {
		if err := throughputEnd(*bulkNode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "alknet-acceptance-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "alknet-p2p")
		build := exec.Command("go", "build", "-o", binary, "github.com/alkdev/alknet-p2p/cmd/alknet-p2p")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the command: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// oneWay is the delay of every cable; a way between two hosts crosses two.
const oneWay = 25 * time.Millisecond

func newLab(t *testing.T, public []string, peers ...natlab.Peer) *natlab.Lab {
	t.Helper()
	return natlab.Start(t, natlab.Config{Public: public, Peers: peers, Link: natlab.Link{Delay: oneWay}, Required: *required})
}

// a node is a home on disk and, while it is up, a process in a host of the lab.
type nodeProc struct {
	t    *testing.T
	host *natlab.Host
	home string
	key  string
	cmd  *exec.Cmd
	args []string
	log  *syncBuffer
	done chan struct{}
	err  error
}

func newProc(t *testing.T, host *natlab.Host, config string) *nodeProc {
	t.Helper()
	n := &nodeProc{t: t, host: host, home: filepath.Join(t.TempDir(), "home"), log: &syncBuffer{}}
	words := filepath.Join(filepath.Dir(n.home), "words")
	n.write("passphrase", "correct horse\n")
	n.mustRun("init", "--passphrase-file", n.passphrase(), "--words-file", words, "--work-factor", "10") // quick to unlock
	var key struct {
		NodeKey string `json:"node_key"`
	}
	require.NoError(t, json.Unmarshal([]byte(n.mustRun("key", "--json")), &key))
	n.key = key.NodeKey
	if config != "" {
		require.NoError(t, os.WriteFile(filepath.Join(n.home, "config.toml"), []byte(config), 0o600))
	}
	return n
}

func (n *nodeProc) passphrase() string { return filepath.Join(filepath.Dir(n.home), "passphrase") }

func (n *nodeProc) write(name, text string) {
	n.t.Helper()
	require.NoError(n.t, os.WriteFile(filepath.Join(filepath.Dir(n.home), name), []byte(text), 0o600))
}

// command is the command in the node's host, with its home.
func (n *nodeProc) command(ctx context.Context, args ...string) *exec.Cmd {
	return n.host.Command(ctx, binary, append([]string{"--home", n.home}, args...)...)
}

// up runs the node and waits until it is online.
func (n *nodeProc) up(args ...string) *nodeProc {
	n.t.Helper()
	n.args = args
	n.cmd = n.command(context.Background(), append([]string{"up", "--passphrase-file", n.passphrase()}, args...)...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.done = make(chan struct{})
	require.NoError(n.t, n.cmd.Start())
	cmd, done := n.cmd, n.done
	go func() {
		n.err = cmd.Wait()
		close(done)
	}()
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if n.t.Failed() {
			n.t.Logf("%s:\n%s", n.host.Name(), n.log.String())
		}
	})
	n.waitOnline()
	return n
}

func (n *nodeProc) waitOnline() {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		select {
		case <-n.done:
			return false
		default:
		}
		out, _, code := n.run("status", "--json")
		var st struct {
			Online bool `json:"online"`
		}
		return code == 0 && json.Unmarshal([]byte(out), &st) == nil && st.Online
	}, 20*time.Second, 50*time.Millisecond, "%s not online", n.host.Name())
}

func (n *nodeProc) kill() {
	_ = n.cmd.Process.Kill()
	<-n.done
}

// run runs a command of the node's home; code is its exit code.
func (n *nodeProc) run(args ...string) (stdout, stderr string, code int) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := n.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(n.t, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (n *nodeProc) mustRun(args ...string) string {
	n.t.Helper()
	out, errs, code := n.run(args...)
	require.Zero(n.t, code, "%v: %s", args, errs)
	return out
}

func (n *nodeProc) ticket() string { return strings.TrimSpace(n.mustRun("ticket")) }

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *syncBuffer) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Reset()
}

// roundTrip is R: peer, relay, peer and back. It is measured as two round
// trips to a listener in the relay's host.
func roundTrip(t *testing.T, from, relay *natlab.Host) time.Duration {
	t.Helper()
	addr := netip.AddrPortFrom(relay.PublicAddr(), 9)
	var l net.Listener
	require.NoError(t, relay.Do(func() (err error) {
		l, err = net.Listen("tcp4", addr.String())
		return err
	}))
	defer l.Close()
	best := time.Hour
	require.NoError(t, from.Do(func() error {
		for range 3 {
			begin := time.Now()
			c, err := net.DialTimeout("tcp4", addr.String(), 5*time.Second)
			if err != nil {
				return err
			}
			best = min(best, time.Since(begin))
			_ = c.Close()
		}
		return nil
	}))
	return 2 * best
}

// subscription is a running `subscribe`, or `call`: one that has one value.
type subscription struct {
	cmd   *exec.Cmd
	lines chan string
	errs  *syncBuffer
	done  chan struct{}
}

func (n *nodeProc) subscribe(target, op string) *subscription {
	n.t.Helper()
	return n.begin("subscribe", target, op, "{}")
}

// begin runs a command that asks for values.
func (n *nodeProc) begin(args ...string) *subscription {
	n.t.Helper()
	s := &subscription{lines: make(chan string, 1000), errs: &syncBuffer{}, done: make(chan struct{})}
	s.cmd = n.command(context.Background(), args...)
	pipe, err := s.cmd.StdoutPipe()
	require.NoError(n.t, err)
	s.cmd.Stderr = s.errs
	require.NoError(n.t, s.cmd.Start())
	go func() {
		defer close(s.done)
		dec := json.NewDecoder(pipe)
		for {
			var v json.RawMessage
			if dec.Decode(&v) != nil {
				break
			}
			s.lines <- string(v)
		}
		_ = s.cmd.Wait()
	}()
	n.t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.done
	})
	return s
}

func (s *subscription) next(t *testing.T, within time.Duration) load {
	t.Helper()
	select {
	case line := <-s.lines:
		var l load
		require.NoError(t, json.Unmarshal([]byte(line), &l))
		return l
	case <-s.done:
		t.Fatalf("the subscription ended: %s", s.errs.String())
	case <-time.After(within):
		t.Fatalf("nothing came in %s", within)
	}
	return load{}
}

// load is what the operation sys/load below emits.
type load struct {
	N   int `json:"n"`
	PID int `json:"pid"`
}

// offers are operations without Go code.
const offers = `
[[operation]]
name = "disk/free"
exec = ["df", "-P"]
input = "none"
output = "text"
scopes = []

[[operation]]
name = "disk/private"
exec = ["df", "-P"]
input = "none"
output = "text"

[[operation]]
name = "slow/second"
exec = ["sh", "-c", "sleep 1; echo done"]
input = "none"
output = "text"
scopes = []

[[operation]]
name = "sys/load"
exec = ["sh", "-c", "n=0; while :; do echo \"{\\\"n\\\":$n,\\\"pid\\\":$$}\"; n=$((n+1)); sleep 0.1; done"]
type = "subscription"
input = "none"
output = "jsonl"
scopes = []
`

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func (n *nodeProc) requireDiskFree(target string) {
	n.t.Helper()
	out := n.mustRun("call", target, "disk/free", "{}")
	var table struct {
		Text string `json:"text"`
	}
	require.NoError(n.t, json.Unmarshal([]byte(out), &table))
	require.Contains(n.t, table.Text, "Mounted on")
	require.Greater(n.t, strings.Count(table.Text, "\n"), 1)
}

// The product's main job. Two peers, each behind a home router of its own,
// know a ticket of a public relay and nothing else; one calls the other by its
// key.
func TestBehindNAT(t *testing.T) {
	lab := newLab(t, []string{"relay"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "c", Kind: natlab.UDPBlocked})
	relay := newProc(t, lab.Host("relay"), "").up("--relay")
	ticket := relay.ticket()
	a := newProc(t, lab.Host("a"), offers).up("--join", ticket)
	b := newProc(t, lab.Host("b"), "").up("--join", ticket)
	c := newProc(t, lab.Host("c"), "").up("--join", ticket)
	r := roundTrip(t, lab.Host("b"), lab.Host("relay"))
	require.InDelta(t, 8*oneWay, r, float64(2*oneWay))

	t.Run("first byte", func(t *testing.T) {
		var result struct {
			Result    string  `json:"result"`
			FirstByte float64 `json:"first_byte_ms"`
		}
		out := b.mustRun("ping", "--json", "--count", "1", a.key)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &result))
		first := time.Duration(result.FirstByte * float64(time.Millisecond))
		t.Logf("R %s, first byte after %s = %.2f R", r, first, float64(first)/float64(r))
		require.LessOrEqual(t, first, r*5/2)
	})
	t.Run("call by key", func(t *testing.T) { b.requireDiskFree(a.key) })
	t.Run("subscription ends its process", func(t *testing.T) {
		sub := b.subscribe(a.key, "sys/load")
		pid := sub.next(t, 10*time.Second).PID
		for range 5 {
			require.Equal(t, pid, sub.next(t, 5*time.Second).PID)
		}
		require.True(t, alive(pid))
		require.NoError(t, sub.cmd.Process.Signal(syscall.SIGINT))
		stopped := time.Now()
		<-sub.done
		require.Equal(t, 130, sub.cmd.ProcessState.ExitCode())
		require.Eventually(t, func() bool { return !alive(pid) }, time.Second-time.Since(stopped), 10*time.Millisecond)
	})
	t.Run("by name", func(t *testing.T) {
		b.mustRun("peer", "add", "alice", a.key)
		b.requireDiskFree("alice")
		_, errs, code := b.run("call", "alice", "disk/private", "{}")
		require.Equal(t, 4, code, errs)
		a.mustRun("peer", "add", "bob", b.key)
		a.mustRun("peer", "allow", "bob", "call:disk/private")
		require.Eventually(t, func() bool {
			_, _, code := b.run("call", "alice", "disk/private", "{}")
			return code == 0
		}, 5*time.Second, 100*time.Millisecond)
	})
	t.Run("UDP blocked", func(t *testing.T) {
		dialled := time.Now()
		c.requireDiskFree(a.key)
		t.Logf("called %s after the dial", time.Since(dialled))
	})
	t.Run("relay restarted", func(t *testing.T) {
		relay.kill()
		time.Sleep(2 * time.Second) // as long as the relay is down
		relay.up(relay.args...)
		up := time.Now()
		for _, caller := range []*nodeProc{c, b} { // c has nothing but the relay
			require.Eventually(t, func() bool {
				_, errs, code := caller.run("call", a.key, "disk/free", "{}")
				if code != 0 {
					t.Log(errs)
				}
				return code == 0
			}, 5*time.Second, 100*time.Millisecond)
			t.Logf("calls of %s work %s after the relay is back", caller.host.Name(), time.Since(up))
		}
	})
	t.Run("killed in a subscription", func(t *testing.T) {
		sub := b.subscribe(a.key, "sys/load")
		pid := sub.next(t, 10*time.Second).PID
		a.kill()
		_ = syscall.Kill(-pid, syscall.SIGKILL) // its program is an orphan now
		select {
		case <-sub.done:
			require.NotZero(t, sub.cmd.ProcessState.ExitCode())
			require.NotEmpty(t, strings.TrimSpace(sub.errs.String()))
			require.Equal(t, 1, strings.Count(strings.TrimSpace(sub.errs.String()), "\n")+1, "one line: %s", sub.errs)
		case <-time.After(32 * time.Second): // the idle time and its keep-alive
			t.Fatal("the subscription hangs")
		}
	})
	t.Run("SIGTERM drains", func(t *testing.T) {
		a.up(a.args...)
		sessions := func() int { return strings.Count(a.log.String(), "session begins") }
		before := sessions()
		result := make(chan int, 1)
		go func() {
			_, _, code := b.run("call", a.key, "slow/second", "{}")
			result <- code
		}()
		require.Eventually(t, func() bool { return sessions() > before }, 20*time.Second, 10*time.Millisecond)
		time.Sleep(500 * time.Millisecond) // the call is running by then
		require.NoError(t, a.cmd.Process.Signal(syscall.SIGTERM))
		require.Zero(t, <-result, "a running call is let finish (NODE-14)")
		select {
		case <-a.done:
			require.NoError(t, a.err)
		case <-time.After(10 * time.Second):
			t.Fatal("still up")
		}
	})
}

// The home relay dies in the middle of a subscription: it goes on over the
// other one.
func TestHomeRelayDies(t *testing.T) {
	// Two symmetric NATs: there is no direct path that could save the day.
	lab := newLab(t, []string{"one", "two"},
		natlab.Peer{Name: "a", Kind: natlab.Symmetric},
		natlab.Peer{Name: "b", Kind: natlab.Symmetric})
	one := newProc(t, lab.Host("one"), "").up("--relay")
	two := newProc(t, lab.Host("two"), "").up("--relay", "--join", one.ticket())
	relays := map[string]*nodeProc{}
	for _, n := range []*nodeProc{one, two} {
		var key struct {
			PeerID string `json:"peer_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(n.mustRun("key", "--json")), &key))
		relays[key.PeerID] = n
	}
	join := []string{"--join", one.ticket(), "--join", two.ticket()}
	a := newProc(t, lab.Host("a"), offers).up(join...)
	b := newProc(t, lab.Host("b"), "").up(join...)
	for _, n := range []*nodeProc{a, b} {
		require.Eventually(t, func() bool {
			var st struct {
				Relays []struct {
					Home bool `json:"home"`
				} `json:"relays"`
			}
			return json.Unmarshal([]byte(n.mustRun("status", "--json")), &st) == nil && len(st.Relays) == 2 && st.Relays[0].Home && st.Relays[1].Home
		}, 10*time.Second, 100*time.Millisecond)
	}
	sub := b.subscribe(a.key, "sys/load")
	last := sub.next(t, 10*time.Second)
	var st struct {
		Sessions []struct {
			Path string `json:"path"`
			Addr string `json:"addr"`
		} `json:"sessions"`
	}
	require.NoError(t, json.Unmarshal([]byte(b.mustRun("status", "--json")), &st))
	require.Len(t, st.Sessions, 1)
	require.Equal(t, "relayed", st.Sessions[0].Path)
	victim := relays[st.Sessions[0].Addr]
	require.NotNil(t, victim)
	victim.kill()
	killed := time.Now()
	var gap time.Duration
	for range 50 {
		waited := time.Now()
		next := sub.next(t, 5*time.Second)
		gap = max(gap, time.Since(waited))
		require.Equal(t, last.N+1, next.N, "nothing is lost")
		require.Equal(t, last.PID, next.PID)
		last = next
	}
	t.Logf("longest wait for an item after the kill: %s", gap)
	require.Greater(t, time.Since(killed), 3*time.Second)
	b.requireDiskFree(a.key)
}
