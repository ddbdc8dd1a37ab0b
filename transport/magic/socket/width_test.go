package socket_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// line is a network between two sockets that drops what is too large: each end
// sees the other at an address of the line.
type line struct {
	ends  [2]net.PacketConn
	to    [2]netip.AddrPort // where what comes in at an end goes, from the other
	limit atomic.Int64
	large atomic.Int64 // datagrams dropped
	done  chan struct{}
}

func newLine(t *testing.T, limit int64) *line {
	l := &line{done: make(chan struct{}, 2)}
	l.limit.Store(limit)
	for i := range l.ends {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, c.(*net.UDPConn).SetReadBuffer(1<<20))
		l.ends[i] = c
	}
	return l
}

func (l *line) addr(i int) netip.AddrPort { return l.ends[i].LocalAddr().(*net.UDPAddr).AddrPort() }

// start carries packets until the test ends.
func (l *line) start(t *testing.T) {
	for i := range l.ends {
		go func() {
			defer func() { l.done <- struct{}{} }()
			buf := make([]byte, 4096)
			for {
				n, _, err := l.ends[i].ReadFrom(buf)
				if err != nil {
					return
				}
				if int64(n) > l.limit.Load() {
					l.large.Add(1)
					continue
				}
				_, _ = l.ends[1-i].WriteTo(buf[:n], net.UDPAddrFromAddrPort(l.to[i]))
			}
		}()
	}
	t.Cleanup(func() {
		for _, c := range l.ends {
			_ = c.Close()
		}
		<-l.done
		<-l.done
	})
}

// linePair are two sockets whose only direct path is a line.
func linePair(t *testing.T, limit int64) (l *line, a, b *socket.Socket, aKey, bKey relay.Key) {
	t.Helper()
	w := newWire(t)
	l = newLine(t, limit)
	var aAddr, bAddr netip.AddrPort
	a, aKey, aAddr = w.open(t, 1, nil)
	b, bKey, bAddr = w.open(t, 2, nil)
	// What is sent to end 0 reaches b, and comes from end 1.
	l.to = [2]netip.AddrPort{bAddr, aAddr}
	l.start(t)
	a.SetAddrs([]netip.AddrPort{l.addr(1)})
	b.SetAddrs([]netip.AddrPort{l.addr(0)})
	for s, k := range map[*socket.Socket]relay.Key{a: bKey, b: aKey} {
		_, release, err := s.Dial(k)
		require.NoError(t, err)
		t.Cleanup(release)
	}
	require.Eventually(t, func() bool { return kindOf(b, aKey) == path.Direct && kindOf(a, bKey) == path.Direct }, 5*time.Second, time.Millisecond)
	id, _, _, _ := a.Path(bKey)
	require.Equal(t, l.addr(0), id.Addr)
	w.setCut(true) // nothing else helps
	return l, a, b, aKey, bKey
}

func large(n byte) []byte {
	return append([]byte{0x40, n}, bytes.Repeat([]byte{n}, socket.MaxPacket-2)...)
}

// arrives sends a large packet again and again until it comes out at the other
// end.
func arrives(t *testing.T, from, to *socket.Socket, toKey relay.Key, n byte) {
	t.Helper()
	want := large(n)
	buf := make([]byte, 2048)
	addr := net.UDPAddrFromAddrPort(socket.VirtualAddr(toKey))
	for began := time.Now(); time.Since(began) < 10*time.Second; {
		_, err := from.WriteTo(want, addr)
		require.NoError(t, err)
		require.NoError(t, to.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		for {
			k, _, err := to.ReadFrom(buf)
			if err != nil {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				break
			}
			if bytes.Equal(buf[:k], want) {
				return
			}
		}
	}
	t.Fatal("large packets do not arrive")
}

// PATH-9: a path that carries large packets is found out to, and they travel
// whole.
func TestPATH9WidePath(t *testing.T) {
	_, a, b, aKey, bKey := linePair(t, 1500)
	require.Eventually(t, func() bool { return a.Wide(bKey) && b.Wide(aKey) }, 5*time.Second, time.Millisecond)
	before := a.Stats().Split
	arrives(t, a, b, bKey, 1)
	require.Equal(t, before, a.Stats().Split)
}

// PATH-9: over one that does not, they travel in halves.
func TestPATH9NarrowPath(t *testing.T) {
	l, a, b, aKey, bKey := linePair(t, 1300)
	for i := range byte(50) {
		arrives(t, a, b, bKey, i)
		arrives(t, b, a, aKey, i)
	}
	require.False(t, a.Wide(bKey))
	require.NotZero(t, a.Stats().Split)
	require.Less(t, l.large.Load(), int64(20), "nothing but a question now and then")
	require.Zero(t, a.Stats().BadHalf+b.Stats().BadHalf)
}

// PATH-9, 18: a path becomes narrower, and wider, while packets are sent over
// it. What is sent arrives by and by although nobody says so, without the path
// being given up.
func TestPATH9PathBecomesNarrow(t *testing.T) {
	l, a, b, _, bKey := linePair(t, 1500)
	require.Eventually(t, func() bool { return a.Wide(bKey) }, 5*time.Second, time.Millisecond)
	arrives(t, a, b, bKey, 1)
	l.limit.Store(1300)
	arrives(t, a, b, bKey, 2)
	require.False(t, a.Wide(bKey))
	require.EqualValues(t, 1, a.Stats().Narrowed)
	require.Equal(t, path.Direct, kindOf(a, bKey))
	l.limit.Store(1500)
	require.Eventually(t, func() bool {
		arrives(t, a, b, bKey, 3)
		return a.Wide(bKey)
	}, 10*time.Second, 20*time.Millisecond)
}

// PATH-9, 18: the same while small packets are answered all the time, which
// tells nothing about the large ones.
func TestPATH9NarrowAmongOtherTraffic(t *testing.T) {
	l, a, b, aKey, bKey := linePair(t, 1500)
	require.Eventually(t, func() bool { return a.Wide(bKey) }, 5*time.Second, time.Millisecond)
	toA, toB := net.UDPAddrFromAddrPort(socket.VirtualAddr(aKey)), net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey))
	l.limit.Store(1300)
	require.Eventually(t, func() bool {
		_, _ = a.WriteTo(large(1), toB)
		_, _ = b.WriteTo([]byte("\x40small"), toA)
		read(t, a)
		return !a.Wide(bKey)
	}, 10*time.Second, 5*time.Millisecond)
	arrives(t, a, b, bKey, 2)
}

// PATH-8: halves from an address that is no path are dropped.
func TestPATH8HalvesOfStrangers(t *testing.T) {
	_, a, _, _, _, aAddr := directPair(t)
	c, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	defer c.Close()
	before := a.Stats().Unproven
	for i := range byte(2) {
		require.NoError(t, c.Write(append([]byte{0x0e, i, 0, 0, 0, 1}, bytes.Repeat([]byte{0x40}, 700)...), aAddr, 0, 0))
	}
	require.Eventually(t, func() bool { return a.Stats().Unproven == before+2 }, 5*time.Second, time.Millisecond)
}
