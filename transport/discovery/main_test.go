package discovery

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testNetwork = "test"

// testKey is the key of the seed with 32 times b.
func testKey(b byte) crypto.PrivKey {
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)))
	if err != nil {
		panic(err)
	}
	return key
}

func testID(b byte) peer.ID {
	id, err := peer.IDFromPrivateKey(testKey(b))
	if err != nil {
		panic(err)
	}
	return id
}

func addrsOf(texts ...string) []ma.Multiaddr {
	var addrs []ma.Multiaddr
	for _, text := range texts {
		addrs = append(addrs, ma.StringCast(text))
	}
	return addrs
}

// newHost is a libp2p host on a loopback port, closed with the test.
func newHost(t *testing.T, key byte, opts ...libp2p.Option) host.Host {
	t.Helper()
	opts = append([]libp2p.Option{
		libp2p.Identity(testKey(key)),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.DisableMetrics(),
	}, opts...)
	h, err := libp2p.New(opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// box is a value that a test changes while a Discovery reads it.
type box[T any] struct {
	mu sync.Mutex
	v  T
}

func boxed[T any](v T) *box[T] { return &box[T]{v: v} }

func (b *box[T]) get() T {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.v
}

func (b *box[T]) set(v T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.v = v
}

func infoOf(h host.Host) peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

// start runs a Discovery on cfg.Host until the test ends or Close.
func start(t *testing.T, cfg Config) *Discovery {
	t.Helper()
	if cfg.Network == "" {
		cfg.Network = testNetwork
	}
	cfg.Key = cfg.Host.Peerstore().PrivKey(cfg.Host.ID())
	if testing.Verbose() && os.Getenv("DISCOVERY_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", cfg.Host.ID().ShortString())
	}
	d, err := New(cfg)
	require.NoError(t, err)
	require.NoError(t, d.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// resolve collects what Resolve sends until it ends.
func resolve(t *testing.T, d *Discovery, p peer.ID, via ...peer.AddrInfo) []Found {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var all []Found
	for f := range d.Resolve(ctx, p, via...) {
		all = append(all, f)
	}
	require.NoError(t, ctx.Err())
	return all
}

// eventually waits until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

func hasDHTPeers(d *Discovery, n int) func() error {
	return func() error {
		if got := d.DHTPeers(); got < n {
			return fmt.Errorf("%d DHT peers", got)
		}
		return nil
	}
}

func lastFound(t *testing.T, all []Found) Found {
	t.Helper()
	require.NotEmpty(t, all, "nothing found")
	return all[len(all)-1]
}
