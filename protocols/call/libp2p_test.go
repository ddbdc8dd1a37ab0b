package call_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

var transports = []struct {
	name   string
	option libp2p.Option
}{
	{"quic", libp2p.ChainOptions(libp2p.Transport(libp2pquic.NewTransport), libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"))},
	{"tcp", libp2p.ChainOptions(libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()), libp2p.Security(noise.ID, noise.New), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))},
}

// plainHost is a libp2p host as a Router takes it.
type plainHost struct{ host.Host }

func (h plainHost) Connect(ctx context.Context, p peer.ID) error {
	return h.Host.Connect(ctx, peer.AddrInfo{ID: p})
}

func (h plainHost) OpenStream(ctx context.Context, p peer.ID, id protocol.ID) (network.Stream, error) {
	return h.NewStream(ctx, p, id)
}

func (h plainHost) WatchPeers(changed func(peer.ID, bool)) func() {
	n := &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) { changed(c.RemotePeer(), true) },
		DisconnectedF: func(net network.Network, c network.Conn) {
			if net.Connectedness(c.RemotePeer()) == network.NotConnected {
				changed(c.RemotePeer(), false)
			}
		},
	}
	h.Network().Notify(n)
	return func() { h.Network().StopNotify(n) }
}

func (h plainHost) Protect(peer.ID)           {}
func (h plainHost) Unprotect(peer.ID)         {}
func (h plainHost) RemoteAddr(peer.ID) string { return "" }

// node is a host with a router that serves calls.
type node struct {
	plainHost
	router *protocols.Router
	calls  *call.Protocol
}

func newNode(t testing.TB, transport libp2p.Option, ops ...call.Operation) *node {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	require.NoError(t, err)
	h, err := libp2p.New(libp2p.Identity(key), libp2p.NoTransports, transport, libp2p.DisableRelay(), libp2p.DisableMetrics())
	require.NoError(t, err)
	n := &node{plainHost: plainHost{h}, calls: serving(t, ops...)}
	registry := &protocols.HandlerRegistry{}
	require.NoError(t, registry.Register(n.calls))
	n.router, err = protocols.New(protocols.RouterConfig{Host: n, Registry: registry})
	require.NoError(t, err)
	require.NoError(t, n.router.Start())
	t.Cleanup(func() {
		require.NoError(t, n.router.Shutdown(context.Background()))
		require.NoError(t, h.Close())
	})
	return n
}

// dial returns n's session with a peer.
func (n *node) dial(t testing.TB, p *node) *call.Session {
	t.Helper()
	n.Peerstore().AddAddrs(p.ID(), p.Addrs(), peerstore.PermanentAddrTTL)
	conn, err := n.router.Open(t.Context(), p.ID(), call.ALPN, "")
	require.NoError(t, err)
	s, err := n.calls.Session(t.Context(), conn)
	require.NoError(t, err)
	return s
}

func TestSuiteOverLibp2p(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			x, y := newNode(t, transport.option), newNode(t, transport.option)
			suite(t, x.dial(t, y), y.dial(t, x))
		})
	}
}

// NODE-14, NODE-63 over a real transport: what runs is finished and arrives.
func TestNODE63DrainOverLibp2p(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			started := make(chan struct{})
			slow := query("drain/slow", func(context.Context, *call.Request) (any, error) {
				close(started)
				time.Sleep(300 * time.Millisecond)
				return "done", nil
			})
			x, y := newNode(t, transport.option), newNode(t, transport.option, slow)
			s := x.dial(t, y)
			sub, err := s.Subscribe(t.Context(), "test/ticks", nil)
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() {
				_, err := s.Call(t.Context(), "drain/slow", nil)
				done <- err
			}()
			<-started
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			require.NoError(t, y.router.Shutdown(ctx))
			require.NoError(t, <-done)
			_, err = sub.Next(t.Context())
			var e *call.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, `{"reason":"draining"}`, string(e.Details))
		})
	}
}

// BenchmarkCallLibp2p is a 64-byte echo between two hosts in one process.
func BenchmarkCallLibp2p(b *testing.B) {
	payload := json.RawMessage(`"` + strings.Repeat("x", 62) + `"`)
	for _, transport := range transports {
		for _, flight := range []int{1, 64} {
			b.Run(transport.name+"/inflight="+map[int]string{1: "1", 64: "64"}[flight], func(b *testing.B) {
				x, y := newNode(b, transport.option), newNode(b, transport.option)
				benchmarkCalls(b, x.dial(b, y), payload, flight)
			})
		}
	}
}
