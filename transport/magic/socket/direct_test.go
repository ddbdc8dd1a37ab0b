package socket_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// wire carries frames between two sockets in real time, in order, as one relay
// would; it can be cut.
type wire struct {
	mu    sync.Mutex
	ends  map[relay.Key]*socket.Socket
	queue chan func()
	cut   bool
	seen  []relay.FrameType
}

func newWire(t *testing.T) *wire {
	w := &wire{ends: make(map[relay.Key]*socket.Socket), queue: make(chan func(), 1<<14)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for f := range w.queue {
			f()
		}
	}()
	t.Cleanup(func() {
		w.mu.Lock()
		w.cut = true
		close(w.queue)
		w.mu.Unlock()
		<-done
	})
	return w
}

type wireEnd struct {
	w    *wire
	self relay.Key
}

func (e wireEnd) Live() []relay.Key                       { return []relay.Key{relayOne} }
func (e wireEnd) Ensure(context.Context, relay.Key) error { return nil }

func (e wireEnd) Send(via, to relay.Key, kind relay.FrameType, ecn byte, payload []byte) error {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	target := e.w.ends[to]
	if e.w.cut || target == nil {
		return errDown
	}
	e.w.seen = append(e.w.seen, kind)
	payload = append([]byte(nil), payload...)
	e.w.queue <- func() { target.Receive(via, e.self, kind, ecn, payload) }
	return nil
}

func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

// open makes a socket with a UDP port on loopback.
func (w *wire) open(t *testing.T, n byte, change func(*socket.Config)) (*socket.Socket, relay.Key, netip.AddrPort) {
	t.Helper()
	priv, key := keyPair(n)
	c, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	cfg := socket.Config{Key: priv, Relays: wireEnd{w, key}, UDP: []*udp.Conn{c}, Loopback: true}
	if change != nil {
		change(&cfg)
	}
	s, err := socket.New(cfg)
	require.NoError(t, err)
	s.SetAddrs([]netip.AddrPort{c.LocalAddr()})
	w.mu.Lock()
	w.ends[key] = s
	w.mu.Unlock()
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, key, c.LocalAddr()
}

func kindOf(s *socket.Socket, k relay.Key) path.Kind {
	id, _, _, ok := s.Path(k)
	if !ok {
		return 0
	}
	return id.Kind()
}

// A dial over the relay becomes direct on both sides by itself (PATH-16), and
// works without the relay from then on.
func TestPATH16BecomesDirect(t *testing.T) {
	w := newWire(t)
	a, aKey, aAddr := w.open(t, 1, nil)
	b, bKey, _ := w.open(t, 2, nil)
	addr, release, err := b.Dial(aKey)
	require.NoError(t, err)
	defer release()
	_, err = b.WriteTo([]byte("\x40first"), addr)
	require.NoError(t, err)
	got, back := read(t, a)
	require.Equal(t, "\x40first", got)
	require.Eventually(t, func() bool { return kindOf(b, aKey) == path.Direct && kindOf(a, bKey) == path.Direct }, 5*time.Second, time.Millisecond)
	id, _, _, _ := b.Path(aKey)
	require.Equal(t, aAddr, id.Addr)
	w.setCut(true)
	a.LinkDown(relayOne)
	b.LinkDown(relayOne)
	_, err = b.WriteTo([]byte("\x40second"), addr)
	require.NoError(t, err)
	for got == "\x40first" { // it may have been replayed
		got, _ = read(t, a)
	}
	require.Equal(t, "\x40second", got)
	_, err = a.WriteTo([]byte("\x40third"), back)
	require.NoError(t, err)
	got, _ = read(t, b)
	require.Equal(t, "\x40third", got)
}

// PATH-8: QUIC packets from an address that is no validated path are dropped,
// whoever sends them.
func TestPATH8UnknownAddressesAreDropped(t *testing.T) {
	w := newWire(t)
	a, _, aAddr := w.open(t, 1, nil)
	stranger, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	defer stranger.Close()
	for range 5 {
		require.NoError(t, stranger.Write([]byte("\x40hello"), aAddr, 0, 0))
	}
	require.Eventually(t, func() bool { return a.Stats().Unproven == 5 }, 5*time.Second, time.Millisecond)
	silent(t, a)
}

// PATH-13: a peer that may not know us gets neither our addresses nor an
// answer on UDP, and is not probed, although its QUIC packets pass by relay.
func TestPATH13NotDisclosed(t *testing.T) {
	w := newWire(t)
	a, aKey, aAddr := w.open(t, 1, func(c *socket.Config) { c.Disclose = func(relay.Key) bool { return false } })
	b, bKey, _ := w.open(t, 2, nil)
	addr, release, err := b.Dial(aKey)
	require.NoError(t, err)
	defer release()
	_, err = b.WriteTo([]byte("\x40first"), addr)
	require.NoError(t, err)
	got, _ := read(t, a)
	require.Equal(t, "\x40first", got)

	priv, _ := keyPair(2) // b knows the address from elsewhere and knocks
	id, err := disco.NewIdentity(priv)
	require.NoError(t, err)
	c, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	defer c.Close()
	box, err := id.SealIntroduction(nil, aKey, disco.Ping{TxID: disco.NewTxID(), BootID: disco.NewBootID(time.Now())})
	require.NoError(t, err)
	before := a.Stats().Unproven
	require.NoError(t, c.Write(box, aAddr, 0, 0))
	require.Eventually(t, func() bool { return a.Stats().Unproven > before }, 5*time.Second, time.Millisecond)
	require.Equal(t, path.Relayed, kindOf(b, aKey))
	require.Never(t, func() bool { return kindOf(a, bKey) == path.Direct || a.Stats().Probes > 0 }, 300*time.Millisecond, 10*time.Millisecond)
}

// PATH-14: what a CallMeMaybe can make us do is bounded: sixteen addresses at
// most, few probes for one IP, none into our own network for a stranger, none
// to addresses that no peer has.
func TestPATH14CallMeMaybeIsBounded(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, func(c *socket.Config) { c.Loopback = false })
	a.SetAddrs([]netip.AddrPort{netip.MustParseAddrPort("5.20.0.9:4000")}) // as seen from outside
	priv, liar := keyPair(9)
	id, err := disco.NewIdentity(priv)
	require.NoError(t, err)
	boot := disco.NewBootID(time.Now())
	say := func(m disco.Message) {
		if call, ok := m.(disco.CallMeMaybe); ok {
			call.TxID, call.BootID = disco.NewTxID(), boot
			m = call
		}
		box, err := id.Seal(nil, aKey, m)
		require.NoError(t, err)
		a.Receive(relayOne, liar, relay.FrameDisco, 0, box)
	}
	say(disco.Ping{TxID: disco.NewTxID(), BootID: boot})
	var private, victim []netip.AddrPort
	for i := range 16 {
		private = append(private, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 1, byte(i + 1)}), 53))
		victim = append(victim, netip.AddrPortFrom(netip.MustParseAddr("31.21.0.7"), uint16(1000+i)))
	}
	private[0] = netip.MustParseAddrPort("31.21.0.8:9") // it has a public address too, and it is not ours
	say(disco.CallMeMaybe{Addrs: private})
	require.EqualValues(t, 15, a.Stats().RefusedAddrs)
	say(disco.CallMeMaybe{Addrs: []netip.AddrPort{
		netip.MustParseAddrPort("127.0.0.1:22"), netip.MustParseAddrPort("5.20.0.9:4000"), netip.MustParseAddrPort("169.254.169.254:80"),
	}})
	require.EqualValues(t, 18, a.Stats().RefusedAddrs)
	before := a.Stats().Probes
	for range 50 {
		say(disco.CallMeMaybe{Addrs: victim})
	}
	time.Sleep(1500 * time.Millisecond) // the first second is when most is sent
	require.LessOrEqual(t, a.Stats().Probes-before, uint64(24+7), "to one IP, and the liar's own first address")
}

// A peer whose address changes is heard at the new one at once: it pings from
// there, and the path moves when our own ping is answered (PATH-12).
func TestPATH12RoamingPeer(t *testing.T) {
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, nil)
	b, bKey, _ := w.open(t, 2, nil)
	addr, release, err := b.Dial(aKey)
	require.NoError(t, err)
	defer release()
	_, err = b.WriteTo([]byte("\x40x"), addr)
	require.NoError(t, err)
	read(t, a)
	require.Eventually(t, func() bool { return kindOf(a, bKey) == path.Direct && kindOf(b, aKey) == path.Direct }, 5*time.Second, time.Millisecond)
	// The same node comes back from another port, over the relay unaware.
	require.NoError(t, b.Close())
	b2, _, newAddr := w.open(t, 2, nil)
	addr, release2, err := b2.Dial(aKey)
	require.NoError(t, err)
	defer release2()
	_, err = b2.WriteTo([]byte("\x40y"), addr)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		id, _, _, ok := a.Path(bKey)
		return ok && id.Addr == newAddr
	}, 5*time.Second, time.Millisecond)
}

// An empty packet is no packet; it must not end anything either.
func TestEmptyPacket(t *testing.T) {
	w := newWire(t)
	a, aKey, aAddr := w.open(t, 1, nil)
	b, _, _ := w.open(t, 2, nil)
	addr, release, err := b.Dial(aKey)
	require.NoError(t, err)
	defer release()
	_, err = b.WriteTo(nil, addr)
	require.NoError(t, err)
	c, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	defer c.Close()
	_ = c.Write([]byte{}, aAddr, 0, 0)
	_, err = b.WriteTo([]byte("\x40after"), addr)
	require.NoError(t, err)
	got, _ := read(t, a)
	require.Equal(t, "\x40after", got)
}

// PATH-18: data waits, and the peer asks over the relay: it does not get what is
// sent straight. From then on it goes over the relay too, without waiting for
// the silence to be long enough to suspect the path.
func TestPATH18PingOverTheRelayIsADoubt(t *testing.T) {
	w, a, b, aKey, bKey, _ := directPair(t)
	time.Sleep(300 * time.Millisecond) // the round trip is known
	require.NoError(t, b.Close())
	priv, _ := keyPair(2)
	e := newEnemy(t, priv, aKey)
	e.boot = disco.BootID{0: 1} // not an earlier boot
	relayed := func() (n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, kind := range w.seen {
			if kind == relay.FrameData {
				n++
			}
		}
		return n
	}
	before := relayed()
	addr := net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey))
	_, err := a.WriteTo([]byte("\x40waits"), addr)
	require.NoError(t, err)
	time.Sleep(a.Quiet(bKey)/4 + 2*time.Millisecond) // an answer might have been under way
	a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(e.ping()))
	require.Greater(t, relayed(), before)
}

// PATH-7: packets that come together are read one by one, whole and in order,
// whether QUIC or disco was among them.
func TestPATH7TrainsAreReadPacketByPacket(t *testing.T) {
	_, a, b, aKey, bKey, _ := directPair(t)
	id, _, _, ok := b.Path(aKey)
	require.True(t, ok)
	require.NotZero(t, bKey)
	const n, size = 200, 700
	var train []byte
	for i := range n {
		p := make([]byte, size)
		p[0], p[1] = 0x40, byte(i)
		train = append(train, p...)
	}
	train = train[:len(train)-100] // the last is shorter
	for rest := train; len(rest) > 0; {
		k := min(len(rest), 20*size)
		require.NoError(t, b.WriteTrain(rest[:k], id.Addr, size))
		rest = rest[k:]
	}
	require.NoError(t, a.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 2048)
	for i := range n {
		got, _, err := a.ReadFrom(buf)
		require.NoError(t, err)
		want := size
		if i == n-1 {
			want -= 100
		}
		require.Equal(t, want, got)
		require.Equal(t, byte(i), buf[1])
	}
	silent(t, a)
}

// PATH-19: the machine is told of an answer by the time at which it sent the ping,
// else it would take the ping before for lost whenever the next one has left.
func TestPATH19PingsAreKnownByTheirTime(t *testing.T) {
	w := newWire(t)
	w.setCut(true)
	a, _, _ := w.open(t, 1, nil)
	_, key := keyPair(9)
	_, release, err := a.Dial(key)
	require.NoError(t, err)
	t.Cleanup(release)
	require.Eventually(t, func() bool {
		known, last := a.Pinged(key)
		require.Subset(t, known, last)
		return len(known) > 0
	}, 5*time.Second, time.Millisecond)
}
