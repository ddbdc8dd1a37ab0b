package natlab_test

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

func TestNATReset(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers:  []natlab.Peer{{Name: "a", Kind: natlab.FullCone}, {Name: "c", Kind: natlab.CGNAT}},
	})
	one, two := udp(t, lab.Host("one"), 0), udp(t, lab.Host("two"), 0)

	for _, name := range []string{"a", "c"} {
		s := udp(t, lab.Host(name), 6001)
		public := s.mustSee(one)
		one.send("before", public)
		_, _, ok := s.hear(patience)
		require.True(t, ok)
		require.NoError(t, lab.NATReset(name))
		one.send("after", public)
		_, _, ok = s.hear(silence)
		assert.False(t, ok, "%s still has its mapping", name)
	}

	s := udp(t, lab.Host("a"), 6002)
	kept := s.mustSee(one)
	require.NoError(t, lab.NATReset("a"))
	assert.Equal(t, kept, s.mustSee(one), "a rebooted router keeps ports")
	require.NoError(t, lab.NATShuffle("a"))
	shuffled := s.mustSee(one)
	assert.NotEqual(t, kept, shuffled)
	assert.Equal(t, kept.Addr(), shuffled.Addr())
	assert.Equal(t, shuffled, s.mustSee(two), "still EIM")

	require.ErrorContains(t, lab.NATReset("one"), "not behind a NAT")
}

func TestNewIP(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one"},
		Peers:  []natlab.Peer{{Name: "a", Kind: natlab.FullCone}, {Name: "c", Kind: natlab.CGNAT}},
		Links:  map[string]natlab.Link{"a": {Delay: time.Millisecond}},
	})
	one := udp(t, lab.Host("one"), 0)

	for _, name := range []string{"a", "c"} {
		h := lab.Host(name)
		s := udp(t, h, 0)
		lan, before := h.Addr(), s.mustSee(one)
		require.NoError(t, lab.NewIP(name))
		one.send("to the old address", before)
		_, _, ok := s.hear(silence)
		assert.False(t, ok)
		after := s.mustSee(one)
		assert.NotEqual(t, before.Addr(), after.Addr())
		assert.Equal(t, h.PublicAddr(), after.Addr())
		assert.Equal(t, lan, h.Addr())
	}

	before := lab.Host("one").Addr()
	require.NoError(t, lab.NewIP("one"))
	assert.NotEqual(t, before, lab.Host("one").Addr())
	assert.Equal(t, lab.Host("one").PublicAddr(), lab.Host("one").Addr())
	udp(t, lab.Host("a"), 0).mustSee(one)
}

func TestNewLAN(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}, Peers: []natlab.Peer{{Name: "a"}}})
	a, one := lab.Host("a"), udp(t, lab.Host("one"), 0)
	before, public := a.Addr(), a.PublicAddr()
	require.NoError(t, lab.NewLAN("a"))
	assert.NotEqual(t, before, a.Addr())
	assert.Equal(t, []string{a.Addr().String() + "/24"}, addresses(t, a))
	assert.Equal(t, public, udp(t, a, 0).mustSee(one).Addr())
	require.Error(t, lab.NewLAN("one"))
}

// addresses lists the global IPv4 addresses of a host's interface.
func addresses(t *testing.T, h *natlab.Host) (out []string) {
	t.Helper()
	require.NoError(t, h.Do(func() error {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := dev.Addrs()
		for _, a := range addrs {
			if a.(*net.IPNet).IP.To4() != nil {
				out = append(out, a.String())
			}
		}
		return err
	}))

	return out
}

func TestMove(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers:  []natlab.Peer{{Name: "a"}, {Name: "b", Kind: natlab.AddressRestricted}},
	})
	a := lab.Host("a")

	first := a.PublicAddr()
	require.NoError(t, lab.Move("a", natlab.Peer{Kind: natlab.Symmetric}))
	assert.NotEqual(t, first, a.PublicAddr())
	assert.Equal(t, behaviour{"APDM", "APDF", false, "changed", "changed"}, measure(t, lab, "a"))

	require.NoError(t, lab.Move("a", natlab.Peer{Behind: "b"}))
	assert.Equal(t, lab.Host("b").PublicAddr(), a.PublicAddr())
	assert.Equal(t, behaviour{"EIM", "ADF", true, "kept", "kept"}, measure(t, lab, "a"))

	require.NoError(t, lab.Move("a", natlab.Peer{Kind: natlab.None}))
	assert.Equal(t, a.Addr(), a.PublicAddr())
	assert.Equal(t, behaviour{"none", "EIF", true, "kept", "kept"}, measure(t, lab, "a"))

	require.NoError(t, lab.Dark("a", 0)) // stays where it was
	require.NoError(t, lab.Move("a", natlab.Peer{}))
	assert.Equal(t, behaviour{"EIM", "APDF", true, "kept", "kept"}, measure(t, lab, "a"))
	assert.Equal(t, []string{a.Addr().String() + "/24"}, addresses(t, a))

	require.Error(t, lab.Move("a", natlab.Peer{Behind: "a"}))
	require.Error(t, lab.Move("a", natlab.Peer{Behind: "one"}))
	require.Error(t, lab.Move("a", natlab.Peer{Kind: "token ring"}))
	udp(t, a, 0).mustSee(udp(t, lab.Host("one"), 0))
}

func TestDark(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers:  []natlab.Peer{{Name: "a"}, {Name: "b"}, {Name: "c", Kind: natlab.CGNAT}},
		Link:   natlab.Link{Delay: time.Millisecond},
	})
	two := udp(t, lab.Host("two"), 0)
	for _, name := range []string{"a", "c", "one"} {
		s, b := udp(t, lab.Host(name), 0), udp(t, lab.Host("b"), 0)
		public := s.mustSee(two)
		require.NoError(t, lab.Dark(name, 0))
		assert.True(t, s.cut(two), "%s is heard", name)
		two.send("in the dark", public)
		_, _, ok := s.hear(silence)
		assert.False(t, ok, "%s hears", name)
		b.mustSee(two)
		require.NoError(t, lab.Light(name))
		s.mustSee(two)
	}

	// Dark returns at once, and the last one says when it ends.
	const long = time.Second
	s := udp(t, lab.Host("a"), 0)
	begin := time.Now()
	require.NoError(t, lab.Dark("a", time.Hour))
	require.NoError(t, lab.Dark("a", long/10))
	require.NoError(t, lab.Dark("a", long))
	for {
		if _, ok := s.seenWithin(two, two.addr(), 10*time.Millisecond); ok {
			break
		}
		require.Less(t, time.Since(begin), 2*patience, "dark for ever")
	}
	assert.GreaterOrEqual(t, time.Since(begin), long)

	// What is still to end is ended by Close.
	require.NoError(t, lab.Dark("a", time.Hour))
	require.NoError(t, lab.Unplug("a", time.Hour))
}

func TestUnplug(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers:  []natlab.Peer{{Name: "a"}, {Name: "six", Kind: natlab.IPv6Firewalled}},
		Links:  map[string]natlab.Link{"two": {Delay: time.Millisecond}},
	})
	up := func(h *natlab.Host) (up bool) {
		require.NoError(t, h.Do(func() error {
			dev, err := net.InterfaceByName("eth0")
			if err == nil {
				up = dev.Flags&net.FlagUp != 0
			}
			return err
		}))

		return up
	}
	one := udp(t, lab.Host("one"), 0)
	for _, name := range []string{"a", "two"} {
		h := lab.Host(name)
		s := udp(t, h, 0)
		s.mustSee(one)
		require.NoError(t, lab.Unplug(name, 0))
		assert.False(t, up(h))
		assert.True(t, s.cut(one))
		require.NoError(t, lab.Plug(name))
		assert.True(t, up(h))
		s.mustSee(one)
	}

	require.NoError(t, lab.Unplug("six", 50*time.Millisecond))
	require.Eventually(t, func() bool { return up(lab.Host("six")) }, patience, 10*time.Millisecond)
	assert.Equal(t, "none", measure(t, lab, "six").Mapping)
}

func TestLink(t *testing.T) {
	const delay = 20 * time.Millisecond
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers:  []natlab.Peer{{Name: "a"}},
		Link:   natlab.Link{Delay: delay},
		Links:  map[string]natlab.Link{"two": {}},
	})
	one, two, s := udp(t, lab.Host("one"), 0), udp(t, lab.Host("two"), 0), udp(t, lab.Host("a"), 0)
	roundTrip := func(server *socket) time.Duration {
		best := patience
		for range 8 {
			begin := time.Now()
			server.send("back", s.mustSee(server))
			_, _, ok := s.hear(patience)
			require.True(t, ok)
			best = min(best, time.Since(begin))
		}

		return best
	}
	// Never early, and late only by what a busy machine takes.
	const slack = 15 * time.Millisecond
	check := func(want, got time.Duration) {
		t.Helper()
		t.Logf("round trip %v over %v", got, want)
		assert.GreaterOrEqual(t, got, want)
		assert.Less(t, got, want+slack)
	}
	check(4*delay, roundTrip(one))
	check(2*delay, roundTrip(two))

	require.NoError(t, lab.SetLink("a", natlab.Link{Delay: delay / 4}))
	s.mustSee(one) // behind what was under way
	check(2*delay+delay/2, roundTrip(one))

	// Loss in one of the two directions of a round trip is loss of both.
	require.NoError(t, lab.SetLink("one", natlab.Link{Loss: 1}))
	assert.True(t, s.cut(one))
	require.NoError(t, lab.SetLink("one", natlab.Link{}))
	check(delay/2, roundTrip(one))

	require.Error(t, lab.SetLink("one", natlab.Link{Loss: 2}))
}

// TCP, which the kernel hands over in large pieces, passes NAT and cables whole
// and not faster than the line.
func TestTCPOverLink(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one"},
		Peers:  []natlab.Peer{{Name: "a"}},
		Link:   natlab.Link{Delay: time.Millisecond, Jitter: time.Millisecond},
	})
	assert.Less(t, transfer(t, lab, 4<<20), 20*time.Second)

	const rate = 40_000_000
	require.NoError(t, lab.SetLink("a", natlab.Link{Rate: rate, Loss: 0.001}))
	const size = 1 << 20
	atBest := time.Duration(size * 8 * int64(time.Second) / rate)
	assert.GreaterOrEqual(t, transfer(t, lab, size), atBest*9/10)
}

// transfer sends size bytes from one to a, checks them, and says how long it
// took.
func transfer(t *testing.T, lab *natlab.Lab, size int) time.Duration {
	t.Helper()
	var listener net.Listener
	require.NoError(t, lab.Host("one").Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":0")
		return err
	}))
	defer listener.Close()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i ^ i>>8 ^ i>>16)
	}
	sent := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = conn.Write(data)
			conn.Close()
		}
		sent <- err
	}()

	at := netip.AddrPortFrom(lab.Host("one").Addr(), listener.Addr().(*net.TCPAddr).AddrPort().Port()).String()
	var conn net.Conn
	require.NoError(t, lab.Host("a").Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", at, patience)
		return err
	}))
	defer conn.Close()
	begin := time.Now()
	got := make([]byte, size)
	require.NoError(t, conn.SetReadDeadline(begin.Add(time.Minute)))
	_, err := io.ReadFull(conn, got)
	took := time.Since(begin)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.True(t, bytes.Equal(got, data), "data is damaged")
	t.Logf("%.0f Mbit/s", float64(size)*8/took.Seconds()/1e6)

	return took
}

func TestSetLinkOfKernelCable(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}})
	require.ErrorContains(t, lab.SetLink("one", natlab.Link{Delay: time.Second}), "Config.Links")
}

// Live UDP mappings get other public ports, and a TCP connection goes on.
func TestNATRemap(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers:  []natlab.Peer{{Name: "a"}, {Name: "c", Kind: natlab.CGNAT}},
	})
	one, two := udp(t, lab.Host("one"), 0), udp(t, lab.Host("two"), 0)
	var listener net.Listener
	require.NoError(t, lab.Host("one").Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":0")
		return err
	}))
	defer listener.Close()
	at := netip.AddrPortFrom(lab.Host("one").Addr(), listener.Addr().(*net.TCPAddr).AddrPort().Port())
	for _, name := range []string{"a", "c"} {
		h := lab.Host(name)
		conn, err := dialTCP(h, "tcp4", netip.AddrPort{}, at, patience)
		require.NoError(t, err)
		defer conn.Close()
		accepted, err := listener.Accept()
		require.NoError(t, err)
		defer accepted.Close()

		s := udp(t, h, 0)
		before := s.mustSee(one)
		require.Equal(t, before, s.mustSee(two))
		// The mapping is in use while it changes.
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			tick := time.NewTicker(100 * time.Microsecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					s.send("in use", two.addr())
					two.send("in use", before)
				case <-stop:
					return
				}
			}
		}()
		require.NoError(t, lab.NATRemap(name))
		close(stop)
		<-stopped
		after := s.mustSee(one)
		assert.NotEqual(t, before, after)
		assert.Equal(t, before.Addr(), after.Addr())
		assert.Equal(t, after, s.mustSee(two), "still EIM")
		one.send("to the new port", after)
		for what := ""; what != "to the new port"; { // after what was in use
			var ok bool
			what, _, ok = s.hear(patience)
			require.True(t, ok)
		}
		one.send("to the old port", before)
		_, _, ok := s.hear(silence)
		assert.False(t, ok)

		_, err = conn.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, accepted.SetReadDeadline(time.Now().Add(patience)))
		_, err = accepted.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	require.ErrorContains(t, lab.NATRemap("one"), "not behind a NAT")
}

// A second cable joins two hosts of different sites, and only those.
func TestConnect(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}, Peers: []natlab.Peer{{Name: "a"}, {Name: "b"}}})
	a, b, one := udp(t, lab.Host("a"), 0), udp(t, lab.Host("b"), 0), udp(t, lab.Host("one"), 0)
	before := a.mustSee(one)
	require.NoError(t, lab.Connect("a", "b"))
	require.Error(t, lab.Connect("b", "a"), "connected already")
	var there netip.AddrPort
	require.NoError(t, lab.Host("b").Do(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, addr := range addrs {
			p := netip.MustParsePrefix(addr.String())
			if p.Addr().Is4() && !p.Addr().IsLoopback() && p.Addr() != lab.Host("b").Addr() {
				there = netip.AddrPortFrom(p.Addr(), b.port)
			}
		}
		return err
	}))
	require.True(t, there.IsValid())
	from, ok := a.seenWithin(b, there, patience)
	require.True(t, ok)
	assert.True(t, from.Addr().IsPrivate())
	assert.Equal(t, before, a.mustSee(one), "other packets go as before")

	require.NoError(t, lab.Disconnect("b", "a"))
	_, ok = a.seenWithin(b, there, silence)
	assert.False(t, ok)
	require.Error(t, lab.Disconnect("a", "b"))
	require.Error(t, lab.Connect("a", "a"))
	require.Error(t, lab.Connect("a", "nobody"))
}
