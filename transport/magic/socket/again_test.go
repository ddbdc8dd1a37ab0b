package socket_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// recorder is a relay that keeps what it is given and forwards nothing.
type recorder struct {
	mu    sync.Mutex
	data  int
	boxes [][]byte
	last  [][]byte          // data since [recorder.forget]
	over  map[relay.Key]int // bytes of data
}

func (r *recorder) Live() []relay.Key                       { return []relay.Key{relayOne} }
func (r *recorder) Ensure(context.Context, relay.Key) error { return nil }

func (r *recorder) Send(via, _ relay.Key, kind relay.FrameType, _ byte, payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kind == relay.FrameData {
		r.data++
		if r.over == nil {
			r.over = make(map[relay.Key]int)
		}
		r.over[via] += len(payload)
		r.last = append(r.last, append([]byte(nil), payload...))
	} else {
		r.boxes = append(r.boxes, append([]byte(nil), payload...))
	}
	return nil
}

// forget empties what is in last, and returns it.
func (r *recorder) forget() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.last
	r.last = nil
	return last
}

func (r *recorder) sent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data
}

// recorded is a socket whose relays only record, and a peer of good will. The
// caller closes the socket.
func recorded(t *testing.T) (r *recorder, a *socket.Socket, e *enemy, aKey, bKey relay.Key) {
	t.Helper()
	r = &recorder{}
	priv, aKey := keyPair(1)
	a, err := socket.New(socket.Config{Key: priv, Relays: r})
	require.NoError(t, err)
	bPriv, bKey := keyPair(2)
	return r, a, newEnemy(t, bPriv, aKey), aKey, bKey
}

// PATH-18: what is sent again as soon as a ping is answered may come to the peer
// before it takes packets from there, and is lost like those before. It is sent
// once more when the peer is heard; QUIC itself would wait for seconds.
func TestPATH18SentAgainWhenThePeerIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, e, aKey, bKey := recorded(t)
		defer a.Close()
		say := func(m disco.Message) { a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(m)) }
		answer := func() { say(r.answer(t, e, aKey)) }
		say(e.ping())
		time.Sleep(10 * time.Millisecond)
		answer()
		time.Sleep(10 * time.Millisecond)
		addr := net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey))
		_, err := a.WriteTo([]byte("\x40lost"), addr)
		require.NoError(t, err)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		before := r.sent()
		answer()
		again := r.sent()
		require.Greater(t, again, before, "as soon as there is a path")
		a.Receive(relayOne, bKey, relay.FrameData, 0, []byte("\x40heard"))
		require.Greater(t, r.sent(), again, "and when the peer is heard over it")
		again = r.sent()
		a.Receive(relayOne, bKey, relay.FrameData, 0, []byte("\x40heard"))
		require.Equal(t, again, r.sent(), "once")
	})
}

// answer is the answer to what was asked last.
func (r *recorder) answer(t *testing.T, e *enemy, asker relay.Key) disco.Message {
	t.Helper()
	r.mu.Lock()
	boxes := r.boxes
	r.boxes = nil
	r.mu.Unlock()
	for _, box := range slices.Backward(boxes) {
		if m, err := e.id.Open(asker, box); err == nil {
			if ping, ok := m.(disco.Ping); ok {
				return disco.Pong{TxID: ping.TxID, BootID: e.boot}
			}
		}
	}
	t.Fatal("nothing was asked")
	return nil
}

// PATH-18: of what was lost, small packets are sent again although many large
// ones were sent since, in their order and before the last large ones: QUIC
// sends what they carry after all that was lost of other streams.
func TestPATH18SmallPacketsAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, e, aKey, bKey := recorded(t)
		defer a.Close()
		for _, via := range []relay.Key{relayOne, relayTwo} {
			say := func(m disco.Message) { a.Receive(via, bKey, relay.FrameDisco, 0, e.box(m)) }
			say(e.ping())
			time.Sleep(10 * time.Millisecond)
			say(r.answer(t, e, aKey))
		}
		addr := net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey))
		send := func(n byte, size int) {
			_, err := a.WriteTo(append([]byte{0x40, n}, make([]byte, size-2)...), addr)
			require.NoError(t, err)
		}
		for n := byte(1); n < 40; n++ {
			send(n, 1200)
			if n%10 == 0 {
				send(n, 40)
			}
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		r.forget()
		a.LinkDown(relayOne)
		var small, large []byte
		for _, b := range r.forget() {
			if len(b) == 40 {
				require.Empty(t, large)
				small = append(small, b[1])
			} else {
				large = append(large, b[1])
			}
		}
		require.Equal(t, []byte{10, 20, 30}, small)
		require.Equal(t, []byte{32, 33, 34, 35, 36, 37, 38, 39}, large)
	})
}

// PATH-17: a peer that speaks again is not forgotten at that moment, however long
// it was quiet.
func TestPATH17WhoSpeaksIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, e, aKey, bKey := recorded(t)
		defer a.Close()
		say := func(m disco.Message) { a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(m)) }
		say(e.ping())
		say(r.answer(t, e, aKey))
		for range 20 {
			say(e.ping())
			synctest.Wait()
			_, _, _, known := a.Path(bKey)
			require.True(t, known)
			time.Sleep(10 * time.Second)
		}
		time.Sleep(2 * time.Minute)
		_, _, _, known := a.Path(bKey)
		require.False(t, known, "it is, once it is quiet")
	})
}

// PATH-16: a CallMeMaybe is answered with our addresses over the relay it came by,
// even if it is the first that is heard of the peer.
func TestPATH16FirstCallMeMaybeIsAnswered(t *testing.T) {
	r := &recorder{}
	priv, aKey := keyPair(1)
	a, err := socket.New(socket.Config{
		Key: priv, Relays: r, UDP: []*udp.Conn{outsider(t)}, Disclose: func(relay.Key) bool { return true },
	})
	require.NoError(t, err)
	defer a.Close()
	own := []netip.AddrPort{netip.MustParseAddrPort("31.21.0.3:4000")}
	a.SetAddrs(own)
	bPriv, bKey := keyPair(2)
	e := newEnemy(t, bPriv, aKey)
	a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{TxID: disco.NewTxID(), BootID: e.boot, Addrs: own}))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, box := range r.boxes {
		if m, err := e.id.Open(aKey, box); err == nil {
			if call, ok := m.(disco.CallMeMaybe); ok {
				require.Equal(t, own, call.Addrs)
				return
			}
		}
	}
	t.Fatal("no answer")
}
