package udp_test

import (
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

// families runs a test over both, with what Linux offers.
func families(t *testing.T, test func(t *testing.T, network string)) {
	t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		t.Run(network, func(t *testing.T) { test(t, network) })
	}
}

// Every Linux that Go runs our tests on has all of it.
func TestPATH7Caps(t *testing.T) {
	families(t, func(t *testing.T, network string) {
		require.Equal(t, udp.Caps{GSO: true, GRO: true, ECN: true, Batch: true}, loopback(t, udp.Listen, network).Caps())
		require.Zero(t, loopback(t, udp.ListenPlain, network).Caps())
	})
}

func option(t *testing.T, c *udp.Conn, level, name int) (value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }))
	require.NoError(t, err)
	return value
}

func TestOptions(t *testing.T) {
	v4, v6 := loopback(t, udp.Listen, "udp4"), loopback(t, udp.Listen, "udp6")
	require.Equal(t, unix.IP_PMTUDISC_PROBE, option(t, v4, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER))
	require.Equal(t, unix.IPV6_PMTUDISC_PROBE, option(t, v6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER))
	require.Equal(t, 1, option(t, v6, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY))
	fresh, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fresh)
	for _, name := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
		usual, err := unix.GetsockoptInt(fresh, unix.SOL_SOCKET, name)
		require.NoError(t, err)
		require.Greater(t, option(t, v4, unix.SOL_SOCKET, name), usual)
		require.Greater(t, option(t, v6, unix.SOL_SOCKET, name), usual)
	}
}

func TestPATH7ECN(t *testing.T) {
	families(t, func(t *testing.T, network string) {
		a, b := loopback(t, udp.Listen, network), loopback(t, udp.Listen, network)
		for ecn := range byte(4) {
			require.NoError(t, a.Write([]byte("x"), b.LocalAddr(), 0, ecn|0xfc)) // only two bits count
			require.Equal(t, []datagram{{"x", a.LocalAddr(), ecn}}, receive(t, b, 1))

			require.NoError(t, a.Write(pattern(3*packet), b.LocalAddr(), packet, ecn))
			for _, d := range receive(t, b, 3) {
				require.Equal(t, ecn, d.ecn)
			}
		}
		// From and to a socket that does nothing about it.
		plain := loopback(t, udp.ListenPlain, network)
		require.NoError(t, a.Write([]byte("x"), plain.LocalAddr(), 0, 3))
		require.Equal(t, []datagram{{"x", a.LocalAddr(), 0}}, receive(t, plain, 1))
		require.NoError(t, plain.Write([]byte("y"), b.LocalAddr(), 0, 3))
		require.Equal(t, []datagram{{"y", plain.LocalAddr(), 0}}, receive(t, b, 1))
	})
}

// What one call sends, one message brings.
func TestPATH7Joined(t *testing.T) {
	families(t, func(t *testing.T, network string) {
		a, b := loopback(t, udp.Listen, network), loopback(t, udp.Listen, network)
		const size = 40*packet + 5
		require.NoError(t, a.Write(pattern(size), b.LocalAddr(), packet, 0))
		ms := messages(8)
		n, err := b.ReadBatch(ms)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, udp.Message{Buf: ms[0].Buf, N: size, From: a.LocalAddr(), Segment: packet}, ms[0])
		require.Equal(t, pattern(size), ms[0].Buf[:size])

		// A buffer too small for all keeps whole datagrams only.
		ms[0].Buf = ms[0].Buf[:3*packet+500]
		require.NoError(t, a.Write(pattern(size), b.LocalAddr(), packet, 0))
		n, err = b.ReadBatch(ms[:1])
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, 3*packet, ms[0].N)
		require.Equal(t, packet, ms[0].Segment)
		ms[0].Buf = ms[0].Buf[:packet+1]
		require.NoError(t, a.Write(pattern(size), b.LocalAddr(), packet, 0))
		_, err = b.ReadBatch(ms[:1])
		require.NoError(t, err)
		require.Equal(t, packet, ms[0].N)
		require.Zero(t, ms[0].Segment)
	})
}

func TestPATH7GSORefused(t *testing.T) {
	families(t, func(t *testing.T, network string) {
		data := pattern(10*packet + 3)
		for _, c := range []struct {
			errno syscall.Errno
			after bool // GSO is still tried
		}{{unix.EIO, false}, {unix.EINVAL, true}} {
			a, b := loopback(t, udp.Listen, network), loopback(t, udp.Listen, network)
			single := a.RefuseGSO(c.errno)
			for round := range int64(2) {
				require.NoError(t, a.Write(data, b.LocalAddr(), packet, 2))
				for i, d := range receive(t, b, 11) {
					require.Equal(t, datagram{pieces(data, packet)[i], a.LocalAddr(), 2}, d)
				}
				require.Equal(t, 11*(round+1), single.Load())
				require.Equal(t, c.after, a.Caps().GSO)
			}
		}
	})
}

// Segments so long that no two fit in a send go alone.
func TestLongSegments(t *testing.T) {
	families(t, func(t *testing.T, network string) {
		a, b := loopback(t, udp.Listen, network), loopback(t, udp.Listen, network)
		for _, segment := range []int{32753, 32754, 65000} {
			data := pattern(2*segment + 1)
			require.NoError(t, a.Write(data, b.LocalAddr(), segment, 0))
			for i, d := range receive(t, b, 3) {
				require.Equal(t, pieces(data, segment)[i], d.data)
			}
		}
		require.ErrorIs(t, a.Write(pattern(150000), b.LocalAddr(), 70000, 0), unix.EMSGSIZE)
	})
}

// The kernel itself refuses GSO on a socket without checksums.
func TestGSORefusedByKernel(t *testing.T) {
	a, b := loopback(t, udp.Listen, "udp4"), loopback(t, udp.Listen, "udp4")
	raw, err := a.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
	}))
	require.NoError(t, err)
	data := pattern(10*packet + 3)
	require.NoError(t, a.Write(data, b.LocalAddr(), packet, 0))
	for i, d := range receive(t, b, 11) {
		require.Equal(t, pieces(data, packet)[i], d.data)
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	families(t, func(t *testing.T, network string) {
		a, b := loopback(t, udp.Listen, network), loopback(t, udp.Listen, network)
		data, ms := pattern(8*packet), messages(16)
		to := b.LocalAddr()
		run := func() {
			for range 4 {
				if err := a.Write(data, to, packet, 1); err != nil {
					t.Fatal(err)
				}
				if err := a.Write(data[:packet], to, 0, 2); err != nil {
					t.Fatal(err)
				}
			}
			for got := 0; got < 4*9*packet; {
				n, err := b.ReadBatch(ms)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range ms[:n] {
					got += m.N
				}
			}
		}
		run() // the reader makes what it keeps
		require.Zero(t, testing.AllocsPerRun(100, run))
	})
}

// A read that must wait allocates nothing either.
func TestWaitingReadAllocatesNothing(t *testing.T) {
	families(t, func(t *testing.T, network string) {
		a, b := loopback(t, udp.Listen, network), loopback(t, udp.Listen, network)
		go func() { // echo
			ms := messages(4)
			for {
				n, err := b.ReadBatch(ms)
				if err != nil {
					return
				}
				for _, m := range ms[:n] {
					_ = b.Write(m.Buf[:m.N], m.From, m.Segment, m.ECN)
				}
			}
		}()
		ms, data, to := messages(4), pattern(packet), b.LocalAddr()
		run := func() {
			if err := a.Write(data, to, 0, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := a.ReadBatch(ms); err != nil {
				t.Fatal(err)
			}
		}
		run()
		require.Zero(t, testing.AllocsPerRun(100, run))
		require.NoError(t, b.Close())
	})
}

func TestListenWithZone(t *testing.T) {
	_, err := udp.Listen("udp6", netip.MustParseAddrPort("[fe80::1%none0]:0"))
	require.Error(t, err)
}
