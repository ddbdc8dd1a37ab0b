package socket_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// enemy is a key of the other side's, with its boxes made by hand.
type enemy struct {
	t    *testing.T
	id   *disco.Identity
	key  relay.Key
	boot disco.BootID
	to   relay.Key
}

func newEnemy(t *testing.T, priv ed25519.PrivateKey, to relay.Key) *enemy {
	id, err := disco.NewIdentity(priv)
	require.NoError(t, err)
	return &enemy{t, id, relay.Key(priv.Public().(ed25519.PublicKey)), disco.NewBootID(time.Now()), to}
}

func (e *enemy) box(m disco.Message) []byte {
	b, err := e.id.Seal(nil, e.to, m)
	require.NoError(e.t, err)
	return b
}

func (e *enemy) ping() disco.Ping { return disco.Ping{TxID: disco.NewTxID(), BootID: e.boot} }

func outsider(t *testing.T) *udp.Conn {
	c, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// directPair are two sockets with a direct path between them, each with the
// other pinned by a dial.
func directPair(t *testing.T) (w *wire, a, b *socket.Socket, aKey, bKey relay.Key, aAddr netip.AddrPort) {
	t.Helper()
	w = newWire(t)
	a, aKey, aAddr = w.open(t, 1, nil)
	b, bKey, _ = w.open(t, 2, nil)
	for s, k := range map[*socket.Socket]relay.Key{a: bKey, b: aKey} {
		_, release, err := s.Dial(k)
		require.NoError(t, err)
		t.Cleanup(release)
	}
	require.Eventually(t, func() bool { return kindOf(b, aKey) == path.Direct && kindOf(a, bKey) == path.Direct }, 5*time.Second, time.Millisecond)
	return w, a, b, aKey, bKey, aAddr
}

// PATH-11: what a relay recorded it can send again, and nothing comes of it: no
// knocking, no path given up, no box that proves a link.
func TestPATH11RecordingsAreRefused(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, nil)
	priv, _ := keyPair(9)
	e := newEnemy(t, priv, aKey)
	for i, m := range []disco.Message{
		e.ping(),
		disco.Hello{TxID: disco.NewTxID(), BootID: e.boot},
		disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot, Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}},
		disco.PathGone{TxID: disco.NewTxID(), BootID: e.boot},
	} {
		box := e.box(m)
		a.Receive(relayOne, e.key, relay.FrameDisco, 0, box)
		require.EqualValues(t, 2*i, a.Stats().Replayed, "%T", m)
		a.Receive(relayOne, e.key, relay.FrameDisco, 0, box)
		a.Receive(relayTwo, e.key, relay.FrameDisco, 0, box)
		require.EqualValues(t, 2*i+2, a.Stats().Replayed, "%T", m)
		a.Receive(relayTwo, e.key, relay.FrameData, 0, []byte("\x40data"))
		require.EqualValues(t, i+1, a.Stats().Unproven, "%T proves nothing over another relay", m)
	}
	older := e.ping()
	older.BootID = disco.NewBootID(time.Now().Add(-time.Hour))
	before := a.Stats().Replayed
	a.Receive(relayOne, e.key, relay.FrameDisco, 0, e.box(older))
	require.Equal(t, before+1, a.Stats().Replayed, "of an earlier boot")
	silent(t, a)
}

// PATH-10, 14: forged packets open nothing and get no answer; a flood of them
// from one address costs twenty openings a second.
func TestPATH14ForgedFloodFromOneAddress(t *testing.T) {
	_, a, _, _, bKey, aAddr := directPair(t)
	flood := outsider(t)
	before, began := a.Stats(), time.Now()
	const n = 1000
	for i := range n {
		b := make([]byte, 300)
		rand.Read(b)
		b[0] = 0x0b // an introduction
		if i%2 == 0 {
			b[0] = 0x0a // of somebody unknown
		}
		require.NoError(t, flood.Write(b, aAddr, 0, 0))
		if i%50 == 0 {
			time.Sleep(time.Millisecond) // the kernel's buffer is not what is tested
		}
	}
	seen := func() uint64 {
		s := a.Stats()
		return s.BadBox - before.BadBox + s.RateLimited - before.RateLimited
	}
	require.Eventually(t, func() bool { return seen() == n }, 5*time.Second, time.Millisecond)
	opened := n/2 - int(a.Stats().RateLimited-before.RateLimited)
	require.LessOrEqual(t, float64(opened), 21+20*time.Since(began).Seconds(), "introductions")
	quietConn(t, flood)
	require.Eventually(t, func() bool { return kindOf(a, bKey) == path.Direct }, 5*time.Second, time.Millisecond)
}

// PATH-14: a whole /64 of IPv6 is one source.
func TestPATH14SourcesOfIPv6(t *testing.T) {
	w := newWire(t)
	a, _, _ := w.open(t, 1, nil)
	began, allowed := time.Now(), 0
	for i := range 400 {
		ip := netip.MustParseAddr("2a0b:1::").As16()
		binary.BigEndian.PutUint64(ip[8:], uint64(i)<<32)
		if a.AllowsIntroduction(netip.AddrFrom16(ip)) {
			allowed++
		}
	}
	require.LessOrEqual(t, float64(allowed), 21+20*time.Since(began).Seconds())
	require.True(t, a.AllowsIntroduction(netip.MustParseAddr("2a0b:1:0:1::1")))
	require.True(t, a.AllowsIntroduction(netip.MustParseAddr("31.22.0.1")))
	require.True(t, a.AllowsIntroduction(netip.MustParseAddr("31.22.0.2")))
}

// quietConn fails when anything arrives.
func quietConn(t *testing.T, c *udp.Conn) {
	t.Helper()
	got := make(chan int, 1)
	go func() {
		n, err := c.ReadBatch([]udp.Message{{Buf: make([]byte, 2048)}})
		if err != nil {
			n = 0
		}
		got <- n
	}()
	select {
	case n := <-got:
		require.Zero(t, n, "an answer")
	case <-time.After(100 * time.Millisecond):
		_ = c.Close()
		<-got
	}
}

// PATH-10: our own packets sent back to us are nobody's.
func TestPATH10ReflectedPacketsAreRefused(t *testing.T) {
	w := newWire(t)
	a, aKey, aAddr := w.open(t, 1, nil)
	mirror := outsider(t)
	priv, key := keyPair(9)
	e := newEnemy(t, priv, aKey)
	// a knocks at the mirror's address, since a peer named it.
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{
		TxID: disco.NewTxID(), BootID: e.boot, Addrs: []netip.AddrPort{mirror.LocalAddr()},
	}))
	ms := []udp.Message{{Buf: make([]byte, 64<<10)}}
	n, err := mirror.ReadBatch(ms)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	packet := ms[0].Buf[:ms[0].N]
	require.NoError(t, mirror.Write(packet, aAddr, 0, 0))
	require.Eventually(t, func() bool { return a.Stats().BadBox == 1 }, 5*time.Second, time.Millisecond)
	require.Equal(t, path.Relayed, kindOf(a, key))
	// Nor does a relay get anything by it, whatever name it puts on.
	mine, err := e.id.Seal(nil, aKey, e.ping())
	require.NoError(t, err)
	own, _ := keyPair(1)
	back := newEnemy(t, own, key).box(e.ping())
	a.Receive(relayOne, key, relay.FrameDisco, 0, back)
	require.EqualValues(t, 2, a.Stats().BadBox)
	a.Receive(relayOne, aKey, relay.FrameDisco, 0, mine) // "from ourselves"
	require.EqualValues(t, 2, a.Stats().BadBox)
	_, _, _, known := a.Path(aKey)
	require.False(t, known)
}

// PATH-14: naming ever more addresses makes us knock no more often: sixteen
// addresses at a time, six times at once, and 200 probes a second in all.
func TestPATH14ThousandAddresses(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, func(c *socket.Config) { c.Loopback = false })
	a.SetAddrs([]netip.AddrPort{netip.MustParseAddrPort("5.20.0.9:4000")})
	priv, key := keyPair(9)
	e := newEnemy(t, priv, aKey)
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
	start := time.Now()
	for i := range 63 {
		m := disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot}
		for j := range disco.MaxAddrs {
			var ip [4]byte
			binary.BigEndian.PutUint32(ip[:], 0x1f150000+uint32(i*disco.MaxAddrs+j))
			m.Addrs = append(m.Addrs, netip.AddrPortFrom(netip.AddrFrom4(ip), 53))
		}
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(m))
	}
	require.LessOrEqual(t, 63-float64(a.Stats().RateLimited), 7+2*time.Since(start).Seconds())
	time.Sleep(1500 * time.Millisecond) // the first second is when most is sent
	require.Positive(t, a.Stats().Probes)
	require.LessOrEqual(t, a.Stats().Probes, uint64(32*7), "candidates held for one peer")
	// A hundred such keys share one budget.
	before := a.Stats().Probes
	began := time.Now()
	for n := range 60 {
		priv, key := keyPair(byte(100 + n))
		e := newEnemy(t, priv, aKey)
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
		m := disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot}
		for j := range disco.MaxAddrs {
			m.Addrs = append(m.Addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{31, 22, byte(n), byte(j)}), 53))
		}
		a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(m))
	}
	time.Sleep(time.Second)
	sent := a.Stats().Probes - before
	require.LessOrEqual(t, float64(sent), 200+200*time.Since(began).Seconds())
	require.Positive(t, a.Stats().ProbesHeld)
}

// PATH-14: what comes by two relays counts once, so that five changes of address
// at once are heard.
func TestPATH14CallMeMaybeByTwoRelays(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, func(c *socket.Config) { c.Loopback = false })
	priv, key := keyPair(9)
	e := newEnemy(t, priv, aKey)
	a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(e.ping()))
	for port := range uint16(5) {
		m := disco.CallMeMaybe{BootID: e.boot, Addrs: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("31.21.0.3"), 4000+port)}}
		for range 2 {
			m.TxID = disco.NewTxID()
			a.Receive(relayOne, key, relay.FrameDisco, 0, e.box(m))
		}
	}
	require.Zero(t, a.Stats().RateLimited)
}

// PATH-14: what a peer says last counts, even if it has said much before: it is
// taken as soon as it may be, and what it said in between is not.
func TestPATH14LatestCallMeMaybeIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := make(chan netip.AddrPort, 100)
		priv, aKey := keyPair(1)
		a, err := socket.New(socket.Config{Key: priv, Relays: &recorder{}, Trace: func(_ relay.Key, tr socket.Trace) {
			if tr.Kind == socket.TraceHeard {
				heard <- tr.Addrs[0]
			}
		}})
		require.NoError(t, err)
		defer a.Close()
		bPriv, bKey := keyPair(2)
		e := newEnemy(t, bPriv, aKey)
		a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(e.ping()))
		taken := func() (all []netip.AddrPort) {
			for range len(heard) {
				all = append(all, <-heard)
			}
			return all
		}
		var said []netip.AddrPort
		for port := range uint16(9) {
			said = append(said, netip.AddrPortFrom(netip.MustParseAddr("31.21.0.3"), 4000+port))
			a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot, Addrs: said[port:]}))
		}
		synctest.Wait()
		require.Equal(t, said[:6], taken())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, said[8:], taken())
	})
}

// PATH-14: five thousand strangers, more than there is room for anywhere, push
// nobody out who has a connection: its direct packets go on to open.
func TestPATH14ConnectedPeersOutlastAFlood(t *testing.T) {
	_, a, b, aKey, bKey, _ := directPair(t)
	for r := range 25 {
		via := relay.Key{byte(r + 10)}
		for n := range 200 {
			seed := make([]byte, 32)
			binary.BigEndian.PutUint32(seed, uint32(1000+r*200+n))
			e := newEnemy(t, ed25519.NewKeyFromSeed(seed), aKey)
			a.Receive(via, e.key, relay.FrameDisco, 0, e.box(e.ping()))
		}
	}
	before := a.Stats()
	require.Zero(t, before.BadBox)
	addr := net.UDPAddrFromAddrPort(socket.VirtualAddr(aKey))
	for range 70 { // two heartbeats
		_, err := b.WriteTo(make([]byte, 100), addr)
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
	}
	require.Zero(t, a.Stats().BadBox)
	require.Eventually(t, func() bool { return kindOf(b, aKey) == path.Direct && kindOf(a, bKey) == path.Direct }, 10*time.Second, time.Millisecond)
	require.Zero(t, a.Stats().BadBox)
}

// PATH-11: two nodes run with one key. The one that began later is the peer;
// what the other says is refused, and counted.
func TestPATH11TwoNodesOneKey(t *testing.T) {
	w, a, b, aKey, bKey, _ := directPair(t)
	old, _, _, _ := a.Path(bKey)
	second, _, newAddr := w.open(t, 2, nil)
	addr, release, err := second.Dial(aKey)
	require.NoError(t, err)
	defer release()
	_, err = second.WriteTo([]byte("\x40second"), addr)
	require.NoError(t, err)
	at := func() netip.AddrPort {
		id, _, _, _ := a.Path(bKey)
		return id.Addr
	}
	require.Eventually(t, func() bool { return at() == newAddr }, 5*time.Second, time.Millisecond)
	before := a.Stats().Replayed
	for range 80 {
		_, err = b.WriteTo([]byte("\x40first"), net.UDPAddrFromAddrPort(socket.VirtualAddr(aKey)))
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
		require.NotEqual(t, old.Addr, at())
	}
	require.Greater(t, a.Stats().Replayed, before)
}

// PATH-8: making a stranger known costs the same however many there are.
func BenchmarkNewStranger(b *testing.B) {
	w := &wire{ends: make(map[relay.Key]*socket.Socket), queue: make(chan func(), 1)}
	priv, key := keyPair(1)
	s, err := socket.New(socket.Config{Key: priv, Relays: wireEnd{w, key}})
	require.NoError(b, err)
	defer s.Close()
	boxes := make([][]byte, 1024)
	keys := make([]relay.Key, len(boxes))
	for i := range boxes {
		seed := make([]byte, 32)
		binary.BigEndian.PutUint32(seed, uint32(1000+i))
		other := ed25519.NewKeyFromSeed(seed)
		id, err := disco.NewIdentity(other)
		require.NoError(b, err)
		keys[i] = relay.Key(other.Public().(ed25519.PublicKey))
		boxes[i], err = id.Seal(nil, key, disco.PathGone{TxID: disco.NewTxID(), BootID: disco.NewBootID(time.Now())})
		require.NoError(b, err)
	}
	i := 0
	for b.Loop() {
		s.Receive(relay.Key{byte(i >> 6), byte(i >> 14)}, keys[i%len(keys)], relay.FrameDisco, 0, boxes[i%len(keys)])
		i++
	}
}
