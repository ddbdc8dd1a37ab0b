package magic_test

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic"
)

// PATH-18: what a quiet stream lost is sent again before what a busy one lost
// together with it.
func TestPATH18QuietStreamsAreMendedFirst(t *testing.T) {
	h := newHub(t)
	a, _ := h.newHost(t)
	b, _ := h.newHost(t)
	var got atomic.Int64        // of the transfer
	said := make(chan int64, 1) // what of it had arrived before the quiet stream's word
	a.SetStreamHandler("/transfer", func(s network.Stream) {
		for buf := make([]byte, 32<<10); ; {
			n, err := s.Read(buf)
			got.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	word := bytes.Repeat([]byte("w"), 600) // too large to be sent again by the socket
	a.SetStreamHandler("/quiet", func(s network.Stream) {
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			return
		}
		if _, err := io.ReadFull(s, make([]byte, len(word))); err != nil {
			return
		}
		said <- got.Load()
	})
	b.Peerstore().AddAddr(a.ID(), magic.Addr, peerstore.TempAddrTTL)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	quiet, err := b.NewStream(ctx, a.ID(), "/quiet")
	require.NoError(t, err)
	_, err = quiet.Write([]byte{0})
	require.NoError(t, err)
	transfer, err := b.NewStream(ctx, a.ID(), "/transfer")
	require.NoError(t, err)
	var sent atomic.Int64
	var slow atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 4<<10); ; {
			n, err := transfer.Write(buf)
			sent.Add(int64(n))
			if err != nil {
				return
			}
			// Nothing is lost but in the dark, where all that is sent fits into the
			// congestion window.
			for !slow.Load() && sent.Load()-got.Load() > 256<<10 {
				time.Sleep(time.Millisecond)
			}
			if slow.Load() {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	defer func() {
		_ = transfer.Reset()
		<-done
	}()

	require.Eventually(t, func() bool { return got.Load() > 4<<20 }, 10*time.Second, time.Millisecond)
	slow.Store(true)
	require.Eventually(t, func() bool { return sent.Load()-got.Load() < 8<<10 }, 10*time.Second, 100*time.Microsecond)
	h.set(true, 0)
	begin := got.Load()
	untilLost := func(n int64) {
		require.Eventually(t, func() bool { return sent.Load()-begin > n }, 10*time.Second, time.Millisecond)
	}
	untilLost(8 << 10)
	_, err = quiet.Write(word)
	require.NoError(t, err)
	untilLost(24 << 10)
	lost := sent.Load() - begin
	h.set(false, 20*time.Millisecond) // so that it shows what comes first
	select {
	case now := <-said:
		t.Logf("%d of the %d lost bytes came before the word", now-begin, lost)
		require.Less(t, now-begin, lost*3/4)
	case <-ctx.Done():
		t.Fatal("the word never came")
	}
}
