package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
)

// runner is a node that runs a process for each call of container/exec.
type runner struct {
	*node.Node
	started chan *exec.Cmd
	ended   chan error // why a process was ended; nil: by itself
	behind  chan *auth.Identity
}

// entry is a peer of the registry with the key of a node.
func entry(name auth.PeerName, n *node.Node, scopes ...string) auth.PeerEntry {
	return auth.PeerEntry{PeerName: name, Fingerprints: []string{n.Key()}, Scopes: scopes, Enabled: true}
}

// newRunner makes a runner that serves the hub and starts it.
func newRunner(t *testing.T, hub *node.Node) *runner {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep on this system")
	}
	r := &runner{started: make(chan *exec.Cmd, 8), ended: make(chan error, 8), behind: make(chan *auth.Identity, 8)}
	r.Node = hidden(t, hub, func(c *node.Config) { c.Peers = peers(t, entry("hub", hub, "run")) })
	require.NoError(t, r.Calls().Register(call.Operation{
		Spec: call.Spec{Name: "container/exec", Type: call.OpMutation, Access: auth.Access{RequiredScopes: []string{"run"}}},
		Handler: call.HandlerFunc(func(ctx context.Context, q *call.Request) (any, error) {
			var seconds string
			if err := q.Decode(&seconds); err != nil {
				return nil, err
			}
			cmd := exec.CommandContext(ctx, sleep, seconds)
			if err := cmd.Start(); err != nil {
				return nil, err
			}
			r.behind <- q.ForwardedFor
			r.started <- cmd
			err := cmd.Wait()
			r.ended <- context.Cause(ctx)
			return q.Identity.ID, err
		}),
	}))
	start(t, r.Node)
	return r
}

// CALL-100: a hub with two runners that offer the same name; a user's abort
// reaches the right runner's process; a runner comes back under a rotated key
// with name and routes intact. Over real sockets, the runners behind a relay.
func TestCALL100HubAndRunners(t *testing.T) {
	registry := peers(t)
	hub := newNode(t, func(c *node.Config) { c.Relay, c.Peers = &node.RelayConfig{}, registry })
	dispatch := call.Operation{
		Spec:      call.Spec{Name: "dispatch/run", Type: call.OpMutation, Access: auth.Access{RequiredScopes: []string{"dispatch"}}},
		Authority: &call.CompositionAuthority{Label: "dispatcher", Scopes: []string{"run"}},
		ScopedEnv: &call.ScopedEnv{PeerPinned: []string{"runner-1/container/exec", "runner-2/container/exec"}},
		Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
			var in struct{ Runner, Seconds string }
			if err := r.Decode(&in); err != nil {
				return nil, err
			}
			return r.Env.InvokePeer(ctx, call.PeerSpecific(auth.PeerName(in.Runner)), "container/exec", in.Seconds)
		}),
	}
	order := call.Operation{
		Spec:    call.Spec{Name: "dispatch/runners"},
		Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) { return r.Env.PeerNames(), nil }),
	}
	require.NoError(t, hub.Calls().Register(dispatch, order, hub.Calls().ListPeers()))
	start(t, hub)
	one, two := newRunner(t, hub), newRunner(t, hub)
	user := start(t, hidden(t, hub, nil))
	entries := func(first *runner) []auth.PeerEntry {
		return []auth.PeerEntry{entry("runner-1", first.Node), entry("runner-2", two.Node), entry("user", user, "dispatch", "secret-scope")}
	}
	require.NoError(t, registry.Reload(&auth.Config{Auth: auth.Policy{Peers: entries(one)}}))

	// The runners dial; the hub imports, and dials nobody it has a session with.
	var imports []*node.Import
	for name, r := range map[string]*runner{"runner-1": one, "runner-2": two} {
		_, err := r.CallSession(within(t, 10*time.Second), hub.Key())
		require.NoError(t, err)
		im, err := hub.Import(name, adapt.FromCallConfig{})
		require.NoError(t, err)
		require.NoError(t, im.Ready(within(t, 10*time.Second)), name)
		imports = append(imports, im)
	}
	session, err := user.CallSession(within(t, 10*time.Second), hub.Key())
	require.NoError(t, err)
	run := func(ctx context.Context, runner, seconds string) (string, error) {
		out, err := session.Call(ctx, "dispatch/run", map[string]string{"Runner": runner, "Seconds": seconds})
		return string(out), err
	}

	// Two calls of the same name at two runners.
	type result struct {
		out string
		err error
	}
	results := map[string]chan result{"runner-1": make(chan result, 1), "runner-2": make(chan result, 1)}
	aborts := map[string]context.CancelFunc{}
	for name, ch := range results {
		ctx, cancel := context.WithCancel(within(t, 30*time.Second))
		aborts[name] = cancel
		go func() {
			out, err := run(ctx, name, "300")
			ch <- result{out, err}
		}()
	}
	first, second := <-one.started, <-two.started
	for _, r := range []*runner{one, two} {
		claim := <-r.behind
		require.Equal(t, "user", claim.ID)
		require.Contains(t, claim.Scopes, "dispatch") // CALL-96
	}

	aborts["runner-2"]()
	require.ErrorIs(t, (<-results["runner-2"]).err, call.ErrAborted)
	select {
	case cause := <-two.ended:
		require.ErrorIs(t, cause, call.ErrAborted)
	case <-time.After(10 * time.Second):
		t.Fatal("the abort has not reached the process")
	}
	require.NotNil(t, second.ProcessState)
	require.Empty(t, one.ended, "the other runner's process goes on")
	require.Nil(t, first.ProcessState)

	// Runner 1 drops: what runs there fails, and it is not found any more.
	require.NoError(t, one.Close())
	require.ErrorIs(t, (<-results["runner-1"]).err, call.ErrInternal)
	<-one.ended
	require.Eventually(t, func() bool {
		_, err := run(within(t, 10*time.Second), "runner-1", "0")
		return errors.Is(err, call.ErrNotFound)
	}, 10*time.Second, 10*time.Millisecond)
	out, err := run(within(t, 10*time.Second), "runner-2", "0")
	require.NoError(t, err)
	require.Equal(t, `"hub"`, out, "the runner authorises the hub")

	// It comes back under another key, and is what it was (CALL-75, NODE-26).
	back := newRunner(t, hub)
	require.NotEqual(t, one.Key(), back.Key())
	require.NoError(t, registry.Reload(&auth.Config{Auth: auth.Policy{Peers: entries(back)}}))
	hub.Recheck()
	_, err = back.CallSession(within(t, 10*time.Second), hub.Key())
	require.NoError(t, err)
	for _, im := range imports {
		require.NoError(t, im.Ready(within(t, 10*time.Second)))
	}
	out, err = run(within(t, 10*time.Second), "runner-1", "0")
	require.NoError(t, err)
	require.Equal(t, `"hub"`, out)
	require.NoError(t, <-back.ended)
	names, err := session.Call(within(t, 10*time.Second), "dispatch/runners", nil)
	require.NoError(t, err)
	var kept []string
	require.NoError(t, json.Unmarshal(names, &kept))
	require.ElementsMatch(t, []string{"runner-1", "runner-2"}, kept)

	// Refresh asks again; a closed import does not.
	require.NoError(t, imports[0].Refresh(within(t, 10*time.Second)))
	for _, im := range imports {
		require.NoError(t, im.Close())
		require.NoError(t, im.Close())
	}
	_, err = hub.Import("nobody", adapt.FromCallConfig{})
	require.ErrorIs(t, err, node.ErrUnknownTarget)
}

// A peer given by its key and unknown to the registry is imported as a
// stranger: by the UUID of its session, for as long as that lasts.
func TestImportOfAStranger(t *testing.T) {
	relay := newRelay(t)
	stranger := start(t, hidden(t, relay, nil))
	require.NoError(t, stranger.Online(within(t, 10*time.Second)))
	n := hidden(t, relay, nil)
	_, err := n.Import(stranger.Key(), adapt.FromCallConfig{})
	require.Error(t, err, "not before Start")
	var at auth.PeerName
	var viaAny, viaName error
	require.NoError(t, n.Calls().Register(call.Operation{
		Spec:      call.Spec{Name: "test/do"},
		ScopedEnv: &call.ScopedEnv{AllowedOps: []string{"far/node/info"}},
		Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
			_, viaAny = r.Env.InvokePeer(ctx, call.PeerAny(), "far/node/info", nil)
			_, viaName = r.Env.Invoke(ctx, "far/node/info", nil)
			return r.Env.InvokePeer(ctx, call.PeerSpecific(at), "far/node/info", nil)
		}),
	}))
	start(t, n)
	im, err := n.Import(stranger.Key(), adapt.FromCallConfig{NamespacePrefix: "far"})
	require.NoError(t, err)
	require.NoError(t, im.Ready(within(t, 20*time.Second)))
	s, err := n.CallSession(within(t, 10*time.Second), stranger.Key())
	require.NoError(t, err)
	at = s.Peer().PeerName
	user := start(t, hidden(t, relay, nil))
	out, err := user.Call(within(t, 10*time.Second), n.Key(), "test/do", nil)
	require.NoError(t, err)
	var info node.Info
	require.NoError(t, json.Unmarshal(out, &info))
	require.Equal(t, stranger.Key(), info.NodeKey)
	require.ErrorIs(t, viaAny, call.ErrNotFound)
	require.ErrorIs(t, viaName, call.ErrNotFound)
}
