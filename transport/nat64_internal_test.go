package transport

import (
	"net/netip"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

// PATH-24: what is dialled where a NAT64 is all there is of IPv4: public IPv4
// addresses at what stands for them below each prefix, others as they are.
func TestPATH24DialsSynthesisedAddresses(t *testing.T) {
	n := newNAT64State(nil)
	addrs := []ma.Multiaddr{
		ma.StringCast("/ip4/5.20.0.2/tcp/4242"),
		ma.StringCast("/ip4/5.20.0.2/udp/4242/quic-v1"),
		ma.StringCast("/ip4/192.168.1.1/tcp/4242"),
		ma.StringCast("/ip6/2a04::1/tcp/4242"),
		ma.StringCast("/dns/relay.example/tcp/443/tls/ws"),
	}
	require.Equal(t, addrs, n.translate(addrs), "without a NAT64")
	require.Equal(t, netip.Prefix{}, n.prefix())

	require.True(t, n.put([]netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2a04:64::/32")}, nil))
	var texts []string
	for _, a := range n.translate(addrs) {
		texts = append(texts, a.String())
	}
	require.Equal(t, []string{
		"/ip6/64:ff9b::514:2/tcp/4242", "/ip6/2a04:64:514:2::/tcp/4242",
		"/ip6/64:ff9b::514:2/udp/4242/quic-v1", "/ip6/2a04:64:514:2::/udp/4242/quic-v1",
		"/ip4/192.168.1.1/tcp/4242", "/ip6/2a04::1/tcp/4242", "/dns/relay.example/tcp/443/tls/ws",
	}, texts)
	require.Equal(t, "/ip4/5.20.0.2/tcp/4242", addrs[0].String(), "left as it was")
	require.Equal(t, netip.MustParseAddr("5.20.0.2"), n.plain(netip.MustParseAddr("2a04:64:514:2::")))
	require.Equal(t, netip.MustParseAddr("2a04::1"), n.plain(netip.MustParseAddr("2a04::1")))

	require.False(t, n.put(nil, errNoAnswer), "no answer: kept")
	require.NotEmpty(t, n.known())
	require.True(t, n.put(nil, nil), "IPv4 of its own")
	require.Empty(t, n.known())
}
