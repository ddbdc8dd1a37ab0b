package transport

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

// from is a connection that comes from an address.
type from string

func (f from) LocalMultiaddr() ma.Multiaddr  { return ma.StringCast("/ip4/127.0.0.1/tcp/1") }
func (f from) RemoteMultiaddr() ma.Multiaddr { return ma.StringCast(string(f)) }

// came is such a connection once it is up.
type came struct {
	network.Conn
	addr from
	peer peer.ID
}

func (c came) As(any) bool                   { return false }
func (c came) ID() string                    { return string(c.addr) }
func (c came) RemotePeer() peer.ID           { return c.peer }
func (c came) RemoteMultiaddr() ma.Multiaddr { return c.addr.RemoteMultiaddr() }

// NODE-34: connections count by source from before their handshake until they
// end, those that never come up for a while.
func TestNODE34CountsBySource(t *testing.T) {
	limit, now := 2, time.Now()
	g := newGater(func() int { return limit }, nil)
	g.now = func() time.Time { return now }
	first, second, third := from("/ip4/192.0.2.1/tcp/1"), from("/ip4/192.0.2.1/udp/1/quic-v1"), from("/ip4/192.0.2.1/tcp/3/ws")
	require.True(t, g.InterceptAccept(first))
	require.True(t, g.InterceptAccept(second))
	require.False(t, g.InterceptAccept(third))
	require.True(t, g.InterceptAccept(from("/ip4/192.0.2.2/tcp/1")), "another source")

	g.connected(came{addr: first})
	require.True(t, g.inbound(came{addr: first}))
	require.False(t, g.InterceptAccept(third))
	g.disconnected(came{addr: first})
	require.False(t, g.inbound(came{addr: first}))
	require.True(t, g.InterceptAccept(third))

	// The second never came up: it is forgotten in the end.
	g.connected(came{addr: third})
	fourth := from("/ip4/192.0.2.1/tcp/4")
	now = now.Add(handshakeTime - time.Nanosecond)
	require.False(t, g.InterceptAccept(fourth))
	now = now.Add(time.Nanosecond)
	require.True(t, g.InterceptAccept(fourth))

	// Live: a lower limit ends nothing that is up, a higher one is for the next.
	limit = 1
	require.False(t, g.InterceptAccept(first))
	limit = 3
	require.True(t, g.InterceptAccept(first))

	// What this node dialled is not counted, though it comes up the same way.
	dialled := came{addr: "/ip4/192.0.2.9/tcp/1"}
	g.connected(dialled)
	require.False(t, g.inbound(dialled))
	g.disconnected(dialled)

	for _, c := range []from{first, third, fourth} {
		g.connected(came{addr: c})
		g.disconnected(came{addr: c})
	}
	now = now.Add(time.Hour)
	g.expire()
	require.Empty(t, g.count)
	require.Empty(t, g.pending)
	require.Empty(t, g.open)
	require.Zero(t, g.waiting)
}

// NODE-34: a relayed connection counts for its relay and key, not the relay's address.
func TestNODE34RelayedCountByRelayAndKey(t *testing.T) {
	g := newGater(func() int { return 1 }, nil)
	const relay = "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV/p2p-circuit"
	require.True(t, g.InterceptAccept(from(relay)), "whose it is, is not known yet")
	require.True(t, g.InterceptSecured(network.DirInbound, "one", from(relay)))
	require.True(t, g.InterceptSecured(network.DirInbound, "two", from(relay)))
	require.False(t, g.InterceptSecured(network.DirInbound, "one", from(relay)))
	require.True(t, g.InterceptSecured(network.DirOutbound, "one", from(relay)))
	require.True(t, g.InterceptAccept(from("/ip4/192.0.2.1/tcp/7")), "the relay's own connection")
	g.connected(came{addr: relay, peer: "one"})
	g.disconnected(came{addr: relay, peer: "one"})
	require.True(t, g.InterceptSecured(network.DirInbound, "one", from(relay)))
}

// Handshakes that hang are bounded in all, whatever number of addresses they come from.
func TestPendingIsBounded(t *testing.T) {
	g := newGater(nil, nil)
	for i := range maxPending {
		require.True(t, g.InterceptAccept(from(fmt.Sprintf("/ip4/10.1.%d.%d/tcp/1", i/256, i%256))))
	}
	require.False(t, g.InterceptAccept(from("/ip4/192.0.2.1/tcp/1")))
	require.Len(t, g.count, maxPending)
}

func TestSourceOf(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":            "192.0.2.1",
		"::ffff:192.0.2.1":     "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2::1":      "2001:db8:1:2::/64",
		"fe80::1%eth0":         "fe80::/64",
	} {
		require.Equal(t, want, sourceOfIP(netip.MustParseAddr(addr)))
	}
	_, ok := sourceOf(ma.StringCast("/dns/example.org/tcp/1"))
	require.False(t, ok)
}
