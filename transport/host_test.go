package transport_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const echoID protocol.ID = "/test/echo"

// loopback are the addresses hosts of these tests listen on.
var loopback = []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}

func newHost(t *testing.T, change func(*transport.Config)) *transport.Host {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	cfg := transport.Config{Key: key, Network: "test", Listen: loopback, NoMDNS: true}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(&testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if change != nil {
		change(&cfg)
	}
	h, err := transport.New(cfg)
	require.NoError(t, err)
	require.NoError(t, h.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	h.SetStreamHandler(echoID, func(s network.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	return h
}

type testWriter struct{ t *testing.T }

func (w *testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

func newRelay(t *testing.T) *transport.Host {
	return newHost(t, func(c *transport.Config) { c.Relay = &transport.RelayConfig{} })
}

func joining(t *testing.T, relays ...*transport.Host) func(*transport.Config) {
	return func(c *transport.Config) {
		for _, r := range relays {
			ticket, err := r.Ticket()
			require.NoError(t, err)
			c.Join = append(c.Join, ticket)
		}
		c.Listen = []string{} // reachable over relays only
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func echo(t *testing.T, from, to *transport.Host) {
	t.Helper()
	s, err := from.OpenStream(within(t, 20*time.Second), to.ID(), echoID)
	require.NoError(t, err)
	_, err = s.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, s.CloseWrite())
	require.NoError(t, s.SetReadDeadline(time.Now().Add(20*time.Second)))
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	require.NoError(t, s.Close())
}

// Two hosts that listen on nothing reach each other by key alone, over the
// relay both joined.
func TestDialByKeyOverRelay(t *testing.T) {
	relay := newRelay(t)
	a := newHost(t, joining(t, relay))
	b := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	require.NoError(t, b.Online(within(t, 10*time.Second)))
	echo(t, b, a)
	path := b.Path(a.ID())
	require.Equal(t, transport.PathRelayed, path.Kind)
	require.Equal(t, relay.ID(), path.Relay)
	echo(t, a, b)
}

var _ = discovery.MaxRelays
