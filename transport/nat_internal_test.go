package transport

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

// RFC 4787, section 4.1: the mapping follows from where each reflector sees the
// same socket.
func TestPATH31MappingOf(t *testing.T) {
	one := reflectorsOf{at: addrPorts("1.0.0.1:1", "1.0.0.1:2")}
	two := reflectorsOf{at: addrPorts("2.0.0.2:1", "2.0.0.2:2")}
	both := []reflectorsOf{one, two}
	own := netip.MustParseAddrPort("7.7.7.7:7")
	seen := func(texts ...string) map[netip.AddrPort]netip.AddrPort {
		out := map[netip.AddrPort]netip.AddrPort{}
		for i, to := range append(append([]netip.AddrPort{}, one.at...), two.at...) {
			if i < len(texts) && texts[i] != "" {
				out[to] = netip.MustParseAddrPort(texts[i])
			}
		}
		return out
	}
	for _, c := range []struct {
		seen map[netip.AddrPort]netip.AddrPort
		want string
	}{
		{seen(), natUnknown},
		{seen("9.9.9.9:1"), natUnknown},
		{seen("7.7.7.7:7"), natNone},
		{seen("9.9.9.9:1", "9.9.9.9:1"), natEndpoint},
		{seen("9.9.9.9:1", "9.9.9.9:1", "9.9.9.9:1", "9.9.9.9:1"), natEndpoint},
		{seen("", "9.9.9.9:1", "", "9.9.9.9:1"), natEndpoint},
		{seen("9.9.9.9:1", "9.9.9.9:1", "9.9.9.9:2", "9.9.9.9:2"), natAddress},
		{seen("9.9.9.9:1", "9.9.9.9:2"), natPort},
		{seen("9.9.9.9:1", "9.9.9.9:2", "9.9.9.9:3", "9.9.9.9:4"), natPort},
		{seen("9.9.9.9:1", "", "9.9.9.9:2"), natPort},
	} {
		require.Equal(t, c.want, mappingOf(func(a netip.AddrPort) bool { return a == own }, both, c.seen), "%v", c.seen)
	}
}

func TestLifetimeSteps(t *testing.T) {
	require.Equal(t, []time.Duration{7 * time.Second}, lifetimeSteps(7 * time.Second)[1:])
	long := lifetimeSteps(2 * time.Minute)
	require.Equal(t, 2*time.Minute, long[len(long)-1])
	require.Len(t, long, 10, "sockets at once")
	require.IsIncreasing(t, long)
}

// PATH-34: of a relay that nothing could be sent to it is not said that it is
// down, nor what stands below.
func TestPATH34RelayWithoutWay(t *testing.T) {
	p := &patient{home: relay.HomeInfo{Home: true}}
	d := &doctor{relays: []*patient{p}}
	require.Equal(t, reasonNoWay.cause, d.link(p).Cause)
	p.ways = []way{{name: "tcp4", err: errNoAnswer}}
	require.Equal(t, reasonNotLinked.cause, d.link(p).Cause)
	p.home.Up = true
	require.True(t, d.link(p).OK)
}
