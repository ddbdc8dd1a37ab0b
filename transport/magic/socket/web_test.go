package socket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// web443 is where b takes direct paths in these tests, as it tells.
var web443 = netip.MustParseAddrPort("127.0.0.1:443")

// overWeb tells that the path to the peer is a connection to, or from, port 443.
func overWeb(s *socket.Socket, k relay.Key) bool {
	id, _, _, ok := s.Path(k)
	return ok && id.Web && id.TCP && id.Kind() == path.Direct
}

// webPair are two sockets of which a can only open connections to web443, which
// come to b.
func webPair(t *testing.T) (w *wire, a, b *socket.Socket, aKey, bKey relay.Key) {
	t.Helper()
	w = newWire(t)
	b, bKey, _ = w.open(t, 2, withTCP)
	a, aKey, _ = w.open(t, 1, func(c *socket.Config) {
		c.TCP = true
		c.DialWeb = func(_ context.Context, to netip.AddrPort) (tcp.Carrier, error) {
			if to != web443 {
				return nil, fmt.Errorf("dialled %s", to)
			}
			near, far := net.Pipe()
			b.TakeWeb(far, netip.MustParseAddrPort("127.9.9.9:50000"))
			return near, nil
		}
	})
	a.SetAddrs([]netip.AddrPort{nowhere})
	b.SetAddrs([]netip.AddrPort{nowhere})
	a.SetTCP(nil, true)
	b.SetTCP([]netip.AddrPort{web443}, false)
	for s, k := range map[*socket.Socket]relay.Key{a: bKey, b: aKey} {
		_, release, err := s.Dial(k)
		require.NoError(t, err)
		t.Cleanup(release)
	}
	require.Eventually(t, func() bool { return overWeb(a, bKey) && overWeb(b, aKey) }, 5*time.Second, time.Millisecond)
	return w, a, b, aKey, bKey
}

// PATH-20: a peer that may open nothing but connections to port 443 has a path to
// one that takes them there, both ways and without a relay; and another one after
// that is cut.
func TestPATH20BecomesDirectByPort443(t *testing.T) {
	w, a, b, aKey, bKey := webPair(t)
	w.setCut(true)
	a.LinkDown(relayOne)
	b.LinkDown(relayOne)
	reaches(t, a, bKey, b, "\x40to b")
	reaches(t, b, aKey, a, "\x40to a")
	id, _, _, _ := a.Path(bKey)
	require.Equal(t, web443, id.Addr)
}

// PATH-20: a connection that ends is missed at once, and another one is made.
func TestPATH20CutPort443IsReplaced(t *testing.T) {
	_, a, b, aKey, bKey := webPair(t)
	a.CutTCP(bKey)
	reaches(t, b, aKey, a, "\x40after the cut")
	require.Eventually(t, func() bool {
		reaches(t, a, bKey, b, "\x40x")
		return overWeb(a, bKey) && overWeb(b, aKey)
	}, 10*time.Second, 10*time.Millisecond)
}

// PATH-20: a peer's port 443 that refuses may be that of a node which is starting:
// it is dialled again, a second later and twice at most.
func TestPATH20Port443ThatRefuses(t *testing.T) {
	var dialled atomic.Int32
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, func(c *socket.Config) {
		c.TCP = true
		c.DialWeb = func(context.Context, netip.AddrPort) (tcp.Carrier, error) {
			dialled.Add(1)
			return nil, fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
		}
	})
	a.SetAddrs([]netip.AddrPort{nowhere})
	a.SetTCP(nil, true)
	priv, key := keyPair(9)
	_, release, err := a.Dial(key)
	require.NoError(t, err)
	t.Cleanup(release)
	e := newEnemy(t, priv, aKey)
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot, TCP: []netip.AddrPort{web443}}))
	require.Eventually(t, func() bool { return dialled.Load() == 3 }, 5*time.Second, 10*time.Millisecond)
	time.Sleep(1200 * time.Millisecond)
	require.EqualValues(t, 3, dialled.Load())
}

// PATH-14: whoever names port 443 of a victim makes this node ask there once in
// five seconds, however often it is named; and not at all inside its own network.
func TestPATH14Port443OfAVictim(t *testing.T) {
	victim := netip.MustParseAddrPort("31.21.0.2:443")
	var dialled atomic.Int32
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, func(c *socket.Config) {
		c.TCP, c.Loopback = true, false
		c.DialWeb = func(_ context.Context, to netip.AddrPort) (tcp.Carrier, error) {
			if to == victim {
				dialled.Add(1)
			} else {
				t.Errorf("dialled %s", to)
			}
			return nil, errors.New("no peer is there")
		}
	})
	a.SetAddrs([]netip.AddrPort{netip.MustParseAddrPort("5.20.0.9:4000")})
	a.SetTCP([]netip.AddrPort{netip.MustParseAddrPort("5.20.0.9:443")}, true)
	priv, key := keyPair(9)
	_, release, err := a.Dial(key)
	require.NoError(t, err)
	t.Cleanup(release)
	e := newEnemy(t, priv, aKey)
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
	named := []netip.AddrPort{victim, victim, victim}
	for _, text := range []string{"10.0.0.1:443", "192.168.1.1:443", "127.0.0.1:443", "100.64.1.1:443", "31.21.0.2:80"} {
		named = append(named, netip.MustParseAddrPort(text))
	}
	named = named[:disco.MaxTCP]
	began := time.Now()
	for i := range 6 {
		m := disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot, TCP: named[i%3:]}
		if i%2 == 1 { // so that it looks new
			m.TCP = m.TCP[:1]
		}
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(m))
		time.Sleep(20 * time.Millisecond)
	}
	require.Eventually(t, func() bool { return dialled.Load() > 0 }, 5*time.Second, time.Millisecond)
	time.Sleep(time.Second)
	require.LessOrEqual(t, int(dialled.Load()), 1+int(time.Since(began)/(5*time.Second)))
	require.Positive(t, a.Stats().RefusedAddrs)
}

// PATH-14: of connections to port 443 that prove nobody there are as few as of
// others, and they are closed.
func TestPATH14UnprovenAtPort443(t *testing.T) {
	w := newWire(t)
	a, _, _ := w.open(t, 1, withTCP)
	var conns []net.Conn
	for i := range 100 {
		near, far := net.Pipe()
		t.Cleanup(func() { _ = near.Close() })
		conns = append(conns, near)
		a.TakeWeb(far, netip.AddrPortFrom(netip.AddrFrom4([4]byte{31, 21, 0, byte(i / 10)}), uint16(5000+i)))
	}
	require.EqualValues(t, 100-64, a.Stats().TCPRefused)
	require.True(t, a.PlaceTCP(), "they take no places of others")
	require.Eventually(t, func() bool { return open(t, conns) == 0 }, 10*time.Second, 100*time.Millisecond)
}

// PATH-14: nor are those that proved whose they are any number, since libp2p holds
// each for one whose handshake goes on.
func TestPATH14ConnectionsAtPort443AreBounded(t *testing.T) {
	w := newWire(t)
	a, _, _ := w.open(t, 1, withTCP)
	require.Equal(t, 128, a.PlaceWeb(200))
}

// PATH-14: one whose peer has a better path yields its place to one that may have
// no other way.
func TestPATH14ConnectionAtPort443Yields(t *testing.T) {
	_, a, _, _, bKey, _ := directPair(t)
	require.Equal(t, 127, a.PlaceWeb(127))
	far, ok := a.PlaceWebOf(bKey)
	require.True(t, ok)
	require.Equal(t, 1, a.PlaceWeb(1))
	_, err := far.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Zero(t, a.PlaceWeb(1))
}

// asker is a socket whose dials to port 443 are counted, and what they come to is
// given; its peers are enemies.
func asker(t *testing.T, err error, change func(*socket.Config)) (a *socket.Socket, key relay.Key, dialled func(netip.AddrPort) int) {
	t.Helper()
	var mu sync.Mutex
	counts := make(map[netip.AddrPort]int)
	a, key, _ = newWire(t).open(t, 1, func(c *socket.Config) {
		c.TCP, c.Loopback = true, false
		c.DialWeb = func(_ context.Context, to netip.AddrPort) (tcp.Carrier, error) {
			mu.Lock()
			counts[to]++
			mu.Unlock()
			time.Sleep(50 * time.Millisecond) // an answer takes its time
			return nil, err
		}
		if change != nil {
			change(c)
		}
	})
	a.SetAddrs([]netip.AddrPort{netip.MustParseAddrPort("5.20.0.9:4000")})
	a.SetTCP(nil, true)
	return a, key, func(to netip.AddrPort) int {
		mu.Lock()
		defer mu.Unlock()
		return counts[to]
	}
}

// named makes the enemy whom the socket has dialled name addresses.
func named(t *testing.T, a *socket.Socket, aKey relay.Key, n byte, addrs ...string) {
	t.Helper()
	priv, key := keyPair(n)
	_, release, err := a.Dial(key)
	require.NoError(t, err)
	t.Cleanup(release)
	e := newEnemy(t, priv, aKey)
	m := disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot}
	for _, text := range addrs {
		m.TCP = append(m.TCP, netip.MustParseAddrPort(text))
	}
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(m))
}

// PATH-14: where something has answered that is no peer nobody makes this node ask
// again, whoever names it.
func TestPATH14Port443OfNoPeer(t *testing.T) {
	const victim, next = "31.21.0.2:443", "31.21.0.3:443"
	a, aKey, dialled := asker(t, fmt.Errorf("it answered 404: %w", socket.ErrNoPeer), nil)
	named(t, a, aKey, 9, victim)
	require.Eventually(t, func() bool { return dialled(netip.MustParseAddrPort(victim)) == 1 }, 5*time.Second, time.Millisecond)
	for n := byte(10); n < 20; n++ {
		named(t, a, aKey, n, victim, next)
	}
	require.Eventually(t, func() bool { return dialled(netip.MustParseAddrPort(next)) > 0 }, 5*time.Second, time.Millisecond)
	time.Sleep(1200 * time.Millisecond) // those that were held try again
	require.Equal(t, 1, dialled(netip.MustParseAddrPort(victim)))
	require.Equal(t, 1, dialled(netip.MustParseAddrPort(next)), "nor do several at once")
}

// PATH-14: a stranger that claims to share our public address does not make this
// node ask the web servers of its own network; a peer that is known does.
func TestPATH14Port443OfOurOwnNetwork(t *testing.T) {
	const inside, outside = "192.168.1.1:443", "31.21.0.3:443"
	for _, known := range []bool{false, true} {
		a, aKey, dialled := asker(t, errors.New("no"), func(c *socket.Config) { c.Known = func(relay.Key) bool { return known } })
		named(t, a, aKey, 9, "5.20.0.9:4001", inside, outside)
		require.Eventually(t, func() bool { return dialled(netip.MustParseAddrPort(outside)) == 1 }, 5*time.Second, time.Millisecond)
		if known {
			require.Eventually(t, func() bool { return dialled(netip.MustParseAddrPort(inside)) == 1 }, 5*time.Second, time.Millisecond)
		} else {
			require.Zero(t, dialled(netip.MustParseAddrPort(inside)))
		}
	}
}

// PATH-20: port 443 is dialled though the tries at other ports had used up what
// may be tried just then.
func TestPATH20Port443IsDialledOnceThereIsRoom(t *testing.T) {
	a, aKey, dialled := asker(t, errors.New("no"), nil)
	release := a.HoldTCP()
	named(t, a, aKey, 9, "31.21.0.3:443")
	require.Eventually(t, func() bool { return a.Stats().TCPHeld > 0 }, 5*time.Second, time.Millisecond)
	release()
	require.Eventually(t, func() bool { return dialled(netip.MustParseAddrPort("31.21.0.3:443")) == 1 }, 3*time.Second, time.Millisecond)
}
