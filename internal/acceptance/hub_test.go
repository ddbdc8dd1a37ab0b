//go:build linux

package acceptance

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// CALL-100: a hub with two runners that offer the same name; a user's abort
// reaches the right runner's process; a runner comes back under a rotated key
// with name and routes intact. Runners and user are the command, each behind a
// home router of its own.
func TestCALL100HubAndRunnersBehindNATs(t *testing.T) {
	home := func(name string) natlab.Peer { return natlab.Peer{Name: name, Kind: natlab.PortRestricted} }
	lab := natlab.Config{
		Public:   []string{"relay"},
		Peers:    []natlab.Peer{home("runner1"), home("runner2"), home("user")},
		Link:     natlab.Link{Delay: 6 * time.Millisecond},
		Required: *required,
	}
	public, natted := lab, lab
	public.Public = append(public.Public, "hub")
	natted.Peers = append(natted.Peers, home("hub"))
	t.Run("public hub", func(t *testing.T) { hubAndRunners(t, natlab.Start(t, public)) })
	t.Run("hub behind NAT", func(t *testing.T) { hubAndRunners(t, natlab.Start(t, natted)) })
}

func hubAndRunners(t *testing.T, lab *natlab.Lab) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	hubKey := fmt.Sprintf("ed25519:%x", public)
	ticket := newProc(t, lab.Host("relay"), "").up("--relay").ticket()
	one, two := newJobRunner(t, lab, "runner1"), newJobRunner(t, lab, "runner2")
	user := &jobUser{newProc(t, lab.Host("user"), "").up("--join", ticket), hubKey}
	for _, r := range []*jobRunner{one, two} {
		r.mustRun("peer", "add", "hub", hubKey, "--scope", "call:container/exec")
		r.up("--join", ticket)
	}
	entry := func(name, key string, scopes ...string) auth.PeerEntry {
		return auth.PeerEntry{PeerName: auth.PeerName(name), Fingerprints: []string{key}, Scopes: scopes, Enabled: true}
	}
	newRoamer(t, lab.Host("hub"), roamConfig{Seed: private.Seed(), Join: []string{ticket}, Hub: []auth.PeerEntry{
		entry("runner1", one.key, "join"), entry("runner2", two.key, "join"), entry("user", user.key, "run", "operate"),
	}})

	// The runners dial the hub, which imports what they offer. They let the hub
	// run jobs, and nobody else.
	one.mustRun("call", hubKey, "hub/join")
	two.mustRun("call", hubKey, "hub/join")
	require.Equal(t, "at runner1", user.runs("runner1"))
	require.Equal(t, "at runner2", user.runs("runner2"))
	require.Equal(t, "at runner1", user.runs(""), "the first of those that offer it")
	_, errs, code := user.run("call", one.key, "container/exec", "0")
	require.Equal(t, 4, code, errs)

	// Of two jobs of the same name, the one that is aborted ends.
	goesOn, first := user.begins(one)
	aborted, second := user.begins(two)
	user.aborts(aborted, second)
	require.True(t, alive(first), "the other runner's process goes on")

	// A runner drops: its job fails, and it is not found any more.
	require.NoError(t, one.cmd.Process.Signal(syscall.SIGTERM))
	<-one.done
	require.False(t, alive(first))
	<-goesOn.done
	require.Equal(t, 1, goesOn.cmd.ProcessState.ExitCode())
	require.Contains(t, goesOn.errs.String(), "INTERNAL")
	require.Eventually(t, func() bool { return strings.Contains(user.runs("runner1"), "NOT_FOUND") }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, "at runner2", user.runs(""))

	// It comes back under another key, and is what it was: by its name, and as
	// the first.
	one.mustRun("vault", "rotate-identity", "--revoke", "--passphrase-file", one.passphrase())
	var rotated struct {
		NodeKey string `json:"node_key"`
	}
	require.NoError(t, json.Unmarshal([]byte(one.mustRun("key", "--json")), &rotated))
	require.NotEqual(t, one.key, rotated.NodeKey)
	user.mustRun("call", hubKey, "hub/rekey", fmt.Sprintf(`{"Peer":"runner1","Key":%q}`, rotated.NodeKey))
	one.up("--join", ticket)
	one.mustRun("ops", hubKey)
	require.Eventually(t, func() bool { return user.runs("runner1") == "at runner1" }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, "at runner1", user.runs(""))
	job, pid := user.begins(one)
	user.aborts(job, pid)
}

// hub is the program between the user and the runners, until standard input
// ends.
func hub(key ed25519.PrivateKey, cfg roamConfig, log *slog.Logger) error {
	registry, err := auth.NewPeers(&auth.Config{Auth: auth.Policy{Peers: cfg.Hub}})
	if err != nil {
		return err
	}
	n, err := node.New(node.Config{Key: key, Join: cfg.Join, NoMDNS: true, Peers: registry, Logger: log})
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.Calls().Register(hubOperations(n, registry)...); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := n.Start(ctx); err != nil {
		return err
	}
	online, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := n.Online(online); err != nil {
		return err
	}
	ended := inputEnds()
	if err := newLines().tell(roamLine{Ready: &roamReady{Key: n.Key()}}); err != nil {
		return err
	}
	<-ended
	return nil
}

// hubOperations are what the hub offers: to runners, that their operations are
// imported; to users, jobs at the runner they name, or at any; to operators,
// that a peer has another key.
func hubOperations(n *node.Node, registry *auth.Peers) []call.Operation {
	needs := func(scope string) auth.Access { return auth.Access{RequiredScopes: []string{scope}} }
	return []call.Operation{
		{
			Spec: call.Spec{Name: "hub/join", Type: call.OpMutation, Access: needs("join")},
			Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
				im, err := n.Import(r.Identity.ID, adapt.FromCallConfig{})
				if err != nil {
					return nil, err
				}
				return nil, im.Ready(ctx)
			}),
		},
		{
			Spec:      call.Spec{Name: "hub/run", Type: call.OpMutation, Access: needs("run")},
			Authority: &call.CompositionAuthority{Label: "hub", Scopes: []string{"call:container/exec"}},
			ScopedEnv: &call.ScopedEnv{AllowedOps: []string{"container/exec"}},
			Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
				var in struct {
					Runner  auth.PeerName
					Seconds int
				}
				if err := r.Decode(&in); err != nil {
					return nil, err
				}
				at := call.PeerAny()
				if in.Runner != "" {
					at = call.PeerSpecific(in.Runner)
				}
				return r.Env.InvokePeer(ctx, at, "container/exec", in.Seconds)
			}),
		},
		{
			Spec: call.Spec{Name: "hub/rekey", Type: call.OpMutation, Access: needs("operate")},
			Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
				var in struct {
					Peer auth.PeerName
					Key  string
				}
				if err := r.Decode(&in); err != nil {
					return nil, err
				}
				cfg := registry.Config()
				for i, p := range cfg.Auth.Peers {
					if p.PeerName == in.Peer {
						cfg.Auth.Peers[i].Fingerprints = []string{in.Key}
					}
				}
				defer n.Recheck()
				return nil, registry.Reload(cfg)
			}),
		},
	}
}

// jobRunner is the command, offering jobs.
type jobRunner struct {
	*nodeProc
	name string
	file string // where a job writes its process ID
}

func newJobRunner(t *testing.T, lab *natlab.Lab, name string) *jobRunner {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pid")
	return &jobRunner{name: name, file: file, nodeProc: newProc(t, lab.Host(name), fmt.Sprintf(`
[[operation]]
name = "container/exec"
exec = ["sh", "-c", "read seconds; echo $$ >%s; sleep $seconds; echo at %s"]
type = "mutation"
output = "text"
timeout = "5m"
`, file, name))}
}

// process waits for the job that runs, and returns its process.
func (r *jobRunner) process() (pid int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		text, err := os.ReadFile(r.file)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	}, 10*time.Second, 10*time.Millisecond, "no job at %s", r.name)
	require.True(r.t, alive(pid))
	return pid
}

// jobUser is the command, calling the hub.
type jobUser struct {
	*nodeProc
	hub string
}

func (u *jobUser) order(runner string, seconds int) []string {
	return []string{"call", "--timeout", "5m", u.hub, "hub/run", fmt.Sprintf(`{"Runner":%q,"Seconds":%d}`, runner, seconds)}
}

// runs runs a short job, at any runner when that is "", and says at which it
// was, or why at none.
func (u *jobUser) runs(runner string) string {
	u.t.Helper()
	out, errs, _ := u.run(u.order(runner, 0)...)
	var said struct{ Text string }
	if json.Unmarshal([]byte(out), &said) != nil {
		return errs
	}
	return strings.TrimSpace(said.Text)
}

// begins begins a long job and returns its call and its process.
func (u *jobUser) begins(at *jobRunner) (job *subscription, pid int) {
	u.t.Helper()
	require.NoError(u.t, os.RemoveAll(at.file))
	job = u.begin(u.order(at.name, 300)...)
	return job, at.process()
}

// aborts ends a job by an interrupt: its process is gone within a second.
func (u *jobUser) aborts(job *subscription, pid int) {
	u.t.Helper()
	aborted := time.Now()
	require.NoError(u.t, job.cmd.Process.Signal(syscall.SIGINT))
	require.Eventually(u.t, func() bool { return !alive(pid) }, time.Second, 5*time.Millisecond)
	u.t.Logf("process gone %s after the interrupt", time.Since(aborted).Round(time.Millisecond))
	<-job.done
	require.Equal(u.t, 130, job.cmd.ProcessState.ExitCode())
}
