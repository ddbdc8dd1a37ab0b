package socket_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/socket"
)

// PATH-24: public IPv4 addresses are reached below the prefix of a NAT64, and what
// comes from there is of IPv4. PATH-14: private ones are not, nor is anything
// taken to be at a synthesised address.
func TestPATH24NAT64IsBeneathIPv4(t *testing.T) {
	w := newWire(t)
	s, _, _ := w.open(t, 1, nil)
	public, private := netip.MustParseAddrPort("5.20.0.2:4242"), netip.MustParseAddrPort("192.168.1.1:4242")
	below, hidden := netip.MustParseAddrPort("[64:ff9b::5.20.0.2]:4242"), netip.MustParseAddrPort("[64:ff9b::192.168.1.1]:4242")
	require.Equal(t, public, socket.SentTo(s, public))
	require.Equal(t, below, socket.SeenAt(s, below))

	s.SetNAT64(netip.MustParsePrefix("64:ff9b::/96"))
	require.Equal(t, below, socket.SentTo(s, public))
	require.Equal(t, public, socket.SeenAt(s, below))
	require.Equal(t, private, socket.SentTo(s, private))
	require.Equal(t, hidden, socket.SeenAt(s, hidden))
	six := netip.MustParseAddrPort("[2a04::1]:4242")
	require.Equal(t, six, socket.SentTo(s, six))
	require.Equal(t, six, socket.SeenAt(s, six))
	require.True(t, socket.Translated(s, hidden.Addr()))
	require.False(t, socket.Translated(s, six.Addr()))

	s.SetNAT64(netip.Prefix{})
	require.Equal(t, public, socket.SentTo(s, public))
	require.False(t, socket.Translated(s, hidden.Addr()))
}
