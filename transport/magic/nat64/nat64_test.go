package nat64_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/nat64"
)

// vectors are those of RFC 6052, section 2.4, for 192.0.2.33.
func vectors() map[string]string {
	return map[string]string{
		"2001:db8::/32":           "2001:db8:c000:221::",
		"2001:db8:100::/40":       "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":       "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56":   "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64":   "2001:db8:122:344:c0:2:2100::",
		"2001:db8:122:344::/96":   "2001:db8:122:344::192.0.2.33",
		"64:ff9b::/96":            "64:ff9b::192.0.2.33",
		"2001:db8:122:344:5::/96": "2001:db8:122:344:5::192.0.2.33",
	}
}

// PATH-24: IPv4 addresses stand in IPv6 ones as RFC 6052 says, for every length.
func TestPATH24SynthesisedAddresses(t *testing.T) {
	v4 := netip.MustParseAddr("192.0.2.33")
	for prefix, want := range vectors() {
		p := netip.MustParsePrefix(prefix)
		require.Equal(t, netip.MustParseAddr(want), nat64.Synthesize(p, v4), prefix)
		require.Equal(t, v4, nat64.Extract(p, netip.MustParseAddr(want)), prefix)
		require.False(t, nat64.Extract(p, netip.MustParseAddr("2001:db9::1")).IsValid(), prefix)
	}
	require.False(t, nat64.Extract(netip.MustParsePrefix("2001:db8::/32"), netip.MustParseAddr("2001:db8:c000:221::1")).IsValid(), "a host")
	for _, bad := range []string{"2001:db8::/33", "2001:db8::/128", "10.0.0.0/32"} {
		p := netip.MustParsePrefix(bad)
		require.False(t, nat64.Synthesize(p, v4).IsValid(), bad)
		require.False(t, nat64.Extract(p, netip.MustParseAddr("2001:db8::1")).IsValid(), bad)
	}
	require.False(t, nat64.Synthesize(netip.MustParsePrefix("64:ff9b::/96"), netip.MustParseAddr("::1")).IsValid())
}

// PATH-24: the prefix is found by either of the well-known addresses (RFC 7050),
// whatever its length; what a network with IPv4 answers names none.
func TestPATH24PrefixIsFound(t *testing.T) {
	for prefix := range vectors() {
		p := netip.MustParsePrefix(prefix)
		for _, known := range []string{"192.0.0.170", "192.0.0.171"} {
			a := nat64.Synthesize(p, netip.MustParseAddr(known))
			require.Equal(t, []netip.Prefix{p}, nat64.Find([]netip.Addr{a, a}), "%s by %s", prefix, known)
		}
	}
	var addrs []netip.Addr
	for _, a := range []string{
		"192.0.0.170", "::ffff:192.0.0.170", "::192.0.0.170", "fe80::192.0.0.170", "ff02::192.0.0.170", "2001:db8::1",
		"2001:db8::c000:aa:1", "64:ff9b::192.0.0.172", "2001:db8:c000:aa:1::",
	} {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	require.Empty(t, nat64.Find(addrs))
	for _, a := range []string{"64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171", "2001:db8:1::192.0.0.170", "2001:db8:2::192.0.0.170"} {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:1::/96")}, nat64.Find(addrs))
}

// PATH-14: nobody is made to knock at private addresses behind a NAT64.
func TestPATH14OnlyPublicAddressesAreSynthesised(t *testing.T) {
	for _, a := range []string{"10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "127.0.0.1", "169.254.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "::1"} {
		require.False(t, nat64.Public(netip.MustParseAddr(a)), a)
	}
	require.True(t, nat64.Public(netip.MustParseAddr("5.20.0.2")))
}

// Whatever a resolver says: a prefix that is found has one of its addresses below
// it, and what is synthesised there is extracted again.
func FuzzFind(f *testing.F) {
	for prefix := range vectors() {
		b := nat64.Synthesize(netip.MustParsePrefix(prefix), netip.MustParseAddr("192.0.0.170")).As16()
		f.Add(b[:], uint32(0x05140002))
	}
	f.Fuzz(func(t *testing.T, raw []byte, four uint32) {
		a, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		for _, p := range nat64.Find([]netip.Addr{a, a}) {
			require.Contains(t, []string{"192.0.0.170", "192.0.0.171"}, nat64.Extract(p, a).String())
			v4 := netip.AddrFrom4([4]byte{byte(four >> 24), byte(four >> 16), byte(four >> 8), byte(four)})
			require.Equal(t, v4, nat64.Extract(p, nat64.Synthesize(p, v4)))
		}
	})
}
