package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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
	require.Eventually(t, func() bool { return open(t, conns) == 0 }, 10*time.Second, 100*time.Millisecond)
}

// PATH-14: nor are those that proved whose they are any number, since libp2p holds
// each for one whose handshake goes on.
func TestPATH14ConnectionsAtPort443AreBounded(t *testing.T) {
	w := newWire(t)
	a, _, _ := w.open(t, 1, withTCP)
	require.Equal(t, 128, a.PlaceWeb(200))
}
