package relay_test

import (
	"testing"
	"testing/synctest"

	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/stretchr/testify/require"
)

// PATH-25
func TestPATH25TwoClientsExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		a, inA := w.link(key(1), nil)
		b, inB := w.link(key(2), nil)

		require.NoError(t, a.Send(key(2), relay.FrameData, 2, []byte("to b")))
		require.Equal(t, received{key(1), relay.FrameData, 2, "to b"}, get(t, inB.frames))
		require.NoError(t, b.Send(key(1), relay.FrameDisco, 0, []byte("to a")))
		require.Equal(t, received{key(2), relay.FrameDisco, 0, "to a"}, get(t, inA.frames))
	})
}
