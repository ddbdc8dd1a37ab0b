package relay

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// PATH-23: only an IP that the link itself comes from is attested.
func TestPATH23Attestable(t *testing.T) {
	for observed, want := range map[string]string{
		"/ip4/198.51.100.7/tcp/4242":         "198.51.100.7",
		"/ip4/198.51.100.7/udp/4242/quic-v1": "198.51.100.7",
		"/ip6/2001:db8::7/tcp/4242/ws":       "2001:db8::7",
		"198.51.100.7:4242":                  "198.51.100.7",
		"[::ffff:198.51.100.7]:4242":         "198.51.100.7",
		"[fe80::1%eth0]:4242":                "fe80::1",
		"/ip4/198.51.100.7/tcp/4242/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N/p2p-circuit": "",
		"/dns4/relay.example/tcp/4242": "",
		"/ip4/x/tcp/1":                 "",
		"/alknet":                      "",
		"":                             "",
	} {
		got := attestable(observed)
		require.Equal(t, want != "", got.IsValid(), observed)
		if want != "" {
			require.Equal(t, netip.MustParseAddr(want), got, observed)
		}
	}
}
