package socket_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world carries frames between sockets over relays that exist in memory only,
// each frame in order and a little later.
type world struct {
	mu    sync.Mutex
	homes map[relay.Key]map[relay.Key]*socket.Socket // relay → client
	down  map[relay.Key]bool
	delay time.Duration
	wg    sync.WaitGroup
	sent  map[relay.FrameType]int
}

var errDown = errors.New("no link")

func newWorld(t *testing.T) *world {
	w := &world{
		homes: make(map[relay.Key]map[relay.Key]*socket.Socket), down: make(map[relay.Key]bool),
		sent: make(map[relay.FrameType]int),
	}
	t.Cleanup(w.wg.Wait)
	return w
}

// links is one socket's view of the world.
type links struct {
	w    *world
	self relay.Key
	via  []relay.Key
}

func (l *links) Live() []relay.Key {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	var live []relay.Key
	for _, k := range l.via {
		if !l.w.down[k] {
			live = append(live, k)
		}
	}
	return live
}

func (l *links) Ensure(context.Context, relay.Key) error { return nil }

func (l *links) Send(via, to relay.Key, kind relay.FrameType, ecn byte, payload []byte) error {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.w.down[via] {
		return errDown
	}
	l.w.sent[kind]++
	target := l.w.homes[via][to]
	if target == nil {
		return nil
	}
	payload = append([]byte(nil), payload...)
	// Timers that fire together keep no order: each frame gets its own moment.
	l.w.delay += time.Microsecond
	l.w.wg.Add(1)
	time.AfterFunc(10*time.Millisecond+l.w.delay, func() {
		defer l.w.wg.Done()
		target.Receive(via, l.self, kind, ecn, payload)
	})
	return nil
}

func keyPair(n byte) (ed25519.PrivateKey, relay.Key) {
	key := ed25519.NewKeyFromSeed(append(make([]byte, 31), n))
	return key, relay.Key(key.Public().(ed25519.PublicKey))
}

func (w *world) socket(t *testing.T, n byte, via ...relay.Key) (*socket.Socket, relay.Key) {
	t.Helper()
	priv, key := keyPair(n)
	s, err := socket.New(socket.Config{Key: priv, Relays: &links{w, key, via}})
	require.NoError(t, err)
	w.mu.Lock()
	for _, v := range via {
		if w.homes[v] == nil {
			w.homes[v] = make(map[relay.Key]*socket.Socket)
		}
		w.homes[v][key] = s
	}
	w.mu.Unlock()
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, key
}

func read(t *testing.T, s *socket.Socket) (string, net.Addr) {
	t.Helper()
	require.NoError(t, s.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 2048)
	n, from, err := s.ReadFrom(buf)
	require.NoError(t, err)
	return string(buf[:n]), from
}

func silent(t *testing.T, s *socket.Socket) {
	t.Helper()
	require.NoError(t, s.SetReadDeadline(time.Now().Add(time.Second)))
	n, _, err := s.ReadFrom(make([]byte, 2048))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "%d bytes came", n)
}

var relayOne, relayTwo = relay.Key{1}, relay.Key{2}

// The first packet arrives although no path had answered when it was sent, and
// the answer finds its way back: the relay both share was tried unasked.
func TestFirstPacketNeedsNoLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, aKey := w.socket(t, 1, relayOne)
		b, bKey := w.socket(t, 2, relayOne)
		addr, release, err := b.Dial(aKey)
		require.NoError(t, err)
		defer release()
		began := time.Now()
		_, err = b.WriteTo([]byte("initial"), addr)
		require.NoError(t, err)
		got, from := read(t, a)
		require.Equal(t, "initial", got)
		require.Less(t, time.Since(began), 15*time.Millisecond, "one way of the relay")
		require.Equal(t, net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey)).String(), from.String())
		_, err = a.WriteTo([]byte("answer"), from)
		require.NoError(t, err)
		got, _ = read(t, b)
		require.Equal(t, "answer", got)
		id, rtt, _, ok := b.Path(aKey)
		require.True(t, ok)
		require.Equal(t, path.ID{Relay: relayOne}, id)
		require.InDelta(t, 20*time.Millisecond, rtt, float64(2*time.Millisecond))
	})
}

// A packet written before any relay is known waits for the first one.
func TestPATH18PacketsWaitForAPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, aKey := w.socket(t, 1, relayTwo)
		b, _ := w.socket(t, 2)
		addr, release, err := b.Dial(aKey)
		require.NoError(t, err)
		defer release()
		_, err = b.WriteTo([]byte("early"), addr)
		require.NoError(t, err)
		silent(t, a)
		require.NoError(t, b.AddRelay(t.Context(), aKey, relayTwo))
		got, _ := read(t, a)
		require.Equal(t, "early", got)
	})
}

// PATH-8: a QUIC packet is handed up only after a valid box of its key came
// over the same relay link; a relay that invents senders gets nothing in.
func TestPATH8NothingWithoutABox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, aKey := w.socket(t, 1, relayOne, relayTwo)
		priv, liar := keyPair(9)
		a.Receive(relayOne, liar, relay.FrameData, 0, []byte{0x40, 1, 2, 3})
		silent(t, a)
		require.EqualValues(t, 1, a.Stats().Unproven)

		id, err := disco.NewIdentity(priv)
		require.NoError(t, err)
		ping := disco.Ping{TxID: disco.NewTxID(), BootID: disco.NewBootID(time.Now())}
		box, err := id.Seal(nil, aKey, ping)
		require.NoError(t, err)
		_, other := keyPair(8)
		a.Receive(relayOne, other, relay.FrameDisco, 0, box) // under another's name
		require.EqualValues(t, 1, a.Stats().BadBox)
		a.Receive(relayOne, other, relay.FrameData, 0, []byte{0x40})
		silent(t, a)

		a.Receive(relayOne, liar, relay.FrameDisco, 0, box)
		a.Receive(relayOne, liar, relay.FrameData, 0, []byte("one"))
		got, _ := read(t, a)
		require.Equal(t, "one", got)
		a.Receive(relayTwo, liar, relay.FrameData, 0, []byte("two")) // another relay: not proven there
		silent(t, a)
		a.Receive(relayTwo, liar, relay.FrameDisco, 0, box) // a recording does not prove it
		require.EqualValues(t, 1, a.Stats().Replayed)
		a.Receive(relayTwo, liar, relay.FrameData, 0, []byte("two"))
		silent(t, a)
		a.PeerGone(relayOne, liar) // which overtakes what it sent before it went
		a.Receive(relayOne, liar, relay.FrameData, 0, []byte("last words"))
		got, _ = read(t, a)
		require.Equal(t, "last words", got)
		a.LinkDown(relayOne)
		a.Receive(relayOne, liar, relay.FrameData, 0, []byte("three"))
		silent(t, a)
	})
}

// PATH-14: whoever floods with keys pushes out other strangers, at most 64 for
// one relay, and never a peer that has a connection.
func TestPATH14StrangersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, aKey := w.socket(t, 1, relayOne)
		box := func(n int) relay.Key {
			key := ed25519.NewKeyFromSeed(append(make([]byte, 30), byte(n>>8), byte(n)))
			id, err := disco.NewIdentity(key)
			require.NoError(t, err)
			from := relay.Key(key.Public().(ed25519.PublicKey))
			b, err := id.Seal(nil, aKey, disco.Ping{TxID: disco.NewTxID(), BootID: disco.NewBootID(time.Now())})
			require.NoError(t, err)
			a.Receive(relayOne, from, relay.FrameDisco, 0, b)
			return from
		}
		friend := box(300)
		_, release, err := a.Pin(net.UDPAddrFromAddrPort(socket.VirtualAddr(friend)))
		require.NoError(t, err)
		defer release()
		for n := 302; n < 480; n++ {
			box(n)
			time.Sleep(6 * time.Millisecond)
		}
		_, _, err = a.Pin(net.UDPAddrFromAddrPort(socket.VirtualAddr(friend)))
		require.NoError(t, err, "still known")
		release()
		known := 0
		for n := 302; n < 480; n++ {
			key := ed25519.NewKeyFromSeed(append(make([]byte, 30), byte(n>>8), byte(n)))
			if _, r, err := a.Pin(net.UDPAddrFromAddrPort(socket.VirtualAddr(relay.Key(key.Public().(ed25519.PublicKey))))); err == nil {
				known++
				r()
			}
		}
		require.Equal(t, 64, known)
		for n := 1000; n < 1500; n++ { // all at once: most are not even opened
			box(n)
		}
		require.Positive(t, a.Stats().RateLimited)
	})
}

// A link that goes down moves the data to the other relay; both down and one
// back, it goes on there.
func TestLinksComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, aKey := w.socket(t, 1, relayOne, relayTwo)
		b, bKey := w.socket(t, 2, relayOne, relayTwo)
		addr, release, err := b.Dial(aKey)
		require.NoError(t, err)
		defer release()
		back, release2, err := a.Dial(bKey)
		require.NoError(t, err)
		defer release2()
		say := func(text string) {
			t.Helper()
			_, err := b.WriteTo([]byte(text), addr)
			require.NoError(t, err)
			got, _ := read(t, a)
			for got != text { // an earlier one may have been sent twice
				got, _ = read(t, a)
			}
			_, err = a.WriteTo([]byte(text), back)
			require.NoError(t, err)
			got, _ = read(t, b)
			for got != text {
				got, _ = read(t, b)
			}
		}
		down := func(k relay.Key, is bool) {
			w.mu.Lock()
			w.down[k] = is
			w.mu.Unlock()
			for _, s := range []*socket.Socket{a, b} {
				if is {
					s.LinkDown(k)
				} else {
					s.LinkUp(k)
				}
			}
		}
		say("one")
		time.Sleep(time.Second)
		first, _, _, ok := b.Path(aKey)
		require.True(t, ok)
		down(first.Relay, true)
		say("two")
		second, _, _, ok := b.Path(aKey)
		require.True(t, ok)
		require.NotEqual(t, first, second)
		down(second.Relay, true)
		_, _, _, ok = b.Path(aKey)
		require.False(t, ok)
		time.Sleep(3 * time.Second)
		down(first.Relay, false)
		say("three")
	})
}

// A peer that is of no interest any more costs nothing: it is forgotten, and
// nothing is sent (PATH-17).
func TestPATH17ColdPeersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, aKey := w.socket(t, 1, relayOne)
		b, bKey := w.socket(t, 2, relayOne)
		addr, release, err := b.Dial(aKey)
		require.NoError(t, err)
		_, err = b.WriteTo(make([]byte, 100), addr)
		require.NoError(t, err)
		read(t, a)
		release()
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		before := w.sent[relay.FrameDisco]
		w.mu.Unlock()
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		require.Equal(t, before, w.sent[relay.FrameDisco])
		w.mu.Unlock()
		_, _, err = a.Pin(net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey)))
		require.Error(t, err)
	})
}

// Loop comes back over a relay that delivers, and waits while none does.
func TestPATH35Loop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, _ := w.socket(t, 1, relayOne)
		require.NoError(t, a.Loop(t.Context(), relayOne))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		require.ErrorIs(t, a.Loop(ctx, relayTwo), context.DeadlineExceeded)
	})
}

// Deadlines and Close wake a reader, as QUIC expects.
func TestReadsAreWoken(t *testing.T) {
	w := newWorld(t)
	a, _ := w.socket(t, 1, relayOne)
	errs := make(chan error)
	go func() {
		_, _, err := a.ReadFrom(make([]byte, 10))
		errs <- err
	}()
	require.NoError(t, a.SetReadDeadline(time.Now()))
	require.ErrorIs(t, <-errs, os.ErrDeadlineExceeded)
	require.NoError(t, a.SetReadDeadline(time.Time{}))
	go func() {
		_, _, err := a.ReadFrom(make([]byte, 10))
		errs <- err
	}()
	require.NoError(t, a.Close())
	require.ErrorIs(t, <-errs, net.ErrClosed)
	require.NoError(t, a.Close())
}

// A peer that was dialled in vain, with no relay to try, is forgotten too.
func TestPATH17DialledInVainIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, _ := w.socket(t, 1)
		_, nobody := keyPair(7)
		_, release, err := a.Dial(nobody)
		require.NoError(t, err)
		release()
		time.Sleep(5 * time.Minute)
		_, _, err = a.Pin(net.UDPAddrFromAddrPort(socket.VirtualAddr(nobody)))
		require.Error(t, err)
	})
}
