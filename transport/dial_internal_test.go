package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/test"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

// PATH-28: where TCP is refused and UDP is blocked, as by a relay that is being
// restarted, a dial ends soon, so that the next one comes soon.
func TestPATH28RefusedRelayIsNotWaitedFor(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	h, err := New(Config{Key: key, Network: "test", Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true, NoPortMapping: true})
	require.NoError(t, err)
	require.NoError(t, h.Start(t.Context()))
	defer h.Close()

	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	refused, err := ma.NewMultiaddr("/ip4/127.0.0.1/tcp/" + port(t, closed.Addr()))
	require.NoError(t, err)
	blocked, err := ma.NewMultiaddr("/ip4/127.0.0.1/udp/" + port(t, silent.LocalAddr()) + "/quic-v1")
	require.NoError(t, err)
	relay, err := test.RandPeerID()
	require.NoError(t, err)
	begin := time.Now()
	_, err = h.stock(t.Context(), relay, []ma.Multiaddr{refused, blocked})
	require.Error(t, err)
	require.Less(t, time.Since(begin), 3*time.Second, "QUIC alone takes five")
}

func port(t *testing.T, a net.Addr) string {
	t.Helper()
	_, p, err := net.SplitHostPort(a.String())
	require.NoError(t, err)
	return p
}
