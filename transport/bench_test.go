package transport_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport"
)

// BenchmarkOneStream sends through one stream and waits until the other side
// has all of it: over stock go-libp2p QUIC, over the magic transport's direct
// path, and over its relayed one. Read the ratios, not the figures
// (docs/performance.md).
func BenchmarkOneStream(b *testing.B) {
	for _, c := range []struct {
		name string
		pair func(*testing.B) network.Stream
	}{
		{"stock-quic", stockStream},
		{"direct", func(b *testing.B) network.Stream { return magicStream(b, transport.PathDirect) }},
		{"relayed", func(b *testing.B) network.Stream { return magicStream(b, transport.PathRelayed) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := c.pair(b)
			const chunk = 1 << 20
			buf := make([]byte, chunk)
			ack := make([]byte, 1)
			b.SetBytes(chunk)
			b.ResetTimer()
			go func() {
				for range b.N {
					if _, err := s.Write(buf); err != nil {
						b.Error(err)
						return
					}
				}
			}()
			for range b.N {
				if _, err := io.ReadFull(s, ack); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

const sinkID protocol.ID = "/test/sink"

// sink answers each mebibyte with one byte.
func sink(s network.Stream) {
	defer s.Close()
	buf := make([]byte, 1<<20)
	for {
		if _, err := io.ReadFull(s, buf); err != nil {
			return
		}
		if _, err := s.Write([]byte{1}); err != nil {
			return
		}
	}
}

func stockStream(b *testing.B) network.Stream {
	hosts := make([]host.Host, 2)
	for i := range hosts {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"))
		require.NoError(b, err)
		b.Cleanup(func() { _ = h.Close() })
		hosts[i] = h
	}
	hosts[0].SetStreamHandler(sinkID, sink)
	require.NoError(b, hosts[1].Connect(b.Context(), peer.AddrInfo{ID: hosts[0].ID(), Addrs: hosts[0].Addrs()}))
	s, err := hosts[1].NewStream(b.Context(), hosts[0].ID(), sinkID)
	require.NoError(b, err)
	return s
}

func magicStream(b *testing.B, want transport.PathKind) network.Stream {
	open := func(change func(*transport.Config)) *transport.Host {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(b, err)
		cfg := transport.Config{Key: key, Network: "bench", Listen: []string{}, NoMDNS: true}
		change(&cfg)
		h, err := transport.New(cfg)
		require.NoError(b, err)
		require.NoError(b, h.Start(b.Context()))
		b.Cleanup(func() { _ = h.Close() })
		return h
	}
	relay := open(func(c *transport.Config) {
		c.Listen, c.Relay = loopback, &transport.RelayConfig{Rate: -1}
	})
	ticket, err := relay.Ticket()
	require.NoError(b, err)
	join := func(c *transport.Config) {
		c.Join = append(c.Join, ticket)
		if want == transport.PathDirect {
			c.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
		}
	}
	from, to := open(join), open(join)
	to.SetStreamHandler(sinkID, sink)
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	require.NoError(b, to.Online(ctx))
	s, err := from.OpenStream(ctx, to.ID(), sinkID)
	require.NoError(b, err)
	_, err = s.Write(make([]byte, 1<<20))
	require.NoError(b, err)
	_, err = io.ReadFull(s, make([]byte, 1))
	require.NoError(b, err)
	require.Eventually(b, func() bool { return from.Path(to.ID()).Kind == want && to.Path(from.ID()).Kind == want }, 10*time.Second, 10*time.Millisecond)
	return s
}
