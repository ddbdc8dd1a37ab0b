package transport

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

// PATH-20: port 443 is named where this node listens on it, public addresses
// first, and where a router is said to forward it; nowhere else.
func TestPATH20Port443IsNamed(t *testing.T) {
	addrs := func() []netip.AddrPort {
		return addrPorts("5.5.5.5:443", "5.20.0.9:4000", "[2a00::9]:4000", "192.168.1.9:4000")
	}
	h := &Host{}
	require.Equal(t, addrPorts("5.20.0.9:4000", "[2a00::9]:4000", "192.168.1.9:4000"), h.withWeb(addrs()))
	h.web.Store(&webPorts{})
	require.Equal(t, addrs(), h.withWeb(addrs()))
	h.web.Store(&webPorts{at443: [2]bool{true, false}})
	require.Equal(t, addrPorts("5.5.5.5:443", "5.20.0.9:4000", "[2a00::9]:4000", "5.20.0.9:443", "192.168.1.9:4000", "192.168.1.9:443"), h.withWeb(addrs()))
	require.Empty(t, h.withWeb(nil))
}

// PATH-6, PATH-20: such a path is told by all that it is made of.
func TestPATH20WebIsNamed(t *testing.T) {
	id := path.ID{Addr: netip.MustParseAddrPort("31.21.0.2:443"), TCP: true, Web: true}
	p := describe(id, time.Millisecond, time.Time{})
	require.Equal(t, PathDirect, p.Kind)
	require.Equal(t, "/ip4/31.21.0.2/tcp/443/tls/http", p.Addr)
}
