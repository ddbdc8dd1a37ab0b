package disco_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/stretchr/testify/require"
)

var (
	v4 = netip.MustParseAddrPort("198.51.100.7:4242")
	v6 = netip.MustParseAddrPort("[2001:db8::7]:4242")
)

// samples are one message of every type, and the extremes of each.
func samples() map[string]disco.Message {
	tx := disco.TxID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	boot := disco.BootID{5: 0x01, 6: 0x80, 15: 0xff}
	full := disco.CallMeMaybe{TxID: tx, BootID: boot}
	for i := range disco.MaxAddrs {
		full.Addrs = append(full.Addrs, netip.AddrPortFrom(v4.Addr(), uint16(i+1)))
	}
	for i := range disco.MaxHomes {
		full.Homes = append(full.Homes, [32]byte{byte(i)})
	}
	full.Network = disco.Network{IPv4: disco.MappingDependent, IPv6: disco.MappingNone, NoUDP: true}
	full.Punch.State = disco.PunchOpen
	for i := range disco.MaxPorts {
		full.Punch.Ports = append(full.Punch.Ports, uint16(65535-i))
	}
	for range disco.MaxTCP {
		full.TCP = append(full.TCP, v6)
	}
	return map[string]disco.Message{
		"ping":                   disco.Ping{TxID: tx, BootID: boot},
		"padded ping":            disco.Ping{TxID: tx, BootID: boot, Padding: 7},
		"pong":                   disco.Pong{TxID: tx, BootID: boot, Observed: v4},
		"pong over a relay":      disco.Pong{TxID: tx, BootID: boot},
		"call-me-maybe":          disco.CallMeMaybe{TxID: tx, BootID: boot, Addrs: []netip.AddrPort{v4, v6}, Homes: [][32]byte{{1}, {2}}},
		"empty call-me-maybe":    disco.CallMeMaybe{TxID: tx, BootID: boot},
		"full call-me-maybe":     full,
		"call-me-maybe, network": disco.CallMeMaybe{TxID: tx, BootID: boot, Network: disco.Network{IPv4: disco.MappingIndependent}},
		"call-me-maybe, waiting": disco.CallMeMaybe{TxID: tx, BootID: boot, Punch: disco.Punch{State: disco.PunchWait}},
		"call-me-maybe, punched": disco.CallMeMaybe{TxID: tx, BootID: boot, Punch: disco.Punch{State: disco.PunchDone}},
		"path gone":              disco.PathGone{TxID: tx, BootID: boot, Addr: v6},
		"path gone, all of them": disco.PathGone{TxID: tx, BootID: boot},
		"hello":                  disco.Hello{TxID: tx, BootID: boot},
	}
}

func TestMessagesReturn(t *testing.T) {
	for name, m := range samples() {
		raw, err := disco.AppendMessage(nil, m)
		require.NoError(t, err, name)
		back, err := disco.ParseMessage(raw)
		require.NoError(t, err, name)
		require.Equal(t, m, back, name)
		for n := range raw {
			if less, err := disco.ParseMessage(raw[:n]); err == nil {
				again, err := disco.AppendMessage(nil, less)
				require.NoError(t, err, name)
				_, ping := m.(disco.Ping)
				_, call := m.(disco.CallMeMaybe)
				require.True(t, ping && n >= 29 || call && len(again) == n, "%s cut to %d bytes is taken", name, n)
			}
		}
		if _, ping := m.(disco.Ping); !ping {
			_, err = disco.ParseMessage(append(raw, 0))
			require.ErrorIs(t, err, disco.ErrMalformed, name)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	addr := func(a string) []byte {
		ap := netip.MustParseAddrPort(a)
		ip := ap.Addr().As16()
		return append(ip[:], byte(ap.Port()>>8), byte(ap.Port()))
	}
	stamped := func(kind byte, rest ...byte) []byte {
		return append(append([]byte{kind}, make([]byte, 28)...), rest...)
	}
	gone := func(a string) []byte { return stamped(4, addr(a)...) }
	for name, raw := range map[string][]byte{
		"nothing":             {},
		"type zero":           stamped(0),
		"unknown type":        stamped(6),
		"padding of ones":     stamped(1, 1),
		"nothing but a type":  {5},
		"port zero":           gone("198.51.100.7:0"),
		"multicast":           gone("224.0.0.1:5353"),
		"multicast IPv6":      gone("[ff02::fb]:5353"),
		"broadcast":           gone("255.255.255.255:1"),
		"unspecified":         gone("0.0.0.0:1"),
		"unspecified IPv6":    gone("[::]:1"),
		"17 addresses":        append(append(stamped(3, 17), bytes.Repeat(addr("198.51.100.7:1"), 17)...), 0),
		"5 homes":             append(stamped(3, 0, 5), make([]byte, 5*32)...),
		"255 addresses, none": stamped(3, 255),
		"extension cut":       stamped(3, 0, 0, 9, 2, 0),
		"extension, no size":  stamped(3, 0, 0, 9),
		"short network":       stamped(3, 0, 0, 1, 2, 0, 0),
		"network twice":       stamped(3, 0, 0, 1, 3, 0, 0, 0, 1, 3, 0, 0, 0),
		"empty punch":         stamped(3, 0, 0, 2, 0),
		"half a port":         stamped(3, 0, 0, 2, 2, 1, 0),
		"no TCP address":      stamped(3, 0, 0, 4, 0),
		"half a TCP address":  append(stamped(3, 0, 0, 4, 19), append(addr("198.51.100.7:1"), 0)...),
		"TCP port 0":          append(stamped(3, 0, 0, 4, 18), addr("198.51.100.7:0")...),
		"9 TCP addresses":     append(stamped(3, 0, 0, 4, 162), bytes.Repeat(addr("198.51.100.7:1"), 9)...),
		"17 ports":            stamped(3, append([]byte{0, 0, 2, 35, 1}, make([]byte, 34)...)...),
	} {
		_, err := disco.ParseMessage(raw)
		require.ErrorIs(t, err, disco.ErrMalformed, name)
	}
}

// What later versions say in a CallMeMaybe does not keep this one from reading
// the rest.
func TestExtensionsAreSkipped(t *testing.T) {
	plain, err := disco.AppendMessage(nil, disco.CallMeMaybe{})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		extensions []byte
		want       disco.CallMeMaybe
	}{
		"unknown ones":          {[]byte{200, 1, 7, 200, 0}, disco.CallMeMaybe{}},
		"known behind unknown":  {[]byte{200, 0, 1, 3, 2, 3, 1}, disco.CallMeMaybe{Network: disco.Network{IPv4: 2, IPv6: 3, NoUDP: true}}},
		"longer, unknown flags": {[]byte{1, 4, 2, 3, 0xfe, 9}, disco.CallMeMaybe{Network: disco.Network{IPv4: 2, IPv6: 3}}},
		"unknown mapping":       {[]byte{1, 3, 4, 255, 0}, disco.CallMeMaybe{}},
		"unknown state":         {[]byte{2, 3, 4, 0, 9}, disco.CallMeMaybe{}},
	} {
		m, err := disco.ParseMessage(append(bytes.Clone(plain), c.extensions...))
		require.NoError(t, err, name)
		require.Equal(t, c.want, m, name)
	}
}

func TestAppendRefuses(t *testing.T) {
	zone := netip.AddrPortFrom(netip.MustParseAddr("fe80::1%eth0"), 1)
	for name, m := range map[string]disco.Message{
		"too many addresses": disco.CallMeMaybe{Addrs: make([]netip.AddrPort, disco.MaxAddrs+1)},
		"too many homes":     disco.CallMeMaybe{Homes: make([][32]byte, disco.MaxHomes+1)},
		"no address":         disco.CallMeMaybe{Addrs: make([]netip.AddrPort, 1)},
		"mapping":            disco.CallMeMaybe{Network: disco.Network{IPv6: 4}},
		"too many for TCP":   disco.CallMeMaybe{TCP: slices.Repeat([]netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:1")}, disco.MaxTCP+1)},
		"too many ports":     disco.CallMeMaybe{Punch: disco.Punch{State: 1, Ports: make([]uint16, disco.MaxPorts+1)}},
		"punch state":        disco.CallMeMaybe{Punch: disco.Punch{State: 4}},
		"zone":               disco.PathGone{Addr: zone},
		"negative padding":   disco.Ping{Padding: -1},
		"huge padding":       disco.Ping{Padding: disco.MaxPacket + 1},
	} {
		_, err := disco.AppendMessage(nil, m)
		require.ErrorIs(t, err, disco.ErrMalformed, name)
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, m := range samples() {
		raw, err := disco.AppendMessage(nil, m)
		require.NoError(f, err)
		f.Add(raw)
		if _, call := m.(disco.CallMeMaybe); call {
			f.Add(append(raw, 200, 2, 1, 2))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := disco.ParseMessage(raw)
		if err != nil {
			return
		}
		back, err := disco.AppendMessage(nil, m)
		if len(raw) > disco.MaxPacket && err != nil {
			return // padding no packet could hold
		}
		require.NoError(t, err)
		if _, call := m.(disco.CallMeMaybe); call { // unknown extensions are gone
			again, err := disco.ParseMessage(back)
			require.NoError(t, err)
			require.Equal(t, m, again)
			return
		}
		require.Equal(t, raw, back)
	})
}

// PATH-11: 1,024 transactions are remembered.
func TestPATH11Window(t *testing.T) {
	var w disco.Window
	tx := func(i int) disco.TxID { return disco.TxID{byte(i), byte(i >> 8), byte(i >> 16)} }
	for i := range 3000 {
		require.True(t, w.Add(tx(i)))
		require.False(t, w.Add(tx(i)), "seen at once again")
	}
	for i := 3000 - 1024; i < 3000; i++ {
		require.False(t, w.Add(tx(i)), "%d is within the window", i)
	}
	require.True(t, w.Add(tx(3000-1025)), "fell out of the window")
}

// PATH-11: a higher boot acts only when it is proven.
func TestPATH11Boots(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	first, second, third := disco.NewBootID(now), disco.NewBootID(now.Add(time.Millisecond)), disco.NewBootID(now.Add(time.Hour))
	require.True(t, first.Before(second))
	require.False(t, second.Before(first))
	require.False(t, first.Before(first))

	var b disco.Boots
	require.Equal(t, disco.BootStale, b.Check(disco.BootID{}, false))
	require.Equal(t, disco.BootCurrent, b.Check(second, false))
	require.Equal(t, disco.BootCurrent, b.Check(second, true))
	require.Equal(t, disco.BootStale, b.Check(first, false))
	require.Equal(t, disco.BootStale, b.Check(first, true))
	require.Equal(t, disco.BootUnproven, b.Check(third, false), "may be a recording")
	require.Equal(t, disco.BootCurrent, b.Check(second, false), "so nothing followed")
	require.Equal(t, disco.BootRestarted, b.Check(third, true))
	require.Equal(t, disco.BootStale, b.Check(second, true))
	require.Equal(t, disco.BootCurrent, b.Check(disco.BootID{}, true))
}
