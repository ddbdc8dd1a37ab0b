package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg node.Config) *node.Node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	cfg.Key, cfg.Network, cfg.NoMDNS = key, "test", true
	n, err := node.New(cfg)
	require.NoError(t, err)
	require.NoError(t, n.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// The example reaches a node that its ticket places at a relay only, and ends
// on a direct path.
func TestExample(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	relay := start(t, node.Config{Relay: &node.RelayConfig{}, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	n := start(t, node.Config{Join: []string{relay.Ticket()}, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	require.Eventually(t, func() bool { // its home is elected
		ticket, err := discovery.ParseTicket(n.Ticket())
		return err == nil && len(ticket.Relays) == 1
	}, 10*time.Second, 10*time.Millisecond)
	var out bytes.Buffer
	require.NoError(t, run(ctx, n.Ticket(), &out, libp2p.DisableMetrics(), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0")))
	t.Logf("\n%s", out.String())
	require.Contains(t, out.String(), "direct 127.0.0.1:")
}
