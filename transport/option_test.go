package transport_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/magic"
)

// optionHost is a Host for Option.
func optionHost(t *testing.T, change func(*transport.Config)) *transport.Host {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	cfg := transport.Config{Key: key, Network: "test", NoMDNS: true}
	change(&cfg)
	h, err := transport.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// stockWith is any libp2p program: its own options, then what is added to it.
func stockWith(t *testing.T, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append([]libp2p.Option{libp2p.DisableMetrics()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	h.SetStreamHandler(echoID, func(s network.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	return h
}

// say sends a text on an open echo stream and reads it back.
func say(t *testing.T, s network.Stream, text string) {
	t.Helper()
	_, err := s.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, s.SetReadDeadline(time.Now().Add(10*time.Second)))
	got := make([]byte, len(text))
	_, err = io.ReadFull(s, got)
	require.NoError(t, err)
	require.Equal(t, text, string(got))
}

// PATH-2: a libp2p program that adds one option reaches our node by its key
// over a relay; the path becomes direct and the relay dies, and its stream,
// opened by libp2p's own NewStream, never notices.
func TestPATH2OptionForAnyProgram(t *testing.T) {
	relay := newRelay(t)
	join := func(c *transport.Config) {
		joining(t, relay)(c)
		c.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	node := newHost(t, join)
	require.NoError(t, node.Online(within(t, 10*time.Second)))
	ours := optionHost(t, func(c *transport.Config) {
		joining(t, relay)(c)
		c.Listen = nil
	})
	program := stockWith(t, libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), ours.Option())
	require.Equal(t, ours.ID(), program.ID())
	require.NoError(t, ours.Online(within(t, 10*time.Second)))

	// libp2p dials, at an address that holds nothing but the key.
	info, err := peer.AddrInfoFromString("/alknet/p2p/" + node.ID().String())
	require.NoError(t, err)
	require.NoError(t, program.Connect(within(t, 15*time.Second), *info))
	s, err := program.NewStream(within(t, 10*time.Second), node.ID(), echoID)
	require.NoError(t, err)
	say(t, s, "first")
	require.Eventually(t, func() bool {
		say(t, s, "x")
		return ours.Path(node.ID()).Kind == transport.PathDirect && node.Path(ours.ID()).Kind == transport.PathDirect
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, relay.Close())
	say(t, s, "without a relay")
	require.NoError(t, s.Close())

	echo(t, node, ours) // and back, to the program's handler
	for _, a := range program.Addrs() {
		require.False(t, magic.IsAddr(a), "PATH-1: advertised")
	}
}

// Two programs with the option, both dialled by key alone; the connection
// manager, the limits and the transports are libp2p's defaults, and those
// still take peers without the option.
func TestOptionKeepsWhatTheProgramHas(t *testing.T) {
	relay := newRelay(t)
	program := func() (*transport.Host, host.Host) {
		ours := optionHost(t, func(c *transport.Config) {
			joining(t, relay)(c)
			c.Listen = nil
		})
		return ours, stockWith(t, libp2p.NoListenAddrs, ours.Option())
	}
	a, ha := program()
	b, hb := program()
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	require.NoError(t, b.Online(within(t, 10*time.Second)))
	require.NoError(t, a.Connect(within(t, 15*time.Second), b.ID()))
	s, err := ha.NewStream(within(t, 10*time.Second), b.ID(), echoID)
	require.NoError(t, err)
	say(t, s, "by key")
	require.Equal(t, transport.PathRelayed, a.Path(hb.ID()).Kind) // nowhere to listen: relays only

	plain := stockWith(t, libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"))
	require.NoError(t, ha.Connect(within(t, 10*time.Second), peer.AddrInfo{ID: plain.ID(), Addrs: plain.Addrs()}))
	s, err = ha.NewStream(within(t, 10*time.Second), plain.ID(), echoID)
	require.NoError(t, err)
	say(t, s, "stock")
}

// A program's own address factory still has the last word, and never sees
// the magic transport's address.
func TestPATH1OptionAndAddrsFactory(t *testing.T) {
	extra := ma.StringCast("/ip4/203.0.113.9/tcp/4001")
	ours := optionHost(t, func(*transport.Config) {})
	program := stockWith(t, libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.AddrsFactory(func(addrs []ma.Multiaddr) []ma.Multiaddr {
			if slices.ContainsFunc(addrs, magic.IsAddr) {
				return nil
			}
			return append(addrs, extra)
		}), ours.Option())
	require.Contains(t, program.Addrs(), extra)
	require.Greater(t, len(program.Addrs()), 1)
}

// What cannot work is refused by libp2p.New, and leaves nothing behind.
func TestOptionRefusals(t *testing.T) {
	other, _, err := crypto.GenerateEd25519Key(rand.Reader)
	require.NoError(t, err)
	none := func(*transport.Config) {}
	for name, test := range map[string]struct {
		change func(*transport.Config)
		opts   []libp2p.Option
	}{
		"relay":       {change: func(c *transport.Config) { c.Relay = &transport.RelayConfig{} }},
		"listen":      {change: func(c *transport.Config) { c.Listen = loopback }},
		"HideIP":      {change: func(c *transport.Config) { c.HideIP = true }},
		"another key": {change: none, opts: []libp2p.Option{libp2p.Identity(other)}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := libp2p.New(append(test.opts, libp2p.NoListenAddrs, optionHost(t, test.change).Option())...)
			require.ErrorContains(t, err, "alknet option: ")
			require.ErrorContains(t, err, name)
		})
	}
	t.Run("twice", func(t *testing.T) {
		ours := optionHost(t, none)
		stockWith(t, libp2p.NoListenAddrs, ours.Option())
		_, err := libp2p.New(libp2p.DisableMetrics(), libp2p.NoListenAddrs, ours.Option())
		require.ErrorContains(t, err, "started before")
		require.Error(t, ours.Start(t.Context()))
	})
}

// Closing the program's host ends ours, and closing ours ends the program's.
func TestOptionCloses(t *testing.T) {
	for _, first := range []string{"program", "ours"} {
		ours := optionHost(t, func(*transport.Config) {})
		program := stockWith(t, libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), ours.Option())
		if first == "program" {
			require.NoError(t, program.Close())
		} else {
			require.NoError(t, ours.Close())
		}
		require.ErrorIs(t, ours.Connect(t.Context(), newHost(t, nil).ID()), transport.ErrClosed)
		require.Empty(t, program.Network().ListenAddresses())
	}
}
