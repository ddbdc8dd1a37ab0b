package node_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}

func newNode(t *testing.T, change func(*node.Config)) *node.Node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	cfg := node.Config{Key: key, Network: "test", Listen: loopback, NoMDNS: true}
	if change != nil {
		change(&cfg)
	}
	n, err := node.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

func start(t *testing.T, n *node.Node) *node.Node {
	t.Helper()
	require.NoError(t, n.Start(t.Context()))
	return n
}

func newRelay(t *testing.T) *node.Node {
	return start(t, newNode(t, func(c *node.Config) { c.Relay = &node.RelayConfig{} }))
}

// hidden makes a node that listens on nothing: it is reached over relays only.
func hidden(t *testing.T, relay *node.Node, change func(*node.Config)) *node.Node {
	return newNode(t, func(c *node.Config) {
		c.Join, c.Listen = []string{relay.Ticket()}, []string{}
		if change != nil {
			change(c)
		}
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func peers(t *testing.T, entries ...auth.PeerEntry) *auth.Peers {
	t.Helper()
	p, err := auth.NewPeers(&auth.Config{Auth: auth.Policy{Peers: entries}})
	require.NoError(t, err)
	return p
}

func ticker(release chan struct{}) call.Operation {
	return call.Operation{
		Spec: call.Spec{Name: "clock/ticks", Type: call.OpSubscription},
		Stream: call.StreamHandlerFunc(func(ctx context.Context, _ *call.Request, emit func(any) error) error {
			if release != nil {
				defer close(release)
			}
			for i := 0; ; i++ {
				if err := emit(i); err != nil {
					return err
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(5 * time.Millisecond):
				}
			}
		}),
	}
}

// The main job: a node that listens nowhere is dialled by its key, called and
// subscribed to; the abort of the subscription reaches its handler.
func TestCallAndSubscribeByKey(t *testing.T) {
	relay := newRelay(t)
	a := hidden(t, relay, nil)
	released := make(chan struct{})
	require.NoError(t, a.Calls().Register(ticker(released)))
	start(t, a)
	b := start(t, hidden(t, relay, nil))
	require.NoError(t, a.Online(within(t, 10*time.Second)))

	out, err := b.Call(within(t, 10*time.Second), a.Key(), "node/echo", json.RawMessage(`{"n":9007199254740993}`))
	require.NoError(t, err)
	require.JSONEq(t, `{"n":9007199254740993}`, string(out))

	sub, err := b.Subscribe(within(t, 20*time.Second), a.Key(), "clock/ticks", nil)
	require.NoError(t, err)
	for i := range 20 {
		v, err := sub.Next(within(t, 10*time.Second))
		require.NoError(t, err)
		var n int
		require.NoError(t, json.Unmarshal(v, &n))
		require.Equal(t, i, n)
	}
	require.NoError(t, sub.Close())
	select {
	case <-released:
	case <-time.After(5 * time.Second):
		t.Fatal("the handler still runs")
	}

	st := b.Status()
	require.Len(t, st.Sessions, 1)
	require.Equal(t, "relayed", st.Sessions[0].Path)
	require.Equal(t, a.ID().String(), st.Sessions[0].PeerID)
	require.NotNil(t, st.HomeRelay)
	require.Equal(t, relay.ID().String(), *st.HomeRelay)
}

// NODE-52: a name is dialled by the keys of its entry, and whoever answers must
// be that name; the callee sees who calls and applies the operation's Access.
func TestNODE52NamesAndRights(t *testing.T) {
	relay := newRelay(t)
	aPeers := peers(t)
	a := hidden(t, relay, func(c *node.Config) { c.Peers = aPeers })
	who := call.Operation{
		Spec: call.Spec{Name: "who/am", Access: auth.Access{RequiredScopes: []string{"call:who/am"}}},
		Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
			return r.Identity.ID, nil
		}),
	}
	require.NoError(t, a.Calls().Register(who))
	start(t, a)
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	b := start(t, hidden(t, relay, func(c *node.Config) {
		c.Peers = peers(t, auth.PeerEntry{PeerName: "a", Fingerprints: []string{a.Key()}, Enabled: true})
	}))

	_, err := b.Call(within(t, 10*time.Second), "a", "who/am", nil)
	require.ErrorIs(t, err, call.ErrForbidden)
	require.NoError(t, aPeers.Reload(&auth.Config{Auth: auth.Policy{Peers: []auth.PeerEntry{{
		PeerName: "b", Fingerprints: []string{b.Key()}, Scopes: []string{"call:who/am"}, Enabled: true,
	}}}}))
	a.Recheck() // the stranger's session ends; the next one has a name
	require.Eventually(t, func() bool {
		out, err := b.Call(within(t, 10*time.Second), "a", "who/am", nil)
		return err == nil && string(out) == `"b"`
	}, 10*time.Second, 20*time.Millisecond)

	_, err = b.Call(within(t, 10*time.Second), "nobody", "who/am", nil)
	require.ErrorIs(t, err, node.ErrUnknownTarget)
	require.NotErrorIs(t, err, node.ErrMalformedTarget)
}

// Refusals a caller can tell apart.
func TestRefusals(t *testing.T) {
	relay := newRelay(t)
	b := start(t, hidden(t, relay, nil))
	require.NoError(t, b.Online(within(t, 10*time.Second)))
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	nobody, err := node.New(node.Config{Key: key})
	require.NoError(t, err)
	_, err = b.Call(within(t, 25*time.Second), nobody.Key(), "node/info", nil)
	require.ErrorIs(t, err, transport.ErrUnreachable)
	_, err = b.Call(within(t, 10*time.Second), relay.Key(), "no/such", nil)
	require.ErrorIs(t, err, call.ErrNotFound)
	_, err = b.Open(within(t, 10*time.Second), relay.Key(), "alknet/unheard-of")
	require.ErrorIs(t, err, protocols.ErrNoHandler)
	for _, malformed := range []string{"ed25519:00", "12D3KooWnone", "alk1!"} {
		_, err = b.Call(within(t, 10*time.Second), malformed, "node/info", nil)
		require.ErrorIs(t, err, node.ErrUnknownTarget)
		require.ErrorIs(t, err, node.ErrMalformedTarget)
	}
	other, err := node.New(node.Config{Key: key, Join: []string{relay.Ticket()}})
	require.Error(t, err, "a ticket of another network")
	require.Nil(t, other)
}

// A subscription that its callee's death cuts off ends with an error, in time.
func TestPeerDies(t *testing.T) {
	relay := newRelay(t)
	a := hidden(t, relay, nil)
	require.NoError(t, a.Calls().Register(ticker(nil)))
	start(t, a)
	b := start(t, hidden(t, relay, nil))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	sub, err := b.Subscribe(within(t, 60*time.Second), a.Key(), "clock/ticks", nil)
	require.NoError(t, err)
	_, err = sub.Next(within(t, 10*time.Second))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	for err == nil {
		_, err = sub.Next(within(t, 10*time.Second))
	}
	var ce *call.Error
	require.ErrorAs(t, err, &ce)
}

// Ping reports round trips and the path.
func TestPing(t *testing.T) {
	relay := newRelay(t)
	a := start(t, hidden(t, relay, nil))
	b := start(t, hidden(t, relay, nil))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	replies, result := b.Ping(within(t, 10*time.Second), a.Key(), node.PingOptions{Count: 3, Interval: 10 * time.Millisecond})
	seq := 0
	for r := range replies {
		seq++
		require.Equal(t, seq, r.Seq)
		require.False(t, r.Lost)
		require.Equal(t, "relayed", r.Path)
		require.Equal(t, relay.ID().String(), r.Addr)
	}
	require.Equal(t, 3, seq)
	require.Equal(t, "relayed", result.Result)
	require.NotNil(t, result.FirstByte)
	require.Nil(t, result.Direct)
}

// A node that runs enters a network it was not started with.
func TestJoinWhileRunning(t *testing.T) {
	relay := newRelay(t)
	a := start(t, hidden(t, relay, nil))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	late := start(t, newNode(t, func(c *node.Config) { c.Listen = []string{} }))
	_, err := late.Call(within(t, time.Second), a.Key(), "node/info", nil)
	require.Error(t, err)

	require.Error(t, late.Join("alk1nonsense"))
	stranger := start(t, newNode(t, func(c *node.Config) { c.Network = "another" }))
	require.ErrorContains(t, late.Join(stranger.Ticket()), `network "another"`)
	require.NoError(t, late.Join(relay.Ticket()))
	_, err = late.Call(within(t, 10*time.Second), a.Key(), "node/info", nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return late.Status().HomeRelay != nil }, 10*time.Second, 10*time.Millisecond)
}
