package natlab_test

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// behaviour is what measuring shows of a NAT, in the terms of RFC 4787.
type behaviour struct {
	Mapping, Filtering string
	PortKept           bool
	TCP80, TCP443      string // the public port: "kept", "changed", or "" if it does not connect
}

// TestKinds measures each kind from inside (the method of RFC 5780) and holds
// it against the table of the package comment.
func TestKinds(t *testing.T) {
	table := map[natlab.Kind]behaviour{
		natlab.None:              {"none", "EIF", true, "kept", "kept"},
		natlab.FullCone:          {"EIM", "EIF", true, "kept", "kept"},
		natlab.AddressRestricted: {"EIM", "ADF", true, "kept", "kept"},
		natlab.PortRestricted:    {"EIM", "APDF", true, "kept", "kept"},
		natlab.Symmetric:         {"APDM", "APDF", false, "changed", "changed"},
		natlab.CGNAT:             {"EIM", "APDF", false, "kept", "kept"},
		natlab.UDPBlocked:        {"blocked", "", false, "kept", "kept"},
		natlab.Egress443Only:     {"blocked", "", false, "", "kept"},
		natlab.IPv6Firewalled:    {"none", "APDF", true, "kept", "kept"},
		natlab.Masquerade:        {"EIM", "APDF", true, "kept", "kept"},
	}

	c := natlab.Config{Public: []string{"one", "two"}}
	for i, kind := range natlab.Kinds() {
		c.Peers = append(c.Peers, natlab.Peer{Name: "p" + strconv.Itoa(i), Kind: kind})
	}
	c.Peers = append(c.Peers, natlab.Peer{Name: "random", Kind: natlab.FullCone, RandomPorts: true})
	lab := start(t, c)

	for _, p := range c.Peers {
		t.Run(p.Name+"="+string(p.Kind), func(t *testing.T) {
			want := table[p.Kind]
			if p.RandomPorts {
				want.PortKept = false
			}
			assert.Equal(t, want, measure(t, lab, p.Name))
			assert.Equal(t, p.Kind, lab.Host(p.Name).Kind())
		})
	}
}

// measure finds out how the NAT before a host behaves, with two sockets on
// each of two public hosts.
func measure(t *testing.T, lab *natlab.Lab, name string) behaviour {
	t.Helper()
	h, one, two := lab.Host(name), lab.Host("one"), lab.Host("two")
	got := behaviour{
		TCP80:  connects(t, h, one, 80),
		TCP443: connects(t, h, one, 443),
	}
	network, addrs := "udp4", []netip.Addr{one.Addr(), two.Addr()}
	if h.Addr().Is6() {
		network, addrs = "udp6", []netip.Addr{one.Addr6(), two.Addr6()}
	}
	var servers []*socket
	var ats []netip.AddrPort
	for i, server := range []*natlab.Host{one, one, two, two} {
		s := udpOn(t, server, network, netip.AddrPortFrom(addrs[i/2], 0))
		servers = append(servers, s)
		ats = append(ats, netip.AddrPortFrom(addrs[i/2], s.port))
	}

	client := udp(t, h, 0)
	seen := make(map[netip.AddrPort]bool)
	got.PortKept = true
	wait := patience
	if h.Kind() == natlab.UDPBlocked || h.Kind() == natlab.Egress443Only {
		wait = silence
	}
	var last netip.AddrPort
	for i, server := range servers {
		from, ok := client.seenWithin(server, ats[i], wait)
		if !ok {
			break
		}
		last = from
		seen[from] = true
		got.PortKept = got.PortKept && from.Port() == client.port
		require.Equal(t, h.PublicAddr(), from.Addr())
	}
	switch len(seen) {
	case 0:
		got.Mapping, got.PortKept = "blocked", false
		return got
	case 1:
		got.Mapping = "EIM"
		if last == client.addr() {
			got.Mapping = "none"
		}
	case len(servers):
		got.Mapping = "APDM"
	default:
		got.Mapping = "other"
	}

	// Strangers speak first, so that what they send is not let in by anything
	// that the friend does.
	client = udp(t, h, 0)
	public, ok := client.seenWithin(servers[0], ats[0], patience)
	require.True(t, ok)
	servers[2].send("other address", public)
	servers[1].send("other port", public)
	servers[0].send("friend", public)
	heard := make(map[string]bool)
	for wait := patience; ; {
		what, _, ok := client.hear(wait)
		if !ok {
			break
		}
		heard[what] = true
		if what == "friend" {
			wait = silence
		}
	}
	require.True(t, heard["friend"], "the host sent to is filtered")
	switch {
	case heard["other address"]:
		got.Filtering = "EIF"
	case heard["other port"]:
		got.Filtering = "ADF"
	default:
		got.Filtering = "APDF"
	}

	return got
}

// connects says whether h reaches a TCP port of a public host, and whether the
// host sees h's own port.
func connects(t *testing.T, h, server *natlab.Host, port uint16) string {
	t.Helper()
	network, addr := "tcp4", server.Addr()
	if h.Addr().Is6() {
		network, addr = "tcp6", server.Addr6()
	}
	at := netip.AddrPortFrom(addr, port)
	var listener net.Listener
	require.NoError(t, server.Do(func() (err error) {
		listener, err = net.ListenTCP(network, net.TCPAddrFromAddrPort(at))
		return err
	}))
	defer listener.Close()

	wait := patience
	if h.Kind() == natlab.Egress443Only && port != 443 {
		wait = 2 * silence
	}
	conn, err := dialTCP(h, network, netip.AddrPort{}, at, wait)
	if err != nil {
		return ""
	}
	defer conn.Close()
	seen, err := listener.Accept()
	require.NoError(t, err)
	defer seen.Close()
	if seen.RemoteAddr().(*net.TCPAddr).Port != conn.LocalAddr().(*net.TCPAddr).Port {
		return "changed"
	}

	return "kept"
}

func dialTCP(h *natlab.Host, network string, from, to netip.AddrPort, wait time.Duration) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: wait}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	}

	return conn, h.Do(func() (err error) {
		conn, err = d.DialContext(context.Background(), network, to.String())
		return err
	})
}

// Two hosts behind one NAT use the same source port: an EIM NAT gives the
// second another public port everywhere, plain masquerade only where the ports
// collide.
func TestSameSourcePort(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers: []natlab.Peer{
			{Name: "a1", Kind: natlab.PortRestricted},
			{Name: "a2", Behind: "a1"},
			{Name: "b1", Kind: natlab.Masquerade},
			{Name: "b2", Behind: "b1"},
		},
	})
	one, two := udp(t, lab.Host("one"), 0), udp(t, lab.Host("two"), 0)
	for _, p := range []struct {
		first, second string
		eim           bool
	}{{"a1", "a2", true}, {"b1", "b2", false}} {
		t.Run(string(lab.Host(p.first).Kind()), func(t *testing.T) {
			first := udp(t, lab.Host(p.first), 4001).mustSee(one)
			second := udp(t, lab.Host(p.second), 4001)
			atTwo, atOne := second.mustSee(two), second.mustSee(one)
			assert.NotEqual(t, first, atOne)
			assert.Equal(t, p.eim, atOne == atTwo, "%v %v", atOne, atTwo)
		})
	}
}

// A packet that comes before the NAT expects it does no harm when the router
// drops it, and costs the public port when the router's input is open.
func TestOpenInput(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers: []natlab.Peer{
			{Name: "shut", Kind: natlab.Masquerade},
			{Name: "open", Kind: natlab.Masquerade, OpenInput: true},
			{Name: "own", Kind: natlab.PortRestricted},
		},
	})
	one := udp(t, lab.Host("one"), 0)
	for name, kept := range map[string]bool{"shut": true, "own": true, "open": false} {
		t.Run(name, func(t *testing.T) {
			s, stranger := udp(t, lab.Host(name), 5001), udp(t, lab.Host("two"), 0)
			public := s.mustSee(one)
			stranger.send("early", public)
			_, _, ok := s.hear(silence)
			require.False(t, ok)
			assert.Equal(t, kept, s.mustSee(stranger) == public)
		})
	}
}

// Two usual home routers are punched by UDP and by TCP simultaneous open.
func TestPunch(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one"},
		Peers:  []natlab.Peer{{Name: "a"}, {Name: "b"}},
	})
	a, b, one := lab.Host("a"), lab.Host("b"), udp(t, lab.Host("one"), 0)

	t.Run("UDP", func(t *testing.T) {
		sa, sb := udp(t, a, 0), udp(t, b, 0)
		pa, pb := sa.mustSee(one), sb.mustSee(one)
		sa.send("opens a's NAT", pb)
		_, _, ok := sb.hear(silence)
		require.False(t, ok, "b's NAT is open already")
		sb.send("opens b's NAT", pa)
		_, from, ok := sa.hear(patience)
		require.True(t, ok)
		assert.Equal(t, pb, from)
		sa.send("through", pb)
		_, from, ok = sb.hear(patience)
		require.True(t, ok)
		assert.Equal(t, pa, from)
	})

	t.Run("TCP", func(t *testing.T) {
		const port = 5002
		dial := func(h, other *natlab.Host) (net.Conn, error) {
			return dialTCP(h, "tcp4", netip.AddrPortFrom(h.Addr(), port), netip.AddrPortFrom(other.PublicAddr(), port), patience)
		}
		var fromB net.Conn
		done := make(chan error)
		go func() {
			var err error
			fromB, err = dial(b, a)
			done <- err
		}()
		fromA, err := dial(a, b)
		require.NoError(t, <-done)
		require.NoError(t, err)
		defer fromA.Close()
		defer fromB.Close()
		_, err = fromA.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, fromB.SetReadDeadline(time.Now().Add(patience)))
		_, err = fromB.Read(make([]byte, 1))
		require.NoError(t, err)
	})
}

func TestHairpin(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one"},
		Peers: []natlab.Peer{
			{Name: "on1", Hairpin: true, Isolated: true},
			{Name: "on2", Behind: "on1"},
			{Name: "off1"},
			{Name: "off2", Behind: "off1"},
			{Name: "home1", Kind: natlab.CGNAT},
			{Name: "home2", Kind: natlab.CGNAT, Carrier: "home1"},
		},
	})
	one := udp(t, lab.Host("one"), 0)
	for _, p := range []struct {
		first, second string
		hairpin, lan  bool
	}{
		{"on1", "on2", true, false},
		{"off1", "off2", false, true},
		{"home1", "home2", true, false},
	} {
		t.Run(p.first, func(t *testing.T) {
			a, b := udp(t, lab.Host(p.first), 0), udp(t, lab.Host(p.second), 0)
			pa, pb := a.mustSee(one), b.mustSee(one)
			require.Equal(t, pa.Addr(), pb.Addr())
			// The first of these may have to open the homes' own NATs.
			a.send("pin", pb)
			b.send("pin", pa)
			a.send("pin", pb)
			wait := silence
			if p.hairpin {
				wait = patience
			}
			_, from, ok := b.hear(wait)
			assert.Equal(t, p.hairpin, ok)
			if ok {
				assert.Equal(t, pa, from)
			}

			a.send("direct", b.addr())
			reached := false
			for !reached {
				what, _, ok := b.hear(silence)
				if !ok {
					break
				}
				reached = what == "direct"
			}
			assert.Equal(t, p.lan, reached, "reached in the LAN")
		})
	}
}

func TestUDPTimeout(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one", "two"},
		Peers:  []natlab.Peer{{Name: "a", Kind: natlab.FullCone, UDPTimeout: 2 * time.Second}},
	})
	one, two, s := udp(t, lab.Host("one"), 0), udp(t, lab.Host("two"), 0), udp(t, lab.Host("a"), 0)
	public := s.mustSee(one)

	// Packets out keep the mapping, also if they only answer.
	for begin := time.Now(); time.Since(begin) < 2500*time.Millisecond; {
		two.send("from a stranger", public)
		_, from, ok := s.hear(patience)
		require.True(t, ok)
		s.send("answer", from)
		_, from, ok = two.hear(patience)
		require.True(t, ok)
		require.Equal(t, public, from)
		time.Sleep(silence)
	}
	one.send("after 2.5 s", public)
	_, _, ok := s.hear(patience)
	require.True(t, ok, "forgotten while in use")

	public = s.mustSee(one)
	begin := time.Now()
	time.Sleep(time.Second)
	one.send("in time", public)
	_, _, ok = s.hear(silence)
	require.True(t, ok || time.Since(begin) > 1900*time.Millisecond, "forgotten too early")
	// What comes in does not keep the row alive, but the connection that it
	// belongs to, for as long again.
	time.Sleep(2300 * time.Millisecond)
	one.send("too late", public)
	_, _, ok = s.hear(silence)
	assert.False(t, ok, "still there")
}

func TestIPv6Option(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"one"},
		Peers:  []natlab.Peer{{Name: "dual", IPv6: true}, {Name: "four"}},
	})
	require.True(t, lab.Host("dual").Addr().Is4())
	require.False(t, lab.Host("four").Addr6().IsValid())
	six := lab.Host("dual").Addr6()
	require.True(t, six.IsValid())

	one := udpOn(t, lab.Host("one"), "udp6", netip.AddrPortFrom(lab.Host("one").Addr6(), 0))
	s := udpOn(t, lab.Host("dual"), "udp6", netip.AddrPortFrom(six, 0))
	own := netip.AddrPortFrom(six, s.port)
	one.send("unasked", own)
	_, _, ok := s.hear(silence)
	assert.False(t, ok, "the firewall is open")
	from, ok := s.seenWithin(one, netip.AddrPortFrom(lab.Host("one").Addr6(), one.port), patience)
	require.True(t, ok)
	assert.Equal(t, own, from)
	one.send("answer", own)
	_, _, ok = s.hear(patience)
	assert.True(t, ok)
}

// Public hosts of one family only are not reached by the other.
func TestOneFamily(t *testing.T) {
	lab := start(t, natlab.Config{
		Peers: []natlab.Peer{
			{Name: "four", Kind: natlab.None, NoIPv6: true},
			{Name: "six", Kind: natlab.None, NoIPv4: true},
			{Name: "dual", IPv6: true},
			{Name: "own", Kind: natlab.IPv6Firewalled},
		},
	})
	require.False(t, lab.Host("four").Addr6().IsValid())
	require.True(t, lab.Host("six").Addr().Is6())
	require.True(t, lab.Host("six").PublicAddr().Is6())
	require.ErrorContains(t, lab.NewIP("six"), "no IPv4")

	four, six := udp(t, lab.Host("four"), 0), udp(t, lab.Host("six"), 0)
	udpOn(t, lab.Host("dual"), "udp4", netip.AddrPortFrom(lab.Host("dual").Addr(), 0)).mustSee(four)
	udpOn(t, lab.Host("dual"), "udp6", netip.AddrPortFrom(lab.Host("dual").Addr6(), 0)).mustSee(six)
	udp(t, lab.Host("own"), 0).mustSee(six)

	for _, p := range []natlab.Peer{
		{Name: "x", Kind: natlab.None, NoIPv4: true, NoIPv6: true},
		{Name: "x", NoIPv6: true},
		{Name: "x", Kind: natlab.None, IPv6: true},
	} {
		_, err := natlab.New(natlab.Config{Peers: []natlab.Peer{p}})
		require.ErrorContains(t, err, `peer "x"`)
	}
}
