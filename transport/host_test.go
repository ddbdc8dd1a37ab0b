package transport_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	identifypb "github.com/libp2p/go-libp2p/p2p/protocol/identify/pb"
	"github.com/libp2p/go-msgio/pbio"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/magic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const echoID protocol.ID = "/test/echo"

// loopback are the addresses hosts of these tests listen on.
var loopback = []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}

func newHost(t *testing.T, change func(*transport.Config)) *transport.Host {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	cfg := transport.Config{Key: key, Network: "test", Listen: loopback, NoMDNS: true, NoPortMapping: true}
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

// Nobody knows the key: an error, soon, that says so.
func TestUnknownKeyIsUnreachable(t *testing.T) {
	relay := newRelay(t)
	a := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	stranger, err := transport.New(transport.Config{Key: key})
	require.NoError(t, err)
	err = a.Connect(within(t, 25*time.Second), stranger.ID())
	require.ErrorIs(t, err, transport.ErrUnreachable)
}

// A relay is dialled at its own addresses, by a stock transport (PATH-5); a
// host that publishes nothing is reached there by a ticket.
func TestDirectWhereASideIsPublic(t *testing.T) {
	relay := newRelay(t)
	a := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	echo(t, a, relay)
	require.Equal(t, transport.PathDirect, a.Path(relay.ID()).Kind)
	echo(t, relay, a) // over the same link
	require.Equal(t, transport.PathDirect, relay.Path(a.ID()).Kind)

	open := newHost(t, nil) // no relay, listens on loopback
	ticket, err := open.Ticket()
	require.NoError(t, err)
	require.NotEmpty(t, ticket.Addrs)
	a.AddTicket(ticket)
	echo(t, a, open)
	require.Equal(t, transport.PathDirect, a.Path(open.ID()).Kind)
}

// The relay a connection runs over dies: it goes on over the other home
// (PATH-28, PATH-29), the open stream included.
func TestTwoHomesOneDies(t *testing.T) {
	one, two := newRelay(t), newRelay(t)
	a := newHost(t, joining(t, one, two))
	b := newHost(t, joining(t, one, two))
	homes := func(h *transport.Host) int {
		n := 0
		for _, r := range h.Status().Relays {
			if r.Home && r.Up {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return homes(a) == 2 && homes(b) == 2 }, 10*time.Second, 10*time.Millisecond)
	s, err := b.OpenStream(within(t, 10*time.Second), a.ID(), echoID)
	require.NoError(t, err)
	say := func(text string) {
		t.Helper()
		_, err := s.Write([]byte(text))
		require.NoError(t, err)
		require.NoError(t, s.SetReadDeadline(time.Now().Add(5*time.Second)))
		got := make([]byte, len(text))
		_, err = io.ReadFull(s, got)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
	say("before")
	events, stop := b.PathEvents(a.ID())
	defer stop()
	victim, other := one, two
	if b.Path(a.ID()).Relay == two.ID() {
		victim, other = two, one
	}
	require.NoError(t, victim.Close())
	say("after")
	require.Equal(t, other.ID(), b.Path(a.ID()).Relay)
	moved := false
	for !moved {
		select {
		case ev := <-events:
			moved = ev.What == "selected" && ev.Path.Relay == other.ID()
		case <-time.After(5 * time.Second):
			t.Fatal("no event of the new path")
		}
	}
}

// Both sides dial at once: afterwards there is one magic connection, the same
// on both sides (PATH-4).
func TestPATH4BothDialAtOnce(t *testing.T) {
	relay := newRelay(t)
	a := newHost(t, joining(t, relay))
	b := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	require.NoError(t, b.Online(within(t, 10*time.Second)))
	done := make(chan error, 2)
	go func() { done <- a.Connect(within(t, 10*time.Second), b.ID()) }()
	go func() { done <- b.Connect(within(t, 10*time.Second), a.ID()) }()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	echo(t, a, b)
	echo(t, b, a)
	require.Eventually(t, func() bool {
		return len(a.Libp2p().Network().ConnsToPeer(b.ID())) == 1 && len(b.Libp2p().Network().ConnsToPeer(a.ID())) == 1
	}, 20*time.Second, 50*time.Millisecond)
	echo(t, a, b)
	echo(t, b, a)
}

// PATH-1: no address of the magic transport is advertised, signed or kept.
func TestPATH1AddressNeverLeaves(t *testing.T) {
	relay := newRelay(t)
	a := newHost(t, joining(t, relay))
	b := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	echo(t, b, a)
	for _, h := range []*transport.Host{a, b, relay} {
		for _, addr := range h.Libp2p().Addrs() {
			require.False(t, magic.IsAddr(addr), "advertised")
		}
		for _, p := range h.Libp2p().Peerstore().Peers() {
			for _, addr := range h.Libp2p().Peerstore().Addrs(p) {
				require.False(t, magic.IsAddr(addr), "%s kept for %s", addr, p)
			}
		}
		ticket, err := h.Ticket()
		require.NoError(t, err)
		for _, addr := range ticket.Addrs {
			require.False(t, magic.IsAddr(addr), "in a ticket")
		}
	}
}

// The only relay restarts: its clients come back by themselves and calls work
// again soon after it listens.
func TestRelayRestarts(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	start := func(listen []string) *transport.Host {
		return newHost(t, func(c *transport.Config) {
			c.Key, c.Listen, c.Relay = key, listen, &transport.RelayConfig{}
		})
	}
	relay := start(loopback)
	a := newHost(t, joining(t, relay))
	b := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	s, err := b.OpenStream(within(t, 10*time.Second), a.ID(), echoID)
	require.NoError(t, err)
	_, err = s.Write([]byte("one"))
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 3))
	require.NoError(t, err)

	ticket, err := relay.Ticket()
	require.NoError(t, err)
	var listen []string
	for _, addr := range ticket.Addrs {
		listen = append(listen, addr.String())
	}
	require.NoError(t, relay.Close())
	require.NoError(t, s.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = s.Write([]byte("two")) // into the dark
	require.NoError(t, err)
	start(listen)
	listening := time.Now()
	_, err = io.ReadFull(s, make([]byte, 3))
	require.NoError(t, err, "the stream outlives its only relay's restart")
	require.Less(t, time.Since(listening), 5*time.Second)
	echo(t, a, b)
}

// The address poisoning of PATH-1: strangers with throwaway keys, over the
// relay and straight, all claim in identify to see the victim at an address of
// their choice. The victim never tells it to anybody.
func TestPATH1PoisonedAddressIsNotAdvertised(t *testing.T) {
	relay := newRelay(t)
	victim := newHost(t, func(c *transport.Config) {
		joining(t, relay)(c)
		c.Listen = loopback
		c.PublishAddrs = true
	})
	require.NoError(t, victim.Online(within(t, 10*time.Second)))
	poison := ma.StringCast("/ip4/5.20.0.66/udp/4444/quic-v1")
	direct, err := peer.AddrInfosFromP2pAddrs(p2pAddrs(t, victim)...)
	require.NoError(t, err)
	for i := range 10 {
		attacker := newHost(t, joining(t, relay))
		told := make(chan struct{}, 8)
		attacker.SetStreamHandler(identify.ID, func(s network.Stream) {
			defer s.Close()
			w := pbio.NewDelimitedWriter(s)
			if w.WriteMsg(&identifypb.Identify{ObservedAddr: poison.Bytes(), ListenAddrs: [][]byte{poison.Bytes()}}) == nil {
				told <- struct{}{}
			}
		})
		if i%2 == 0 {
			require.NoError(t, attacker.Connect(within(t, 10*time.Second), victim.ID()))
			require.Equal(t, transport.PathRelayed, attacker.Path(victim.ID()).Kind)
		} else {
			require.NoError(t, attacker.Libp2p().Connect(within(t, 10*time.Second), direct[0]))
		}
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatal("the victim asked for no identify")
		}
	}
	// The last answers may still be being read.
	require.Never(t, func() bool {
		told := victim.Libp2p().Addrs()
		ticket, err := victim.Ticket()
		if err != nil || len(told) == 0 {
			return true
		}
		return slices.ContainsFunc(append(told, ticket.Addrs...), func(a ma.Multiaddr) bool {
			return strings.Contains(a.String(), "5.20.0.66")
		})
	}, 300*time.Millisecond, 10*time.Millisecond)
}

func p2pAddrs(t *testing.T, h *transport.Host) []ma.Multiaddr {
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.ID(), Addrs: h.Libp2p().Addrs()})
	require.NoError(t, err)
	return addrs
}

// A host that cannot listen where it should says so and leaves nothing behind;
// one that was not started, or is closed, answers everything with ErrClosed.
func TestStartIsAllOrNothing(t *testing.T) {
	first := newHost(t, nil)
	ticket, err := first.Ticket()
	require.NoError(t, err)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	check := func(h *transport.Host) {
		require.ErrorIs(t, h.Online(t.Context()), transport.ErrClosed)
		require.ErrorIs(t, h.Connect(t.Context(), first.ID()), transport.ErrClosed)
		require.Equal(t, transport.PathNone, h.Path(first.ID()).Kind)
		require.False(t, h.Status().Online)
		_, err := h.Ticket()
		require.ErrorIs(t, err, transport.ErrClosed)
	}
	require.Len(t, ticket.Addrs, 2)
	for _, taken := range ticket.Addrs {
		h, err := transport.New(transport.Config{Key: key, Network: "test", Listen: []string{taken.String()}, NoMDNS: true})
		require.NoError(t, err)
		check(h)
		require.ErrorIs(t, h.Start(t.Context()), transport.ErrBind, "%s", taken)
		check(h)
		require.NoError(t, h.Close())
	}
}

// The port is chosen once.
func TestPortLasts(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	cfg := transport.Config{Key: key, Network: "test", NoMDNS: true, NoPortMapping: true, CacheDir: t.TempDir()}
	var before []string
	for range 2 {
		h, err := transport.New(cfg)
		require.NoError(t, err)
		require.NoError(t, h.Start(t.Context()))
		var addrs []string
		for _, a := range h.Libp2p().Network().ListenAddresses() {
			addrs = append(addrs, a.String())
		}
		require.NoError(t, h.Close())
		slices.Sort(addrs)
		if before != nil {
			require.Equal(t, before, addrs)
		}
		before = addrs
		require.GreaterOrEqual(t, len(addrs), 4) // QUIC, TCP, WebSocket, /alknet
	}
}

// Two hosts that can hear each other move from the relay to a direct path
// beneath the connection they have, and the stream goes on.
func TestRelayedBecomesDirect(t *testing.T) {
	relay := newRelay(t)
	join := func(c *transport.Config) {
		joining(t, relay)(c)
		c.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	a, b := newHost(t, join), newHost(t, join)
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	require.NoError(t, b.Online(within(t, 10*time.Second)))
	s, err := b.OpenStream(within(t, 10*time.Second), a.ID(), echoID)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := s.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(s, make([]byte, 1))
		require.NoError(t, err)
		return b.Path(a.ID()).Kind == transport.PathDirect && a.Path(b.ID()).Kind == transport.PathDirect
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, relay.Close())
	_, err = s.Write([]byte("without a relay"))
	require.NoError(t, err)
	got := make([]byte, 15)
	require.NoError(t, s.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = io.ReadFull(s, got)
	require.NoError(t, err)
	require.Equal(t, "without a relay", string(got))
}

// PATH-38: a host that hides its address is dialled and dials by key, yet has
// connections to relays only; the path stays relayed, and nothing it says
// names an address.
func TestPATH38HiddenHostUsesRelaysOnly(t *testing.T) {
	relay := newRelay(t)
	open := newHost(t, func(c *transport.Config) {
		joining(t, relay)(c)
		c.Listen = loopback
		c.PublishAddrs = true
	})
	hidden := newHost(t, func(c *transport.Config) {
		joining(t, relay)(c)
		c.Listen, c.HideIP = nil, true
	})
	require.NoError(t, open.Online(within(t, 10*time.Second)))
	require.NoError(t, hidden.Online(within(t, 10*time.Second)))
	echo(t, hidden, open)
	echo(t, open, hidden)
	require.Never(t, func() bool {
		for _, c := range hidden.Libp2p().Network().Conns() {
			if c.RemotePeer() != relay.ID() && !magic.IsAddr(c.RemoteMultiaddr()) {
				return true
			}
		}
		return hidden.Path(open.ID()).Kind != transport.PathRelayed || open.Path(hidden.ID()).Kind != transport.PathRelayed
	}, 500*time.Millisecond, 10*time.Millisecond)
	require.Empty(t, hidden.Libp2p().Addrs())
	ticket, err := hidden.Ticket()
	require.NoError(t, err)
	require.Empty(t, ticket.Addrs)
	require.NotEmpty(t, ticket.Relays)
	for _, addr := range open.Libp2p().Peerstore().Addrs(hidden.ID()) {
		t.Errorf("told %s", addr)
	}
}

// A host that closes says so to its peers, over relays too: they do not wait for
// their own patience to run out.
func TestCloseIsHeardOverRelay(t *testing.T) {
	relay := newRelay(t)
	a := newHost(t, func(c *transport.Config) {
		joining(t, relay)(c)
		c.Listen, c.HideIP = nil, true
	})
	b := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	echo(t, b, a)
	require.Equal(t, transport.PathRelayed, b.Path(a.ID()).Kind)
	gone := make(chan struct{})
	stop := b.WatchPeers(func(p peer.ID, connected bool) {
		if p == a.ID() && !connected {
			close(gone)
		}
	})
	defer stop()
	require.NoError(t, a.Close())
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Fatal("nobody said good-bye")
	}
}
