package transport

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

// PATH-6, PATH-20: a direct path by TCP is told from one by UDP as a stock
// connection is, by its multiaddr.
func TestPATH20TCPIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		"31.21.0.2:4242":     "/ip4/31.21.0.2/tcp/4242",
		"[2001:db8::7]:4242": "/ip6/2001:db8::7/tcp/4242",
	} {
		id := path.ID{Addr: netip.MustParseAddrPort(text)}
		require.Equal(t, text, describe(id, time.Millisecond, time.Time{}).Addr)
		id.TCP = true
		p := describe(id, time.Millisecond, time.Time{})
		require.Equal(t, PathDirect, p.Kind)
		require.Equal(t, want, p.Addr)
	}
}
