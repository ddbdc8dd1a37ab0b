package udp_test

import (
	"bytes"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

// pattern returns n bytes of which no part looks like another.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8*37)
	}
	return b
}

// pieces cuts b as a Write with this segment does.
func pieces(b []byte, segment int) (out []string) {
	for len(b) > 0 {
		n := min(segment, len(b))
		out = append(out, string(b[:n]))
		b = b[n:]
	}
	return out
}

func TestSizes(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		a, b := listen(t), listen(t)
		for _, size := range []int{1, 2, 1199, packet, 1500, 9000, 65000} {
			if size > 9000 && !a.Caps().GRO {
				continue // the default limit of some systems
			}
			data := pattern(size)
			require.NoError(t, a.Write(data, b.LocalAddr(), 0, 0))
			require.Equal(t, []datagram{{string(data), a.LocalAddr(), 0}}, receive(t, b, 1))
		}
	})
}

// An empty datagram is one: it comes, and carries nothing.
func TestEmptyDatagram(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		a, b := listen(t), listen(t)
		require.NoError(t, a.Write(nil, b.LocalAddr(), 0, 0))
		ms := messages(1)
		n, err := b.ReadBatch(ms)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Zero(t, ms[0].N)
		require.Equal(t, a.LocalAddr(), ms[0].From)
	})
}

func TestSegments(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		a, b := listen(t), listen(t)
		for _, c := range []struct{ size, segment int }{
			{packet, packet},           // one, exactly
			{packet - 1, packet},       // one, shorter
			{packet + 1, packet},       // the last of one byte
			{8 * packet, packet},       // all equal
			{52*packet + 100, packet},  // nearly all that one send takes
			{200*packet + 7, packet},   // more than one send takes
			{100 * 20, 20},             // more segments than one send takes
			{3 * 9000, 9000},           // few segments in a send
			{3*packet + 1, 1<<16 + 1},  // a segment longer than any datagram
			{5*packet - 3, packet - 1}, // an odd size
		} {
			data := pattern(c.size)
			require.NoError(t, a.Write(data, b.LocalAddr(), c.segment, 0), "%+v", c)
			want := pieces(data, c.segment)
			for i, d := range receive(t, b, len(want)) {
				require.Equal(t, want[i], d.data, "%+v: datagram %d", c, i)
				require.Equal(t, a.LocalAddr(), d.from)
			}
		}
	})
}

// Several messages are filled by one read, in order, each with its sender.
func TestBatch(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		b := listen(t)
		senders := []*udp.Conn{listen(t), listen(t), listen(t)}
		const each = 30 // more in all than one read takes
		for i := range each {
			for _, a := range senders {
				require.NoError(t, a.Write([]byte(strconv.Itoa(i)), b.LocalAddr(), 0, 0))
			}
		}
		ms := messages(100)
		next := map[netip.AddrPort]int{}
		largest := 0
		watchdog := time.AfterFunc(patience, func() { b.Close() })
		defer watchdog.Stop()
		for got := 0; got < each*len(senders); {
			n, err := b.ReadBatch(ms)
			require.NoError(t, err)
			largest = max(largest, n)
			for _, m := range ms[:n] {
				for _, d := range split(m) {
					require.Equal(t, strconv.Itoa(next[d.from]), d.data)
					next[d.from]++
					got++
				}
			}
		}
		require.Len(t, next, len(senders))
		require.Equal(t, b.Caps().Batch, largest > 1)
	})
}

func TestReadOfNothing(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		n, err := listen(t).ReadBatch(nil)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

// What does not fit is dropped and harms nothing else.
func TestShortBuffer(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		a, b := listen(t), listen(t)
		for _, data := range [][]byte{pattern(101), pattern(100), pattern(2000), pattern(7)} {
			require.NoError(t, a.Write(data, b.LocalAddr(), 0, 0))
		}
		ms := messages(3)
		for i := range ms {
			ms[i].Buf = ms[i].Buf[:100]
		}
		var got [][]byte
		watchdog := time.AfterFunc(patience, func() { b.Close() })
		defer watchdog.Stop()
		for len(got) < 2 {
			n, err := b.ReadBatch(ms)
			require.NoError(t, err)
			for _, m := range ms[:n] {
				require.Len(t, m.Buf, 100, "Buf is the caller's")
				if m.N > 0 {
					got = append(got, bytes.Clone(m.Buf[:m.N]))
				}
			}
		}
		require.Equal(t, [][]byte{pattern(100), pattern(7)}, got)
	})
}

func TestCloseWakesReaders(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		c := listen(t)
		const readers = 3
		failed := make(chan error, readers)
		for range readers {
			go func() {
				_, err := c.ReadBatch(messages(1))
				failed <- err
			}()
		}
		runtime.Gosched() // whether they wait already or not, they must return
		require.NoError(t, c.Close())
		for range readers {
			select {
			case err := <-failed:
				require.ErrorIs(t, err, net.ErrClosed)
			case <-time.After(patience):
				t.Fatal("ReadBatch still waits")
			}
		}
		require.ErrorIs(t, c.Write([]byte("late"), c.LocalAddr(), 0, 0), net.ErrClosed)
		require.ErrorIs(t, c.Close(), net.ErrClosed)
	})
}

// A read that waits is woken, too: it is known to wait when a datagram it
// waited for has come and it was called again.
func TestCloseWakesWaitingReader(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		a, c := listen(t), listen(t)
		came, failed := make(chan struct{}), make(chan error)
		go func() {
			ms := messages(1)
			for {
				if _, err := c.ReadBatch(ms); err != nil {
					failed <- err
					return
				}
				came <- struct{}{}
			}
		}()
		for range 10 {
			require.NoError(t, a.Write([]byte("x"), c.LocalAddr(), 0, 0))
			<-came
		}
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-failed, net.ErrClosed)
	})
}

func TestConcurrentUse(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		a, b := listen(t), listen(t)
		const writers, each = 4, 50
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				data := bytes.Repeat([]byte{byte('a' + w)}, 3*100)
				for range each {
					if err := a.Write(data, b.LocalAddr(), 100, byte(w)); err != nil {
						t.Error(err)
					}
					_ = a.Caps()
				}
			})
		}
		count := map[string]int{}
		for _, d := range receive(t, b, writers*each*3) {
			count[d.data]++
			if b.Caps().ECN {
				require.Equal(t, d.data[0]-'a', d.ecn, "marks belong to their datagrams")
			}
		}
		wg.Wait()
		for w := range writers {
			require.Equal(t, each*3, count[string(bytes.Repeat([]byte{byte('a' + w)}, 100))])
		}
	})
}

func TestListen(t *testing.T) {
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	for _, c := range []struct {
		network string
		addr    netip.Addr
	}{
		{"udp", v4},
		{"tcp4", v4},
		{"", v4},
		{"udp4", v6},
		{"udp6", v4},
		{"udp6", netip.MustParseAddr("::ffff:127.0.0.1")},
		{"udp4", netip.MustParseAddr("203.0.113.1")},
	} {
		conn, err := udp.Listen(c.network, netip.AddrPortFrom(c.addr, 0))
		require.Error(t, err, "%+v", c)
		require.Nil(t, conn)
	}

	first, err := udp.Listen("udp4", netip.AddrPort{})
	require.NoError(t, err)
	defer first.Close()
	require.True(t, first.LocalAddr().Addr().IsUnspecified())
	require.NotZero(t, first.LocalAddr().Port())
	// The port is ours for IPv4 and free for IPv6 (IPV6_V6ONLY).
	_, err = udp.Listen("udp4", first.LocalAddr())
	require.ErrorIs(t, err, errInUse)
	second, err := udp.Listen("udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), first.LocalAddr().Port()))
	require.NoError(t, err)
	defer second.Close()
	require.Equal(t, first.LocalAddr().Port(), second.LocalAddr().Port())
}

func TestWrongFamily(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		c := listen(t)
		other := netip.MustParseAddrPort("[::1]:9")
		if c.LocalAddr().Addr().Is6() {
			other = netip.MustParseAddrPort("127.0.0.1:9")
		}
		for _, to := range []netip.AddrPort{other, {}} {
			err := c.Write([]byte("x"), to, 0, 0)
			require.Error(t, err)
			require.NotErrorIs(t, err, udp.ErrUnreachable)
		}
	})
}

// Nobody listens: that is the network's business, and the socket lives on.
func TestRefusedIsNoError(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		a, b, gone := listen(t), listen(t), listen(t)
		require.NoError(t, gone.Close())
		for range 5 {
			if err := a.Write([]byte("anybody?"), gone.LocalAddr(), 0, 0); err != nil {
				require.ErrorIs(t, err, udp.ErrUnreachable)
			}
		}
		require.NoError(t, b.Write([]byte("here"), a.LocalAddr(), 0, 0))
		require.Equal(t, []datagram{{"here", b.LocalAddr(), 0}}, receive(t, a, 1))
	})
}

// The mapped form of an IPv4 address is the IPv4 address.
func TestMappedTarget(t *testing.T) {
	for _, listen := range []listenFunc{udp.Listen, udp.ListenPlain} {
		a, b := loopback(t, listen, "udp4"), loopback(t, listen, "udp4")
		to := netip.AddrPortFrom(netip.AddrFrom16(b.LocalAddr().Addr().As16()), b.LocalAddr().Port())
		require.NoError(t, a.Write([]byte("x"), to, 0, 0))
		require.Equal(t, []datagram{{"x", a.LocalAddr(), 0}}, receive(t, b, 1))
	}
}

func TestSyscallConn(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		raw, err := listen(t).SyscallConn()
		require.NoError(t, err)
		called := false
		require.NoError(t, raw.Control(func(uintptr) { called = true }))
		require.True(t, called)
	})
}

func TestTooLarge(t *testing.T) {
	variants(t, func(t *testing.T, listen func(testing.TB) *udp.Conn) {
		a, b := listen(t), listen(t)
		err := a.Write(pattern(65536), b.LocalAddr(), 0, 0)
		require.Error(t, err)
		require.NotErrorIs(t, err, udp.ErrUnreachable)
		if runtime.GOOS != "windows" {
			require.ErrorIs(t, err, syscall.EMSGSIZE)
		}
	})
}

// BenchmarkLoopback sends as fast as the other end reads; the rate is that of
// payload received.
func BenchmarkLoopback(b *testing.B) {
	const window = 1 << 20 // bytes under way: no buffer overflows
	for _, c := range []struct {
		name           string
		send, read     listenFunc
		segment, burst int
	}{
		{"gso-gro", udp.Listen, udp.Listen, packet, 52 * packet},
		{"gso-only", udp.Listen, udp.ListenPlain, packet, 52 * packet},
		{"batch-only", udp.ListenPlain, udp.Listen, packet, 52 * packet},
		{"plain", udp.ListenPlain, udp.ListenPlain, packet, 52 * packet},
	} {
		for _, network := range []string{"udp4", "udp6"} {
			b.Run(c.name+"/"+network, func(b *testing.B) {
				from, to := loopback(b, c.send, network), loopback(b, c.read, network)
				room := make(chan struct{}, window/c.burst)
				var wg sync.WaitGroup
				wg.Go(func() {
					ms, came := messages(16), 0
					for {
						n, err := to.ReadBatch(ms)
						if err != nil {
							return
						}
						for _, m := range ms[:n] {
							came += m.N
						}
						for ; came >= c.burst; came -= c.burst {
							<-room
						}
					}
				})
				data := pattern(c.burst)
				b.SetBytes(int64(c.burst))
				b.ReportAllocs()
				for b.Loop() {
					room <- struct{}{}
					if err := from.Write(data, to.LocalAddr(), c.segment, 0); err != nil {
						b.Fatal(err)
					}
				}
				to.Close()
				wg.Wait()
			})
		}
	}
}
