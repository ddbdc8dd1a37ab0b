package natlab_test

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

func TestDeafAndMute(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}, Peers: []natlab.Peer{{Name: "a"}}})
	one, s := udp(t, lab.Host("one"), 0), udp(t, lab.Host("a"), 0)
	public := s.mustSee(one)
	heard := func(wait time.Duration) bool {
		one.send("back", public)
		_, _, ok := s.hear(wait)

		return ok
	}
	require.True(t, heard(patience))

	require.NoError(t, lab.Deaf("a", 0))
	s.mustSee(one)
	assert.False(t, heard(silence))
	require.NoError(t, lab.Mute("a", 0)) // in its place
	assert.True(t, heard(patience))
	assert.True(t, s.cut(one))
	require.NoError(t, lab.Light("a"))
	s.mustSee(one)

	require.NoError(t, lab.Deaf("a", 50*time.Millisecond))
	require.Eventually(t, func() bool { return heard(silence) }, patience, time.Millisecond)
}

func TestCut(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers:  []natlab.Peer{{Name: "a"}, {Name: "b", Behind: "a"}},
	})
	one, two, s := udp(t, lab.Host("one"), 0), udp(t, lab.Host("two"), 0), udp(t, lab.Host("a"), 0)
	require.NoError(t, lab.Cut("a", "one", 0))
	s.mustSee(two)
	one.mustSee(two)
	assert.True(t, s.cut(one))
	require.NoError(t, lab.NewIP("a"))
	assert.True(t, s.cut(one), "also from another address")
	require.NoError(t, lab.Mend("one", "a"))
	public := s.mustSee(one)

	require.NoError(t, lab.CutOneWay("one", "a", 0))
	s.mustSee(one)
	one.send("lost", public)
	_, _, ok := s.hear(silence)
	assert.False(t, ok)
	require.NoError(t, lab.CutOneWay("a", "one", 0)) // in its place
	one.send("back", public)
	_, _, ok = s.hear(patience)
	assert.True(t, ok)
	assert.True(t, s.cut(one))
	require.NoError(t, lab.Mend("a", "one"))
	s.mustSee(one)

	require.NoError(t, lab.Cut("one", "b", 50*time.Millisecond))
	require.Eventually(t, func() bool { return !s.cut(one) }, patience, time.Millisecond)
	require.Error(t, lab.Cut("a", "b", 0), "one site")
	require.Error(t, lab.Cut("a", "nobody", 0))
}

func TestMTU(t *testing.T) {
	const mtu, headers = 1300, 28
	lab := start(t, natlab.Config{
		Public: []string{"one"},
		Peers:  []natlab.Peer{{Name: "a"}},
		Links:  map[string]natlab.Link{"a": {}},
	})
	one, s := udp(t, lab.Host("one"), 0), udp(t, lab.Host("a"), 0)
	public := s.mustSee(one)
	whole := func(size int, to netip.AddrPort) bool {
		t.Helper()
		what := strings.Repeat("x", size)
		s.send(what, to)
		got, _, ok := one.hear(silence)

		return ok && got == what
	}
	back := func(size int) bool {
		what := strings.Repeat("y", size)
		one.send(what, public)
		got, _, ok := s.hear(silence)

		return ok && got == what
	}
	require.True(t, whole(1500-headers, one.addr()))

	require.NoError(t, lab.SetLink("a", natlab.Link{MTU: mtu, BlackHole: true}))
	assert.True(t, whole(mtu-headers, one.addr()))
	assert.False(t, whole(mtu-headers+1, one.addr()), "a black hole")
	assert.True(t, back(mtu-headers))
	assert.False(t, back(mtu-headers+1))

	// What may not be cut is refused by ICMP: the sender's kernel learns of it.
	require.NoError(t, lab.SetLink("a", natlab.Link{MTU: mtu}))
	for _, from := range []*socket{s, one} {
		raw, err := from.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_DO)
		}))
		require.NoError(t, err)
	}
	assert.False(t, whole(1500-headers, one.addr()))
	assert.False(t, back(1500-headers))
	assert.True(t, whole(mtu-headers, one.addr()))
	assert.True(t, back(mtu-headers))
	for from, to := range map[*socket]netip.AddrPort{s: one.addr(), one: public} {
		_, err := from.WriteToUDPAddrPort(make([]byte, 1500-headers), to)
		require.ErrorIs(t, err, syscall.EMSGSIZE)
	}

	require.Error(t, lab.SetLink("a", natlab.Link{MTU: 1000}))
	require.Error(t, lab.SetLink("a", natlab.Link{BlackHole: true}))
}
