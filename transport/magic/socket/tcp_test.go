package socket_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// nowhere is an address at which nobody answers.
var nowhere = netip.MustParseAddrPort("127.0.0.1:9")

func withTCP(c *socket.Config) { c.TCP = true }

// blocked opens a socket whose UDP addresses nobody learns, so that only TCP
// can go straight.
func (w *wire) blocked(t *testing.T, n byte, noUDP bool) (*socket.Socket, relay.Key, netip.AddrPort) {
	t.Helper()
	s, key, at := w.open(t, n, withTCP)
	s.SetAddrs([]netip.AddrPort{nowhere})
	s.SetTCP([]netip.AddrPort{at}, noUDP)
	return s, key, at
}

// overTCP tells that the path to the peer is a TCP connection.
func overTCP(s *socket.Socket, k relay.Key) bool {
	id, _, _, ok := s.Path(k)
	return ok && id.TCP && id.Kind() == path.Direct
}

// tcpPair are two sockets with a path over TCP between them, since a has no UDP.
func tcpPair(t *testing.T) (w *wire, a, b *socket.Socket, aKey, bKey relay.Key) {
	t.Helper()
	w = newWire(t)
	a, aKey, _ = w.blocked(t, 1, true)
	b, bKey, _ = w.blocked(t, 2, false)
	for s, k := range map[*socket.Socket]relay.Key{a: bKey, b: aKey} {
		_, release, err := s.Dial(k)
		require.NoError(t, err)
		t.Cleanup(release)
	}
	require.Eventually(t, func() bool { return overTCP(a, bKey) && overTCP(b, aKey) }, 5*time.Second, time.Millisecond)
	return w, a, b, aKey, bKey
}

// reaches sends a packet until it is read at the other end.
func reaches(t *testing.T, from *socket.Socket, key relay.Key, to *socket.Socket, text string) {
	t.Helper()
	addr := net.UDPAddrFromAddrPort(socket.VirtualAddr(key))
	_, err := from.WriteTo([]byte(text), addr)
	require.NoError(t, err)
	for got := ""; got != text; { // earlier ones may have been sent again
		got, _ = read(t, to)
	}
}

// PATH-20: where one side says that UDP does not get through, both connect by
// TCP, and the packets of the connection above go over that, without a relay.
func TestPATH20BecomesDirectOverTCP(t *testing.T) {
	w, a, b, aKey, bKey := tcpPair(t)
	w.setCut(true)
	a.LinkDown(relayOne)
	b.LinkDown(relayOne)
	reaches(t, a, bKey, b, "\x40to b")
	reaches(t, b, aKey, a, "\x40to a")
	require.Positive(t, a.Stats().TCPDials+b.Stats().TCPDials)
}

// PATH-20: neither side knows that no UDP gets through between the two; a second
// without a direct path tells as much.
func TestPATH20TriedUnasked(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.blocked(t, 1, false)
	b, bKey, _ := w.blocked(t, 2, false)
	for s, k := range map[*socket.Socket]relay.Key{a: bKey, b: aKey} {
		_, release, err := s.Dial(k)
		require.NoError(t, err)
		defer release()
	}
	for range 20 { // in use
		reaches(t, a, bKey, b, "\x40x")
		time.Sleep(50 * time.Millisecond)
	}
	require.Eventually(t, func() bool {
		reaches(t, a, bKey, b, "\x40y")
		return overTCP(a, bKey) && overTCP(b, aKey)
	}, 5*time.Second, 10*time.Millisecond)
}

// PATH-20: where UDP works nobody listens or dials by TCP.
func TestPATH20OrdinaryDialsOpenNoTCP(t *testing.T) {
	w := newWire(t)
	a, aKey, aAddr := w.open(t, 1, withTCP)
	b, bKey, bAddr := w.open(t, 2, withTCP)
	a.SetTCP([]netip.AddrPort{aAddr}, false)
	b.SetTCP([]netip.AddrPort{bAddr}, false)
	_, release, err := a.Dial(bKey)
	require.NoError(t, err)
	defer release()
	reaches(t, a, bKey, b, "\x40x")
	require.Eventually(t, func() bool { return kindOf(a, bKey) == path.Direct && kindOf(b, aKey) == path.Direct }, 5*time.Second, time.Millisecond)
	for range 30 {
		reaches(t, a, bKey, b, "\x40x")
		time.Sleep(50 * time.Millisecond)
	}
	require.False(t, overTCP(a, bKey))
	require.Zero(t, a.Stats().TCPDials+b.Stats().TCPDials)
	_, err = new(net.Dialer).DialContext(t.Context(), "tcp4", aAddr.String())
	require.Error(t, err, "somebody listens")
}

// PATH-19, PATH-20: UDP that is found later takes over, at once.
func TestPATH20UDPIsPreferred(t *testing.T) {
	_, a, b, aKey, bKey := tcpPair(t)
	b.SetAddrs([]netip.AddrPort{b.UDPAddr()})
	require.Eventually(t, func() bool {
		reaches(t, a, bKey, b, "\x40x")
		return !overTCP(a, bKey) && kindOf(a, bKey) == path.Direct && !overTCP(b, aKey) && kindOf(b, aKey) == path.Direct
	}, 5*time.Second, 10*time.Millisecond)
}

// PATH-20: a connection that ends is missed at once: packets go over the relay,
// and another connection is made.
func TestPATH20CutConnectionIsReplaced(t *testing.T) {
	_, a, b, aKey, bKey := tcpPair(t)
	for range 3 {
		a.CutTCP(bKey)
		reaches(t, b, aKey, a, "\x40after the cut")
		require.Eventually(t, func() bool {
			reaches(t, a, bKey, b, "\x40x")
			return overTCP(a, bKey) && overTCP(b, aKey)
		}, 10*time.Second, 10*time.Millisecond)
	}
}

// PATH-11, PATH-20: a peer that was restarted gets a new connection; that of its
// former life is gone.
func TestPATH20PeerIsRestarted(t *testing.T) {
	w, a, b, aKey, bKey := tcpPair(t)
	old, _, _, _ := a.Path(bKey)
	require.NoError(t, b.Close())
	b2, _, at := w.blocked(t, 2, true)
	require.NotEqual(t, old.Addr, at)
	_, release, err := b2.Dial(aKey)
	require.NoError(t, err)
	defer release()
	require.Eventually(t, func() bool {
		reaches(t, b2, aKey, a, "\x40x")
		id, _, _, _ := a.Path(bKey)
		return id.TCP && id != old && overTCP(b2, aKey)
	}, 10*time.Second, 10*time.Millisecond)
}

// listening is a socket that listens for 5 s, since a friend says it has no UDP.
func listening(t *testing.T, friends ...byte) (a *socket.Socket, aAddr netip.AddrPort, es []*enemy) {
	t.Helper()
	w := newWire(t)
	a, aKey, aAddr := w.blocked(t, 1, false)
	for _, n := range friends {
		priv, key := keyPair(n)
		_, release, err := a.Dial(key)
		require.NoError(t, err)
		t.Cleanup(release)
		e := newEnemy(t, priv, aKey)
		es = append(es, e)
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{
			TxID: disco.NewTxID(), BootID: e.boot, Network: disco.Network{NoUDP: true},
			TCP: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1024")}, // refuses
		}))
	}
	require.Eventually(t, func() bool {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp4", aAddr.String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 5*time.Second, 10*time.Millisecond)
	return a, aAddr, es
}

// from connects from an address of this machine's. A connection that is refused
// may be so before or after this end has it.
func from(t *testing.T, ip string, to netip.AddrPort) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 5 * time.Second}
	c, err := d.DialContext(t.Context(), "tcp4", to.String())
	if err != nil {
		c, _ = net.Pipe()
		_ = c.Close()
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// open counts the connections that the other end has not closed.
func open(t *testing.T, conns []net.Conn) (n int) {
	t.Helper()
	for _, c := range conns {
		for c.SetReadDeadline(time.Now().Add(time.Millisecond)) == nil {
			_, err := c.Read(make([]byte, 2048))
			if errors.Is(err, os.ErrDeadlineExceeded) {
				n++
			}
			if err != nil {
				break
			}
		}
	}
	return n
}

// PATH-14, PATH-20: connections that prove nobody are few, in all and from one
// address, and are closed after 5 s.
func TestPATH14UnprovenConnectionsAreBounded(t *testing.T) {
	a, to, _ := listening(t, 9)
	var one, many []net.Conn
	for range 30 {
		one = append(one, from(t, "127.0.0.2", to))
	}
	require.Eventually(t, func() bool { return open(t, one) <= 8 }, 5*time.Second, 10*time.Millisecond)
	require.Positive(t, open(t, one))
	for i := range 80 {
		many = append(many, from(t, netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}).String(), to))
	}
	require.Eventually(t, func() bool { return open(t, append(one, many...)) <= 64 }, 5*time.Second, 10*time.Millisecond)
	require.EqualValues(t, 22+24, a.Stats().TCPRefused)
	require.Eventually(t, func() bool { return open(t, append(one, many...)) == 0 }, 10*time.Second, 100*time.Millisecond)
	require.GreaterOrEqual(t, a.Stats().TCPUnproven, uint64(64))
}

// frame is a packet as it stands in the stream.
func frame(packet []byte) []byte {
	return append([]byte{byte(len(packet) >> 8), byte(len(packet))}, packet...)
}

// introduction is a ping that makes the enemy known.
func (e *enemy) introduction() []byte {
	b, err := e.id.SealIntroduction(nil, e.to, e.ping())
	require.NoError(e.t, err)
	return b
}

// ends waits until the other side has closed.
func ends(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(3*time.Second)))
	_, err := io.Copy(io.Discard, c)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "still open")
}

// PATH-8, PATH-20: what a connection must not carry ends it, or has no effect;
// QUIC is taken only from a peer that answered over this very connection.
func TestPATH8TCPTakesNothingUnproven(t *testing.T) {
	a, to, es := listening(t, 9, 10)
	e, other := es[0], es[1]
	last := byte(1)
	say := func(packets ...[]byte) net.Conn {
		last++ // each from an address of its own
		c := from(t, netip.AddrFrom4([4]byte{127, 0, 2, last}).String(), to)
		b := []byte{1}
		for _, p := range packets {
			b = append(b, frame(p)...)
		}
		_, err := c.Write(b)
		require.NoError(t, err)
		return c
	}
	// Data before anything, and from a peer that proved itself but has not
	// answered.
	before := a.Stats()
	say([]byte("\x40data"))
	recorded := e.introduction()
	c := say(recorded, []byte("\x40data"))
	require.Eventually(t, func() bool { return a.Stats().Unproven == before.Unproven+2 }, 5*time.Second, time.Millisecond)
	_, err := io.ReadFull(c, make([]byte, 1+2)) // it is asked, though
	require.NoError(t, err)
	silent(t, a)
	// What was recorded there proves nothing here.
	say(recorded, []byte("\x40data"))
	require.Eventually(t, func() bool {
		return a.Stats().Replayed > before.Replayed && a.Stats().Unproven == before.Unproven+3
	}, 5*time.Second, time.Millisecond)
	// Strangers, and boxes that do not open.
	priv, _ := keyPair(77)
	say(newEnemy(t, priv, e.to).introduction())
	require.Eventually(t, func() bool { return a.Stats().Unproven == before.Unproven+4 }, 5*time.Second, time.Millisecond)
	say(append([]byte{0x0b}, make([]byte, 200)...))
	require.Eventually(t, func() bool { return a.Stats().BadBox == before.BadBox+1 }, 5*time.Second, time.Millisecond)
	// Another peer on the same connection; reflection; not our format.
	ends(t, say(e.introduction(), other.introduction()))
	ends(t, say([]byte{0x0c, 1, 2, 3}))
	ends(t, say(make([]byte, 1601)))
	require.Eventually(t, func() bool { return a.Stats().TCPMalformed == before.TCPMalformed+3 }, 5*time.Second, time.Millisecond)
	// Nor does one peer get more than a few.
	var conns []net.Conn
	for range 8 {
		conns = append(conns, say(e.introduction()))
	}
	require.Eventually(t, func() bool { return open(t, conns) <= 4 }, 5*time.Second, 10*time.Millisecond)
	silent(t, a)
}

// PATH-13, PATH-14, PATH-20: nobody makes this node dial where it must not, nor
// often.
func TestPATH14WhereTCPIsDialled(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, func(c *socket.Config) { c.TCP, c.Loopback = true, false })
	a.SetAddrs([]netip.AddrPort{netip.MustParseAddrPort("5.20.0.9:4000")})
	a.SetTCP([]netip.AddrPort{netip.MustParseAddrPort("5.20.0.9:4000")}, true)
	ask := func(n byte, addrs ...netip.AddrPort) {
		priv, key := keyPair(n)
		_, release, err := a.Dial(key)
		require.NoError(t, err)
		t.Cleanup(release)
		e := newEnemy(t, priv, aKey)
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot, TCP: addrs}))
	}
	var bad []netip.AddrPort
	for _, text := range []string{"31.21.0.2:22", "31.21.0.2:443", "10.0.0.1:4242", "192.168.1.1:4242", "127.0.0.1:4242", "100.64.1.1:4242"} {
		bad = append(bad, netip.MustParseAddrPort(text))
	}
	ask(9, bad...)
	require.EqualValues(t, len(bad), a.Stats().RefusedAddrs)
	ask(10, netip.MustParseAddrPort("5.20.0.9:4000")) // our own
	require.EqualValues(t, len(bad)+1, a.Stats().RefusedAddrs)
	time.Sleep(200 * time.Millisecond)
	require.Zero(t, a.Stats().TCPDials)
}

// PATH-14: tries are few, however many peers name addresses.
func TestPATH14TCPDialsAreFew(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.blocked(t, 1, true)
	began := time.Now()
	for n := range 60 {
		priv, key := keyPair(byte(100 + n))
		_, release, err := a.Dial(key)
		require.NoError(t, err)
		t.Cleanup(release)
		e := newEnemy(t, priv, aKey)
		m := disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot}
		for j := range disco.MaxTCP {
			m.TCP = append(m.TCP, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(n), byte(j)}), 4242))
		}
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(m))
	}
	require.Eventually(t, func() bool { return a.Stats().TCPHeld > 0 }, 5*time.Second, time.Millisecond)
	require.LessOrEqual(t, float64(a.Stats().TCPDials), 51+50*time.Since(began).Seconds())
	require.Positive(t, a.Stats().TCPDials)
}

// PATH-14: 24 probes to one IP for each list: two ports, each knocked at ten times
// at most.
func TestPATH14PortsOfOneIPByTCP(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.blocked(t, 1, true)
	priv, key := keyPair(9)
	_, release, err := a.Dial(key)
	require.NoError(t, err)
	defer release()
	e := newEnemy(t, priv, aKey)
	m := disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot}
	for j := range disco.MaxTCP {
		m.TCP = append(m.TCP, netip.AddrPortFrom(netip.MustParseAddr("127.1.0.1"), uint16(2000+j)))
	}
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(m))
	require.EqualValues(t, disco.MaxTCP-2, a.Stats().RefusedAddrs)
}

// Close ends tries, listeners and connections, whatever they are at.
func TestPATH20CloseEndsEverything(t *testing.T) {
	a, to, es := listening(t, 9)
	c := from(t, "127.0.0.1", to)
	_, err := c.Write(append([]byte{1}, frame(es[0].introduction())...))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	ends(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = tcp.Dial(ctx, netip.MustParseAddrPort("127.0.0.1:0"), to)
	require.Error(t, err)
}
