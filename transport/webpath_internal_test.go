package transport

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

// PATH-20: port 443 is named where this node listens on it, also where only the
// beginning of the list goes out, and where a router is said to forward it; nowhere else.
func TestPATH20Port443IsNamed(t *testing.T) {
	addrs := func() []netip.AddrPort {
		return addrPorts("5.5.5.5:443", "5.20.0.9:4000", "[2a00::9]:4000", "192.168.1.9:4000")
	}
	h := &Host{}
	require.Equal(t, addrPorts("5.20.0.9:4000", "[2a00::9]:4000", "192.168.1.9:4000"), h.withWeb(addrs()))
	h.web.Store(&webPorts{})
	require.Equal(t, addrs(), h.withWeb(addrs()))
	h.web.Store(&webPorts{at443: [2]bool{true, false}})
	require.Equal(t, addrPorts("5.5.5.5:443", "5.20.0.9:4000", "5.20.0.9:443", "[2a00::9]:4000", "192.168.1.9:4000", "192.168.1.9:443"), h.withWeb(addrs()))
	many := addrPorts("5.20.0.1:4000", "5.20.0.2:4000", "5.20.0.3:4000", "5.20.0.4:4000", "5.20.0.5:4000", "5.20.0.6:4000", "5.20.0.7:4000", "5.20.0.8:4000")
	require.Contains(t, h.withWeb(many)[:disco.MaxTCP], addrPorts("5.20.0.1:443")[0])
	require.Empty(t, h.withWeb(nil))
}

// PATH-6, PATH-20: such a path is told by all that it is made of.
func TestPATH20WebIsNamed(t *testing.T) {
	id := path.ID{Addr: netip.MustParseAddrPort("31.21.0.2:443"), TCP: true, Web: true}
	p := describe(id, time.Millisecond, time.Time{})
	require.Equal(t, PathDirect, p.Kind)
	require.Equal(t, "/ip4/31.21.0.2/tcp/443/tls/ws", p.Addr)
}
