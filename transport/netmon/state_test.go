package netmon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// iface is an interface that is up. What stands behind its name is "down",
// "4" or "6" for a way to the internet, "4 by" a gateway, or an address.
func iface(index int, name string, facts ...string) Interface {
	i := Interface{Name: name, Index: index, Up: true}
	for _, f := range facts {
		family, gateway, _ := strings.Cut(f, " by ")
		switch {
		case f == "down":
			i.Up = false
		case family == "4":
			i.Default4 = true
			i.gateway4, _ = netip.ParseAddr(gateway)
		case family == "6":
			i.Default6 = true
			i.gateway6, _ = netip.ParseAddr(gateway)
		default:
			i.Addrs = append(i.Addrs, netip.MustParsePrefix(f))
		}
	}
	return i
}

func TestPATH21Compare(t *testing.T) {
	lo := iface(1, "lo", "127.0.0.1/8", "::1/128")
	home := iface(2, "eth0", "192.168.1.5/24", "2001:db8::5/64", "fe80::5/64", "4 by 192.168.1.1", "6 by fe80::1")
	for _, c := range []struct {
		name     string
		old, now []Interface
		flapped  int
		want     string // reasons, majors with a !
	}{
		{"nothing", []Interface{lo, home}, []Interface{lo, home}, 0, ""},
		{
			"another address",
			[]Interface{lo, home},
			[]Interface{lo, iface(2, "eth0", "192.168.1.9/24", "2001:db8::5/64", "fe80::5/64", "4 by 192.168.1.1", "6 by fe80::1")},
			0, "!192.168.1.5/24 on eth0 is gone; 192.168.1.9/24 on eth0 is new",
		},
		{
			"one more address",
			[]Interface{home},
			[]Interface{iface(2, "eth0", "192.168.1.5/24", "2001:db8::5/64", "2001:db8::6/64", "fe80::5/64", "4 by 192.168.1.1", "6 by fe80::1")},
			0, "2001:db8::6/64 on eth0 is new",
		},
		{
			"another network length",
			[]Interface{iface(2, "eth0", "10.0.0.5/24")},
			[]Interface{iface(2, "eth0", "10.0.0.5/16")},
			0, "!10.0.0.5/24 on eth0 is gone; 10.0.0.5/16 on eth0 is new",
		},
		{
			"no link, as Linux shows it",
			[]Interface{home},
			[]Interface{iface(2, "eth0", "192.168.1.5/24", "down")},
			0, "!no way out for IPv4; !no way out for IPv6; !eth0 is down; !2001:db8::5/64 on eth0 is gone",
		},
		{
			"a link again",
			[]Interface{iface(2, "eth0", "192.168.1.5/24", "down")},
			[]Interface{iface(2, "eth0", "192.168.1.5/24", "4")},
			0, "!IPv4 leaves by eth0; !eth0 is up",
		},
		{"a link that went and came", []Interface{home}, []Interface{home}, 2, "!eth0 was down for a moment"},
		{"another that did", []Interface{home}, []Interface{home}, 3, ""},
		{
			"a moment longer",
			[]Interface{home},
			[]Interface{iface(2, "eth0", "192.168.1.5/24", "2001:db8::5/64", "fe80::5/64", "down")},
			2, "!no way out for IPv4; !no way out for IPv6; !eth0 is down",
		},
		{
			"from cable to radio",
			[]Interface{iface(2, "eth0", "10.0.0.2/24", "4"), iface(3, "wlan0", "192.168.7.2/24")},
			[]Interface{iface(2, "eth0", "10.0.0.2/24", "down"), iface(3, "wlan0", "192.168.7.2/24", "4")},
			0, "!IPv4 leaves by wlan0; !eth0 is down",
		},
		{
			"another gateway",
			[]Interface{iface(2, "eth0", "192.168.1.5/24", "4 by 192.168.1.1")},
			[]Interface{iface(2, "eth0", "192.168.1.5/24", "4 by 192.168.1.254")},
			0, "!IPv4 leaves by 192.168.1.254 on eth0",
		},
		{
			"plugged out and another plugged in",
			[]Interface{lo, iface(2, "eth0", "192.168.1.5/24", "4")},
			[]Interface{lo, iface(3, "eth0", "192.168.1.5/24", "4")},
			0,
			"!IPv4 leaves by eth0; 192.168.1.5/24 on eth0 is new; !192.168.1.5/24 on eth0 is gone",
		},
		{"a new interface", []Interface{lo}, []Interface{lo, iface(7, "docker0", "172.17.0.1/16")}, 0, "172.17.0.1/16 on docker0 is new"},
		{"one goes", []Interface{lo, iface(7, "docker0", "172.17.0.1/16")}, []Interface{lo}, 0, "!172.17.0.1/16 on docker0 is gone"},
		{"ends of containers come", []Interface{lo}, []Interface{lo, iface(8, "veth8", "fe80::8/64")}, 0, ""},
		{"and go", []Interface{lo, iface(8, "veth8", "fe80::8/64")}, []Interface{lo}, 0, ""},
		{"and lose their link", []Interface{iface(8, "veth8", "fe80::8/64")}, []Interface{iface(8, "veth8", "fe80::8/64", "down")}, 8, ""},
		{"a rename", []Interface{iface(2, "eth0", "10.0.0.2/24")}, []Interface{iface(2, "lan0", "10.0.0.2/24")}, 0, ""},
		{"all", nil, []Interface{lo, iface(2, "eth0", "10.0.0.2/24", "4")}, 0, "!IPv4 leaves by eth0; 10.0.0.2/24 on eth0 is new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			compare(State{c.old}, State{c.now}, map[int]bool{c.flapped: true}, func(reason string, major bool) {
				if major {
					reason = "!" + reason
				}
				got = append(got, reason)
			})
			require.Equal(t, c.want, strings.Join(got, "; "))
		})
	}
}

func TestStateSort(t *testing.T) {
	a := State{[]Interface{iface(3, "b", "10.0.0.9/8", "fe80::1/64", "10.0.0.1/8"), iface(1, "a")}}
	b := State{[]Interface{iface(1, "a"), iface(3, "b", "fe80::1/64", "10.0.0.1/8", "10.0.0.9/8")}}
	a.sort()
	b.sort()
	require.Equal(t, a, b)
}

func TestStateClone(t *testing.T) {
	a := State{[]Interface{iface(1, "a", "10.0.0.1/8")}}
	b := a.clone()
	require.Equal(t, a, b)
	b.Interfaces[0].Addrs[0] = netip.MustParsePrefix("10.0.0.2/8")
	b.Interfaces[0].Name = "b"
	require.Equal(t, State{[]Interface{iface(1, "a", "10.0.0.1/8")}}, a)
}

func TestPATH21Sleep(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, c := range []struct {
		name       string
		wall, mono time.Duration
		want       bool
	}{
		{"awake", s, s, false},
		{"a busy machine", 10 * s, 10 * s, false},
		{"a clock corrected by a little", s + 500*ms, s, false},
		{"a clock set back", -3600 * s, s, false},
		{"sleep", 3600 * s, s, true},
		{"a nap", 4 * s, s, true},
		{"sleep in which the monotonic clock runs", 3600 * s, 3600 * s, true},
		{"a process that was stopped, and no wall clock", 0, 21 * s, true},
	} {
		begin := reading{wall: 1e18, mono: 77 * s}
		require.Equal(t, c.want, slept(begin, reading{begin.wall + c.wall, begin.mono + c.mono}), c.name)
	}

	now := clocks()
	a := now()
	b := now()
	require.InDelta(t, time.Now().UnixNano(), int64(a.wall), float64(time.Minute))
	require.GreaterOrEqual(t, b.mono, a.mono)
	require.False(t, slept(a, b))
}

func TestDigest(t *testing.T) {
	var d digest
	d.add("a", false)
	require.Equal(t, Change{"a", false}, d.change())
	d.add("b", false)
	require.Equal(t, Change{"a, b", false}, d.change())
	d.add("c", true)
	require.Equal(t, Change{"c, a, b", true}, d.change())
	d.add("d", true)
	require.Equal(t, Change{"c, d, a, and 1 more", true}, d.change())
	for range 1000 {
		d.add("e", true)
	}
	require.Equal(t, Change{"c, d, e, and 1001 more", true}, d.change())
	require.Len(t, d.major, maxReasons)
}
