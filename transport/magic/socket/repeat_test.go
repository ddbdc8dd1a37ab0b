package socket_test

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// PATH-18: a peer that asks over the path in use, in a silence that is too long
// for an answer but not for the path, was away: what it missed is sent again, once.
// In no such silence a ping is just answered.
func TestPATH18SentAgainWhenThePeerAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, e, aKey, bKey := recorded(t)
		defer a.Close()
		say := func(m disco.Message) { a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(m)) }
		answer := func() {
			r.mu.Lock()
			boxes := r.boxes
			r.boxes = nil
			r.mu.Unlock()
			for _, box := range boxes {
				if m, err := e.id.Open(aKey, box); err == nil {
					if ping, ok := m.(disco.Ping); ok {
						say(disco.Pong{TxID: ping.TxID, BootID: e.boot})
					}
				}
			}
		}
		say(e.ping())
		for range 30 { // the round trip settles at 24 ms: the limit is 102 ms or more
			time.Sleep(24 * time.Millisecond)
			answer()
		}
		send := func() {
			_, err := a.WriteTo([]byte("\x40lost"), net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey)))
			require.NoError(t, err)
		}
		a.Receive(relayOne, bKey, relay.FrameData, 0, []byte("\x40heard"))
		send()
		time.Sleep(20 * time.Millisecond)
		before := r.sent()
		say(e.ping())
		require.Equal(t, before, r.sent(), "an answer may be under way")
		a.Receive(relayOne, bKey, relay.FrameData, 0, []byte("\x40heard"))
		send()
		time.Sleep(80 * time.Millisecond)
		before = r.sent()
		say(e.ping())
		again := r.sent()
		require.Greater(t, again, before)
		send()
		before = r.sent()
		say(e.ping())
		require.Equal(t, before, r.sent(), "once")
	})
}
