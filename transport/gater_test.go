package transport_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport"
)

// NODE-34: one address has so many connections and no more; the limit is asked
// for each time.
func TestNODE34ConnectionsPerAddress(t *testing.T) {
	for way, listen := range ways {
		t.Run(way, func(t *testing.T) {
			var limit atomic.Int32
			limit.Store(2)
			ours := newHost(t, func(c *transport.Config) {
				c.Listen, c.ConnsPerSource = []string{listen}, func() int { return int(limit.Load()) }
			})
			reach := func() (id peer.ID, err error) {
				stock := stockWith(t, libp2p.NoListenAddrs)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := stock.Connect(ctx, peer.AddrInfo{ID: ours.ID(), Addrs: ours.Libp2p().Addrs()}); err != nil {
					return "", err
				}
				s, err := stock.NewStream(ctx, ours.ID(), echoID)
				if err != nil {
					return "", err
				}
				defer s.Close()
				if _, err := s.Write([]byte("x")); err != nil {
					return "", err
				}
				_, err = io.ReadFull(s, make([]byte, 1))
				return stock.ID(), err
			}
			first, err := reach()
			require.NoError(t, err)
			_, err = reach()
			require.NoError(t, err)
			_, err = reach()
			require.Error(t, err, "the third")
			require.Len(t, ours.Libp2p().Network().Peers(), 2)

			limit.Store(3)
			_, err = reach()
			require.NoError(t, err)
			_, err = reach()
			require.Error(t, err)
			require.NoError(t, ours.Libp2p().Network().ClosePeer(first))
			require.Eventually(t, func() bool {
				_, err := reach()
				return err == nil
			}, 10*time.Second, 10*time.Millisecond)
		})
	}
}

// NODE-34: peers behind one relay do not pay for each other, nor does the relay.
func TestNODE34PeersOfARelay(t *testing.T) {
	relay := newRelay(t)
	a := newHost(t, func(c *transport.Config) {
		joining(t, relay)(c)
		c.ConnsPerSource = func() int { return 1 }
	})
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	for range 3 {
		echo(t, newHost(t, joining(t, relay)), a)
	}
	echo(t, relay, a)
}

// NODE-54: a closed node tells a stranger no address, so the path stays relayed,
// and ends its connection when nothing uses it; others notice nothing.
func TestClosedNodeTurnsStrangersAway(t *testing.T) {
	relay := newRelay(t)
	join := func(c *transport.Config) {
		joining(t, relay)(c)
		c.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	var friend atomic.Pointer[peer.ID]
	a := newHost(t, func(c *transport.Config) {
		join(c)
		c.Stranger = func(p peer.ID) bool { f := friend.Load(); return f == nil || *f != p }
	})
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	stranger, known := newHost(t, join), newHost(t, join)
	id := known.ID()
	friend.Store(&id)

	s, err := stranger.OpenStream(within(t, 10*time.Second), a.ID(), echoID)
	require.NoError(t, err)
	beat := func() {
		_, err := s.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(s, make([]byte, 1))
		require.NoError(t, err)
	}
	f, err := known.OpenStream(within(t, 10*time.Second), a.ID(), echoID)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		beat()
		_, err := f.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(f, make([]byte, 1))
		require.NoError(t, err)
		return known.Path(a.ID()).Kind == transport.PathDirect && a.Path(known.ID()).Kind == transport.PathDirect
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, f.Close())

	// A stream in use keeps the stranger's connection, which stays relayed.
	for began := time.Now(); time.Since(began) < 8*time.Second; {
		beat()
	}
	require.Equal(t, transport.PathRelayed, stranger.Path(a.ID()).Kind)
	require.Equal(t, transport.PathRelayed, a.Path(stranger.ID()).Kind)
	require.NoError(t, s.Close())
	require.Eventually(t, func() bool { return a.Path(stranger.ID()).Kind == transport.PathNone }, 15*time.Second, 20*time.Millisecond)
	require.Equal(t, transport.PathDirect, a.Path(known.ID()).Kind, "an idle friend stays")
	require.NotEqual(t, transport.PathNone, a.Path(relay.ID()).Kind, "so does what this node dialled")
}

// A relay's duties are for all, even when it is closed.
func TestClosedRelayServesStrangers(t *testing.T) {
	relay := newHost(t, func(c *transport.Config) {
		c.Relay = &transport.RelayConfig{}
		c.Stranger = func(peer.ID) bool { return true }
	})
	a, b := newHost(t, joining(t, relay)), newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	require.NoError(t, b.Online(within(t, 10*time.Second)))
	echo(t, b, a)
	require.Equal(t, relay.ID(), b.Path(a.ID()).Relay)
}
