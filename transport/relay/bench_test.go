package relay_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/stretchr/testify/require"
)

// tcpLink connects a client over loopback.
func tcpLink(t testing.TB, wg *sync.WaitGroup, server *relay.Server, k relay.Key, cfg relay.LinkConfig) *relay.Link {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	wg.Go(func() {
		if c, err := ln.Accept(); err == nil {
			_ = server.Serve(context.Background(), c, k, c.RemoteAddr().String())
		}
	})
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	l, _, err := relay.NewLink(context.Background(), c, cfg)
	require.NoError(t, err)
	return l
}

// Real streams: two clients, the relay closes, both hear why.
func TestOverTCP(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	server := relay.NewServer(relay.ServerConfig{})
	defer server.Close()
	in := newInbox()
	a := tcpLink(t, &wg, server, key(1), relay.LinkConfig{BootID: boot(1)})
	defer a.Close()
	b := tcpLink(t, &wg, server, key(2), in.config())
	defer b.Close()
	require.NoError(t, a.Send(key(2), relay.FrameData, 0, []byte("over TCP")))
	require.Equal(t, "over TCP", get(t, in.frames).payload)

	// However much it is sending at that moment.
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = a.Send(key(2), relay.FrameDisco, 0, make([]byte, 1000))
			}
		}
	})
	newer := tcpLink(t, &wg, server, key(1), relay.LinkConfig{BootID: boot(2)})
	defer newer.Close()
	<-a.Done()
	close(stop)
	flood.Wait()
	requireGoAway(t, a.Err(), relay.GoAwayDuplicate)

	start := time.Now()
	require.NoError(t, server.Close())
	require.Less(t, time.Since(start), 900*time.Millisecond, "clients that go at once are not waited for")
	<-b.Done()
	requireGoAway(t, b.Err(), relay.GoAwayDraining)
}

// BenchmarkRelay sends packets from one client to another through a relay.
func BenchmarkRelay(b *testing.B) {
	for _, size := range []int{64, 1232} {
		b.Run(map[int]string{64: "64B", 1232: "1232B"}[size], func(b *testing.B) {
			var wg sync.WaitGroup
			defer wg.Wait()
			server := relay.NewServer(relay.ServerConfig{Rate: relay.NoLimit})
			defer server.Close()
			arrived := make(chan struct{}, 1<<16)
			src := tcpLink(b, &wg, server, key(1), relay.LinkConfig{})
			defer src.Close()
			dst := tcpLink(b, &wg, server, key(2), relay.LinkConfig{
				OnFrame: func(relay.Key, relay.FrameType, byte, []byte) { arrived <- struct{}{} },
			})
			defer dst.Close()

			// A window of packets under way, as a congestion controller keeps.
			payload := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			inFlight := 0
			lost := time.NewTimer(time.Hour)
			for b.Loop() {
				if inFlight == 256 {
					lost.Reset(time.Second)
					select {
					case <-arrived:
					case <-lost.C:
					}
					inFlight--
				}
				if err := src.Send(key(2), relay.FrameData, 0, payload); err != nil {
					b.Fatal(err)
				}
				inFlight++
			}
			b.ReportMetric(float64(server.Stats().DroppedFull+server.Stats().DroppedOld+src.Dropped()), "lost")
		})
	}
}
