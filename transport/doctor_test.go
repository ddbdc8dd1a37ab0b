package transport_test

import (
	"crypto/rand"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// silentRelay is the ticket of a relay that lets itself be connected to, and says
// nothing.
func silentRelay(t *testing.T) *discovery.Ticket {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return &discovery.Ticket{Network: "test", Peer: randomPeer(t), Addrs: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/" + port)}}
}

func randomPeer(t *testing.T) peer.ID {
	t.Helper()
	_, key, err := crypto.GenerateEd25519Key(rand.Reader)
	require.NoError(t, err)
	id, err := peer.IDFromPublicKey(key)
	require.NoError(t, err)
	return id
}

// PATH-34: Close ends what Doctor and Why wait for, and returns after them; they
// tell a host that was closed.
func TestPATH34CloseEndsDoctorAndWhy(t *testing.T) {
	relay := silentRelay(t)
	h := newHost(t, func(c *transport.Config) { c.Join = []*discovery.Ticket{relay} })
	began, diagnosed, explained := make(chan struct{}, 1), make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := h.Doctor(t.Context(), transport.DoctorOptions{Progress: func(string) {
			select {
			case began <- struct{}{}:
			default:
			}
		}})
		diagnosed <- err
	}()
	other := randomPeer(t)
	go func() {
		_, err := h.Why(t.Context(), other)
		explained <- err
	}()
	<-began
	require.NoError(t, h.Close())
	require.ErrorIs(t, <-diagnosed, transport.ErrClosed)
	require.ErrorIs(t, <-explained, transport.ErrClosed)
	_, err := h.Doctor(t.Context(), transport.DoctorOptions{})
	require.ErrorIs(t, err, transport.ErrClosed)
	_, err = h.Why(t.Context(), other)
	require.ErrorIs(t, err, transport.ErrClosed)
}

// PATH-34: a proxy that there is no relay to go to by is no trouble.
func TestPATH34ProxyWithoutRelay(t *testing.T) {
	h := newHost(t, func(c *transport.Config) { c.Proxy, c.Relay = "http://me:secret@127.0.0.1:1", &transport.RelayConfig{} })
	checks, err := h.Doctor(within(t, 10*time.Second), transport.DoctorOptions{})
	require.NoError(t, err)
	for _, c := range checks {
		require.NotContains(t, c.Detail, "secret")
		if c.Name == "proxy" {
			require.True(t, c.OK, c.Detail)
			require.Equal(t, "not tried: no relay with an address of TCP is known", c.Detail)
		}
	}
}
