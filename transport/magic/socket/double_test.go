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

// PATH-18: what is doubled over a relay that limits us leaves others a part of that,
// however fast the transfer is; small packets pass.
func TestPATH18DoublesLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, e, aKey, bKey := recorded(t)
		defer a.Close()
		for _, via := range []relay.Key{relayOne, relayTwo} {
			say := func(m disco.Message) { a.Receive(via, bKey, relay.FrameDisco, 0, e.box(m)) }
			say(e.ping())
			time.Sleep(10 * time.Millisecond)
			say(r.answer(t, e, aKey))
		}
		a.SetLimits(relayTwo, relay.DefaultRate, relay.DefaultBurst)
		addr := net.UDPAddrFromAddrPort(socket.VirtualAddr(bKey))
		send := func(size int) {
			_, err := a.WriteTo(append([]byte{0x40}, make([]byte, size-1)...), addr)
			require.NoError(t, err)
		}
		a.Receive(relayTwo, bKey, relay.FrameData, 0, []byte("\x40from elsewhere"))
		const large, small = 4000, 100
		for range large {
			send(1200)
		}
		require.GreaterOrEqual(t, r.over[relayOne], large*1200)
		doubled := r.over[relayTwo]
		require.Greater(t, doubled, relay.DefaultBurst/3)
		require.Less(t, doubled, relay.DefaultBurst*2/3)
		for range small {
			send(100)
		}
		require.Equal(t, doubled+small*100, r.over[relayTwo])
		a.SetLimits(relayTwo, 0, 0)
		send(1200)
		require.Equal(t, doubled+small*100+1200, r.over[relayTwo], "the relay has no limit")
	})
}
