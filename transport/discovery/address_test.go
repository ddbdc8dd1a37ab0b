package discovery

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

func TestCheckAddr(t *testing.T) {
	for _, good := range []string{
		"/ip4/203.0.114.1/tcp/4001",
		"/ip4/127.0.0.1/udp/4001/quic-v1",
		"/ip6/2001:4860::1/udp/4001/quic-v1/webtransport",
		"/dns4/relay.example.com/tcp/443/tls/sni/relay.example.com/ws",
	} {
		require.NoError(t, CheckAddr(ma.StringCast(good)), good)
	}
	for _, bad := range []string{
		"/ip4/203.0.114.1",
		"/tcp/4001",
		"/unix/tmp/x",
		"/ip4/203.0.114.1/tcp/0",
		"/ip4/0.0.0.0/tcp/1",
		"/ip6/::/tcp/1",
		"/ip6/ff02::1/udp/1",
		"/ip6zone/eth0/ip6/fe80::1/tcp/1",
		"/dnsaddr/example.com/tcp/1",
		"/ip4/203.0.114.1/tcp/1/http",
		"/ip4/203.0.114.1/tcp/1/p2p/12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV",
		"/ip4/203.0.114.1/tcp/1/p2p/12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV/p2p-circuit",
	} {
		require.Error(t, CheckAddr(ma.StringCast(bad)), bad)
	}
	require.Error(t, CheckAddr(nil))
}

// NODE-50.
func TestPeerIDOfKey(t *testing.T) {
	key := unhex(t, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	require.Equal(t, "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV", peerOf(key).String())
	raw, err := rawKey(peerOf(key))
	require.NoError(t, err)
	require.Equal(t, key, raw)
	for _, bad := range []peer.ID{"", "x", peerOf(key[1:]), "\x12\x20" + peer.ID(key)} {
		_, err := rawKey(bad)
		require.Error(t, err)
	}
}
