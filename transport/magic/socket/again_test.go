package socket_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// recorder is a relay that keeps what it is given and forwards nothing.
type recorder struct {
	mu    sync.Mutex
	data  int
	boxes [][]byte
}

func (r *recorder) Live() []relay.Key                       { return []relay.Key{relayOne} }
func (r *recorder) Ensure(context.Context, relay.Key) error { return nil }

func (r *recorder) Send(_, _ relay.Key, kind relay.FrameType, _ byte, payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kind == relay.FrameData {
		r.data++
	} else {
		r.boxes = append(r.boxes, append([]byte(nil), payload...))
	}
	return nil
}

func (r *recorder) sent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data
}

// PATH-18: what is sent again as soon as a ping is answered may come to the peer
// before it takes packets from there, and is lost like those before. It is sent
// once more when the peer is heard; QUIC itself would wait for seconds.
func TestPATH18SentAgainWhenThePeerIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		priv, aKey := keyPair(1)
		a, err := socket.New(socket.Config{Key: priv, Relays: r})
		require.NoError(t, err)
		defer a.Close()
		bPriv, bKey := keyPair(2)
		e := newEnemy(t, bPriv, aKey) // of good will
		say := func(m disco.Message) { a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(m)) }
		answer := func() { // what was asked last
			r.mu.Lock()
			boxes := r.boxes
			r.boxes = nil
			r.mu.Unlock()
			for _, box := range slices.Backward(boxes) {
				if m, err := e.id.Open(aKey, box); err == nil {
					if ping, ok := m.(disco.Ping); ok {
						say(disco.Pong{TxID: ping.TxID, BootID: e.boot})
						return
					}
				}
			}
			t.Fatal("nothing was asked")
		}
		say(e.ping())
		time.Sleep(10 * time.Millisecond)
		answer()
		time.Sleep(10 * time.Millisecond)
		addr := net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey))
		_, err = a.WriteTo([]byte("\x40lost"), addr)
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
