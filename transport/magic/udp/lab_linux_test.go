package udp_test

import (
	"flag"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var inside = flag.Bool("udp.inside", false, "this process is in a host of a lab (for a test)")

// lab is two hosts with IPv4 and IPv6 on one LAN behind a NAT.
func lab(t *testing.T) (*natlab.Lab, *natlab.Host, *natlab.Host) {
	t.Helper()
	l := natlab.Start(t, natlab.Config{
		Peers:    []natlab.Peer{{Name: "a", IPv6: true}, {Name: "b", Behind: "a"}},
		Required: *required,
	})
	return l, l.Host("a"), l.Host("b")
}

// listenIn opens a socket in a host.
func listenIn(t *testing.T, h *natlab.Host, network string, listen listenFunc) *udp.Conn {
	t.Helper()
	var c *udp.Conn
	require.NoError(t, h.Do(func() (err error) {
		c, err = listen(network, netip.AddrPort{})
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

// in runs a command in a host.
func in(t *testing.T, h *natlab.Host, args ...string) {
	t.Helper()
	require.NoError(t, h.Do(func() error {
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Logf("%v: %s", args, out)
		}
		return err
	}))
}

// at is where a socket in a host is reached.
func at(t *testing.T, h *natlab.Host, c *udp.Conn) netip.AddrPort {
	t.Helper()
	addr := h.Addr()
	if c.LocalAddr().Addr().Is6() {
		addr = h.Addr6()
	}
	require.True(t, addr.IsValid())
	return netip.AddrPortFrom(addr, c.LocalAddr().Port())
}

// What the system says about a datagram is told apart from what it says about
// the socket, and the socket lives through all of it.
func TestPATH9Errors(t *testing.T) {
	l, hostA, hostB := lab(t)
	both := map[string]listenFunc{"system": udp.Listen, "plain": udp.ListenPlain}
	type pair struct{ a, b *udp.Conn }
	sockets := map[string]pair{}
	for name, listen := range both {
		for _, network := range []string{"udp4", "udp6"} {
			sockets[name+" "+network] = pair{listenIn(t, hostA, network, listen), listenIn(t, hostB, network, udp.Listen)}
		}
	}
	data := pattern(3 * packet)
	// works sends one datagram, and several with GSO.
	works := func() {
		t.Helper()
		for name, p := range sockets {
			to := at(t, hostB, p.b)
			require.NoError(t, p.a.Write(data[:packet], to, 0, 0), name)
			require.NoError(t, p.a.Write(data, to, packet, 0), name)
			for _, d := range receive(t, p.b, 4) {
				require.Equal(t, at(t, hostA, p.a), d.from)
				require.Len(t, d.data, packet)
			}
		}
	}
	fails := func(want ...error) {
		t.Helper()
		for name, p := range sockets {
			for _, segment := range []int{0, packet} {
				b := data
				if segment == 0 {
					b = b[:packet]
				}
				err := p.a.Write(b, at(t, hostB, p.b), segment, 0)
				for _, w := range want {
					require.ErrorIs(t, err, w, "%s, segment %d", name, segment)
				}
			}
		}
	}
	works()

	in(t, hostA, "nft", "add table inet lock; add chain inet lock out { type filter hook output priority 0; policy drop; }")
	fails(udp.ErrUnreachable, syscall.EPERM)
	in(t, hostA, "nft", "delete table inet lock")
	works()

	in(t, hostA, "ip", "route", "add", "unreachable", hostB.Addr().String())
	in(t, hostA, "ip", "route", "add", "unreachable", hostB.Addr6().String(), "metric", "1")
	fails(udp.ErrUnreachable, syscall.EHOSTUNREACH)
	in(t, hostA, "ip", "route", "del", "unreachable", hostB.Addr().String())
	in(t, hostA, "ip", "route", "del", "unreachable", hostB.Addr6().String(), "metric", "1")
	works()

	require.NoError(t, l.Unplug("a", 0))
	fails(udp.ErrUnreachable, syscall.ENETUNREACH)
	require.NoError(t, l.Plug("a"))
	works()

	// An interface that carries less than a packet: IPv4 only, since IPv6
	// needs 1280. Other systems fragment, as the plain driver does.
	in(t, hostA, "ip", "link", "set", "eth0", "mtu", "1200")
	p := sockets["system udp4"]
	for _, segment := range []int{0, packet} {
		err := p.a.Write(data[:2*packet][:max(packet, 2*segment)], at(t, hostB, p.b), segment, 0)
		require.ErrorIs(t, err, syscall.EMSGSIZE)
		require.NotErrorIs(t, err, udp.ErrUnreachable)
	}
	require.True(t, p.a.Caps().GSO, "the size was wrong, not the way of sending")
	in(t, hostA, "ip", "link", "set", "eth0", "mtu", "1500")
}

// A link-local sender carries its zone, so that it can be answered, and that
// allocates nothing either. It runs in a process that is in the host as a
// whole, since zones are looked up by name.
func TestLinkLocalZone(t *testing.T) {
	if *inside {
		linkLocalZone(t)
		return
	}
	_, host, _ := lab(t)
	self, err := os.Executable()
	require.NoError(t, err)
	out, err := host.Command(t.Context(), self, "-test.run=^"+t.Name()+"$", "-udp.inside").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func linkLocalZone(t *testing.T) {
	ifi, err := net.InterfaceByName("eth0")
	require.NoError(t, err)
	var own netip.Addr
	require.Eventually(t, func() bool { // the kernel makes it in its own time
		addrs, err := ifi.Addrs()
		require.NoError(t, err)
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP); ok && ip.Is6() && ip.IsLinkLocalUnicast() {
				own = ip.WithZone("eth0")
			}
		}
		return own.IsValid()
	}, patience, 10*time.Millisecond)

	for _, listen := range []listenFunc{udp.Listen, udp.ListenPlain} {
		a, err := listen("udp6", netip.AddrPort{})
		require.NoError(t, err)
		defer a.Close()
		b, err := listen("udp6", netip.AddrPortFrom(own, 0))
		require.NoError(t, err)
		defer b.Close()
		require.Equal(t, own, b.LocalAddr().Addr())

		ms, data := messages(1), pattern(packet)
		exchange := func() {
			if err := a.Write(data, b.LocalAddr(), 0, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := b.ReadBatch(ms); err != nil {
				t.Fatal(err)
			}
			if err := b.Write(ms[0].Buf[:ms[0].N], ms[0].From, 0, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := a.ReadBatch(ms); err != nil {
				t.Fatal(err)
			}
		}
		exchange()
		require.Equal(t, b.LocalAddr(), ms[0].From)
		if a.Caps().Batch {
			require.Zero(t, testing.AllocsPerRun(100, exchange))
		}
	}
}
