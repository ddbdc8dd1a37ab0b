package protocols_test

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multistream"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// transports are the ways two hosts of these tests are joined.
var transports = map[string]libp2p.Option{
	"quic":      libp2p.ChainOptions(libp2p.Transport(libp2pquic.NewTransport), libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1")),
	"tcp-noise": libp2p.ChainOptions(libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()), libp2p.Security(noise.ID, noise.New), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0")),
}

// testHost is the glue between a plain libp2p host and a Router.
type testHost struct {
	host.Host
	protected sync.Map // of peer.ID
}

func newHost(t *testing.T, transport string) *testHost {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	require.NoError(t, err)
	h, err := libp2p.New(libp2p.Identity(key), libp2p.NoTransports, transports[transport],
		libp2p.DisableRelay(), libp2p.DisableMetrics())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return &testHost{Host: h}
}

// know gives h the addresses of peers.
func (h *testHost) know(peers ...*testHost) {
	for _, p := range peers {
		h.Peerstore().AddAddrs(p.ID(), p.Addrs(), time.Hour)
	}
}

func (h *testHost) Connect(ctx context.Context, p peer.ID) error {
	_, err := h.Network().DialPeer(ctx, p)
	return err
}

func (h *testHost) OpenStream(ctx context.Context, p peer.ID, id protocol.ID) (network.Stream, error) {
	conn, err := h.Network().DialPeer(ctx, p)
	if err != nil {
		return nil, err
	}
	st, err := conn.NewStream(ctx)
	if err != nil {
		return nil, err
	}
	if err := st.SetProtocol(id); err != nil {
		_ = st.Reset()
		return nil, err
	}
	return &lazyStream{st, multistream.NewMSSelect(st, id)}, nil
}

func (h *testHost) WatchPeers(changed func(peer.ID, bool)) func() {
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

func (h *testHost) Protect(p peer.ID)   { h.protected.Store(p, true) }
func (h *testHost) Unprotect(p peer.ID) { h.protected.Delete(p) }

func (h *testHost) protects(p peer.ID) bool {
	_, ok := h.protected.Load(p)
	return ok
}

func (h *testHost) RemoteAddr(p peer.ID) string {
	for _, c := range h.Network().ConnsToPeer(p) {
		return c.RemoteMultiaddr().String()
	}
	return ""
}

func (h *testHost) fingerprint(t *testing.T) string {
	t.Helper()
	fp, err := auth.FingerprintFromPeer(h.ID())
	require.NoError(t, err)
	return fp
}

// lazyStream negotiates its protocol on first use, as the basic host's does.
type lazyStream struct {
	network.Stream
	rw multistream.LazyConn
}

func (s *lazyStream) Read(p []byte) (int, error)  { return s.rw.Read(p) }
func (s *lazyStream) Write(p []byte) (int, error) { return s.rw.Write(p) }

func (s *lazyStream) Close() error {
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	return s.rw.Close()
}

func (s *lazyStream) CloseWrite() error {
	_ = s.rw.Flush()
	return s.Stream.CloseWrite()
}

// handlerFunc is a ProtocolHandler of a func.
type handlerFunc struct {
	alpn   string
	handle func(ctx context.Context, conn protocols.Connection, peer auth.Context) error
}

func (h handlerFunc) ALPN() string { return h.alpn }

func (h handlerFunc) Handle(ctx context.Context, conn protocols.Connection, peer auth.Context) error {
	return h.handle(ctx, conn, peer)
}

// echo answers each stream with what it read, until the session ends.
func echo(alpn string) protocols.ProtocolHandler {
	return handlerFunc{alpn, func(ctx context.Context, conn protocols.Connection, _ auth.Context) error {
		var streams sync.WaitGroup
		defer streams.Wait()
		for {
			s, err := conn.AcceptStream(ctx)
			if err != nil {
				return err
			}
			streams.Go(func() {
				_, _ = io.Copy(s, s)
				_ = s.Close()
			})
		}
	}}
}

// idle serves a session by waiting for its end or the drain.
func idle(alpn string) protocols.ProtocolHandler {
	return handlerFunc{alpn, func(ctx context.Context, _ protocols.Connection, _ auth.Context) error {
		select {
		case <-protocols.Draining(ctx):
		case <-ctx.Done():
		}
		return nil
	}}
}

// newRouter starts a Router for the handlers; it is shut down by the test's end.
func newRouter(t *testing.T, h protocols.Host, provider auth.Provider, handlers ...protocols.ProtocolHandler) *protocols.Router {
	t.Helper()
	return newRouterWith(t, protocols.RouterConfig{Host: h, Provider: provider}, handlers...)
}

func newRouterWith(t *testing.T, config protocols.RouterConfig, handlers ...protocols.ProtocolHandler) *protocols.Router {
	t.Helper()
	config.Registry = new(protocols.HandlerRegistry)
	for _, h := range handlers {
		require.NoError(t, config.Registry.Register(h))
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.DrainTimeout == 0 {
		config.DrainTimeout = 20 * time.Millisecond
	}
	r, err := protocols.New(config)
	require.NoError(t, err)
	require.NoError(t, r.Start())
	t.Cleanup(func() {
		require.NoError(t, r.Shutdown(context.WithoutCancel(t.Context())))
	})
	return r
}

// roundTrip sends text over a new stream of conn and returns what comes back.
func roundTrip(t *testing.T, conn protocols.Connection, text string) string {
	t.Helper()
	back, err := tryRoundTrip(t.Context(), conn, text)
	require.NoError(t, err)
	return back
}

// tryRoundTrip is roundTrip for goroutines beside the test's.
func tryRoundTrip(ctx context.Context, conn protocols.Connection, text string) (string, error) {
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return "", err
	}
	defer s.Close()
	if _, err = io.WriteString(s, text); err != nil {
		return "", err
	}
	if err := s.CloseWrite(); err != nil {
		return "", err
	}
	back, err := io.ReadAll(s)
	return string(back), err
}

// over waits for the end of a session.
func over(t *testing.T, conn protocols.Connection) {
	t.Helper()
	select {
	case <-conn.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the session did not end")
	}
}

// receive waits for a value.
func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
