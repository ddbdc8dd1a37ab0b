package transport_test

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/magic"
)

// ways are the transports that stock peers and ours have in common.
var ways = map[string]string{
	"QUIC":      "/ip4/127.0.0.1/udp/0/quic-v1",
	"TCP":       "/ip4/127.0.0.1/tcp/0",
	"WebSocket": "/ip4/127.0.0.1/tcp/0/ws",
}

// stockEcho opens an echo stream from a stock host and uses it.
func stockEcho(t *testing.T, from host.Host, to peer.ID) {
	t.Helper()
	s, err := from.NewStream(within(t, 10*time.Second), to, echoID)
	require.NoError(t, err)
	say(t, s, "from a stock host")
	require.NoError(t, s.Close())
}

// oursToStock opens an echo stream from our host, dialling if need be.
func oursToStock(t *testing.T, from *transport.Host, to peer.ID) {
	t.Helper()
	s, err := from.OpenStream(within(t, 10*time.Second), to, echoID)
	require.NoError(t, err)
	say(t, s, "to a stock host")
	require.NoError(t, s.Close())
}

func ticketOf(t *testing.T, h host.Host) *discovery.Ticket {
	t.Helper()
	ticket, err := discovery.NewTicket("test", h.ID(), nil, h.Addrs())
	require.NoError(t, err)
	return ticket
}

// A libp2p host with nothing but defaults dials ours, opens streams, and is
// called back over the connection it made; identify tells both of the other.
func TestStockDialsUs(t *testing.T) {
	for way, listen := range ways {
		t.Run(way, func(t *testing.T) {
			ours := newHost(t, func(c *transport.Config) { c.Listen = []string{listen} })
			stock := stockWith(t, libp2p.NoListenAddrs)
			require.NoError(t, stock.Connect(within(t, 10*time.Second), peer.AddrInfo{ID: ours.ID(), Addrs: ours.Libp2p().Addrs()}))
			stockEcho(t, stock, ours.ID())
			oursToStock(t, ours, stock.ID())
			require.Len(t, stock.Network().ConnsToPeer(ours.ID()), 1)

			knows := func(h host.Host, other peer.ID, agent string) {
				t.Helper()
				require.Eventually(t, func() bool {
					known, err := h.Peerstore().SupportsProtocols(other, echoID)
					return err == nil && len(known) == 1
				}, 10*time.Second, 10*time.Millisecond)
				if agent != "" {
					name, err := h.Peerstore().Get(other, "AgentVersion")
					require.NoError(t, err)
					require.Equal(t, agent, name)
				}
			}
			knows(stock, ours.ID(), "alknet-p2p")
			knows(ours.Libp2p(), stock.ID(), "")
			for _, a := range stock.Peerstore().Addrs(ours.ID()) {
				require.False(t, magic.IsAddr(a), "PATH-1: a stock peer was told of /alknet")
			}
		})
	}
}

// Ours dials a stock host by a ticket made of its addresses: the one way to
// name a peer that has no record.
func TestWeDialStock(t *testing.T) {
	for way, listen := range ways {
		t.Run(way, func(t *testing.T) {
			stock := stockWith(t, libp2p.ListenAddrStrings(listen))
			ours := newHost(t, func(c *transport.Config) { c.Listen = []string{} })
			ours.AddTicket(ticketOf(t, stock))
			oursToStock(t, ours, stock.ID())
			path := ours.Path(stock.ID())
			require.Equal(t, transport.PathDirect, path.Kind)
			require.Equal(t, stock.Addrs()[0].String(), path.Addr)
			stockEcho(t, stock, ours.ID()) // over the same connection
		})
	}
}

// Both sides dial at the same moment over TCP: each dial succeeds. With
// libp2p's port reuse on our side a third of them met as one connection of
// two clients (RFC 9293 §3.5, simultaneous open) and both failed.
func TestBothDialAtOnceOverTCP(t *testing.T) {
	for range 20 {
		ours := newHost(t, func(c *transport.Config) { c.Listen = []string{ways["TCP"]} })
		stock := stockWith(t, libp2p.ListenAddrStrings(ways["TCP"]))
		ours.AddTicket(ticketOf(t, stock))
		start, dialled := make(chan struct{}), make(chan error, 1)
		go func() {
			<-start
			dialled <- stock.Connect(within(t, 10*time.Second), peer.AddrInfo{ID: ours.ID(), Addrs: ours.Libp2p().Addrs()})
		}()
		close(start)
		oursToStock(t, ours, stock.ID())
		require.NoError(t, <-dialled)
	}
}

// PATH-31: a relay of ours is a circuit relay to stock hosts: two of them that
// only dial meet through it, without libp2p's limits of time and data.
func TestPATH31StockHostsMeetThroughOurRelay(t *testing.T) {
	relay := newRelay(t)
	at := peer.AddrInfo{ID: relay.ID(), Addrs: relay.Libp2p().Addrs()}
	a := stockWith(t, libp2p.NoListenAddrs, libp2p.EnableRelay())
	b := stockWith(t, libp2p.NoListenAddrs, libp2p.EnableRelay())
	require.NoError(t, a.Connect(within(t, 10*time.Second), at))
	_, err := circuit.Reserve(within(t, 10*time.Second), a, at)
	require.NoError(t, err)

	through, err := ma.NewMultiaddr(at.Addrs[0].String() + "/p2p/" + relay.ID().String() + "/p2p-circuit")
	require.NoError(t, err)
	dialA := peer.AddrInfo{ID: a.ID(), Addrs: []ma.Multiaddr{through}}
	require.NoError(t, b.Connect(within(t, 10*time.Second), dialA))
	for _, c := range b.Network().ConnsToPeer(a.ID()) {
		require.False(t, c.Stat().Limited)
	}
	stockEcho(t, b, a.ID())
	stockEcho(t, a, b.ID())
}
