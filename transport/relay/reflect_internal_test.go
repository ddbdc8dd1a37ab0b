package relay

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// PATH-14: no source gets more than its rate, nor all together.
func TestPATH14ReflectLimits(t *testing.T) {
	l := newReflectLimits()
	count := func(ip string, now time.Duration) (n int) {
		for range 1000 {
			if l.allow(netip.MustParseAddr(ip), now) {
				n++
			}
		}
		return n
	}
	const hour = time.Hour
	require.Equal(t, reflectPerSource*reflectBurst, count("192.0.2.1", hour))
	require.Equal(t, reflectPerSource*reflectBurst, count("192.0.2.2", hour), "another source")
	require.Zero(t, count("192.0.2.1", hour))
	require.Equal(t, reflectPerSource/2, count("192.0.2.1", hour+time.Second/2), "the rate goes on")
	require.Equal(t, reflectPerSource*reflectBurst, count("192.0.2.1", 2*hour), "and is not saved up")

	require.Equal(t, reflectPerSource*reflectBurst, count("2001:db8:0:1::1", 3*hour))
	require.Zero(t, count("2001:db8:0:1::2", 3*hour), "the same network")
	require.Equal(t, reflectPerSource*reflectBurst, count("2001:db8:0:2::1", 3*hour))

	// A flood from everywhere.
	all := 0
	ip := netip.MustParseAddr("198.18.0.0")
	for range 3 * reflectInAll {
		if ip = ip.Next(); l.allow(ip, 4*hour) {
			all++
		}
	}
	require.Equal(t, reflectInAll/10, all)
}

func TestReflectLimitsAllocateNothing(t *testing.T) {
	l, now := newReflectLimits(), time.Duration(0)
	ip := netip.MustParseAddr("2001:db8::1")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		now += time.Second
		l.allow(ip, now)
	}))
}
