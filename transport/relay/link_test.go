package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/stretchr/testify/require"
)

func TestPATH28IdleLinkPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		s, _ := w.wire(key(1), 10*time.Millisecond)
		l, in := w.linkOn(s)
		time.Sleep(time.Hour)
		require.Equal(t, relay.StateUp, l.State())
		require.Equal(t, 20*time.Millisecond, l.RTT())
		none(t, in.states)
	})
}

func TestPATH28IdleBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		s, m := w.wire(key(1), time.Millisecond)
		defer m.cut()
		l, in := w.linkOn(s)
		time.Sleep(7 * time.Second) // in the middle between two pings
		m.hole.Store(true)
		start := time.Now()
		require.Equal(t, relay.StateSuspect, get(t, in.states))
		require.LessOrEqual(t, time.Since(start), 6*time.Second)
		require.Equal(t, relay.StateDead, get(t, in.states))
		require.LessOrEqual(t, time.Since(start), 7*time.Second)
		<-l.Done()
		require.ErrorIs(t, l.Err(), relay.ErrSilent)
		require.ErrorIs(t, l.Send(key(2), relay.FrameData, 0, nil), relay.ErrSilent)
	})
}

func TestPATH28BlackHoleUnderTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		s, m := w.wire(key(1), time.Millisecond)
		defer m.cut()
		l, in := w.linkOn(s)
		_, inB := w.link(key(2))
		for range 30 { // the peer never answers, the relay does: nobody is suspected
			require.NoError(t, l.Send(key(2), relay.FrameData, 0, []byte("x")))
			time.Sleep(100 * time.Millisecond)
		}
		require.Len(t, inB.frames, 30)
		none(t, in.states)
		time.Sleep(time.Second)

		m.hole.Store(true)
		start := time.Now()
		require.NoError(t, l.Send(key(2), relay.FrameData, 0, []byte("x")))
		require.Equal(t, relay.StateSuspect, get(t, in.states))
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, l.Send(key(2), relay.FrameData, 0, []byte("x")))
		require.Equal(t, relay.StateDead, get(t, in.states))
		require.Equal(t, 2*time.Second, time.Since(start))
		require.ErrorIs(t, l.Err(), relay.ErrSilent)
	})
}

// A relay that takes no bytes at all is found the same way.
func TestPATH28StuckWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, end := net.Pipe()
		go greetAsRelay(t, end, nil)
		l, _, err := relay.NewLink(context.Background(), client, relay.LinkConfig{})
		require.NoError(t, err)
		start := time.Now()
		<-l.Done()
		require.Equal(t, 2*time.Second, time.Since(start))
		require.ErrorIs(t, l.Err(), relay.ErrSilent)
		require.NoError(t, l.Close())
	})
}

// greetAsRelay answers a Hello, then sends what is given.
func greetAsRelay(t *testing.T, s net.Conn, then []byte) {
	hello, err := relay.NewFrameReader(s).Greeting()
	if err != nil {
		t.Error("no hello:", err)
	}
	if _, err := relay.ParseHello(hello); err != nil {
		t.Error("no hello:", err)
	}
	raw, err := relay.AppendWelcome(nil, relay.Welcome{Version: relay.Version, Time: time.Now().UnixMilli()})
	if err != nil {
		t.Error(err)
	}
	if _, err := s.Write(append(raw, then...)); err != nil {
		t.Error(err)
	}
}

func TestPATH28SuspicionLifts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		s, m := w.wire(key(1), time.Millisecond)
		l, in := w.linkOn(s)
		_, _ = w.link(key(2))
		time.Sleep(time.Second)
		m.hole.Store(true)
		require.NoError(t, l.Send(key(2), relay.FrameData, 0, []byte("x")))
		time.Sleep(900 * time.Millisecond)
		m.hole.Store(false) // the ping at one second gets through
		require.Equal(t, relay.StateSuspect, get(t, in.states))
		require.Equal(t, relay.StateUp, get(t, in.states))
		time.Sleep(time.Minute)
		none(t, in.states)
		require.Equal(t, relay.StateUp, l.State())
	})
}

func TestProbeFindsDeadLinkAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		s, m := w.wire(key(1), time.Millisecond)
		defer m.cut()
		l, _ := w.linkOn(s)
		time.Sleep(time.Second)
		m.hole.Store(true)
		start := time.Now()
		l.Probe()
		<-l.Done()
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

func TestRTTFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		s, m := w.wire(key(1), 50*time.Millisecond)
		l, _ := w.linkOn(s)
		require.Equal(t, 100*time.Millisecond, l.RTT(), "from the greeting")
		time.Sleep(time.Second)
		m.delay.Store(int64(10 * time.Millisecond))
		time.Sleep(5 * time.Minute)
		require.InDelta(t, 20*time.Millisecond, l.RTT(), float64(time.Millisecond))
	})
}

// PATH-26: what waits at the client for 50 ms is not sent late.
func TestPATH26ClientQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, end := net.Pipe()
		go greetAsRelay(t, end, nil)
		l, _, err := relay.NewLink(context.Background(), client, relay.LinkConfig{})
		require.NoError(t, err)
		defer l.Close()
		synctest.Wait() // its writer hangs with the first ping
		for range 1000 {
			require.NoError(t, l.Send(key(2), relay.FrameData, 0, []byte("old")))
		}
		require.EqualValues(t, 1000-512, l.Dropped(), "no more wait than there is room for")
		time.Sleep(51 * time.Millisecond)
		require.NoError(t, l.Send(key(2), relay.FrameData, 0, []byte("new")))
		require.Equal(t, relay.FramePing, readFrame(t, end).Type)
		require.Equal(t, "new", string(readFrame(t, end).Payload))
		require.EqualValues(t, 1000, l.Dropped())
	})
}

func TestSendRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		l, _ := w.link(key(1))
		require.ErrorIs(t, l.Send(key(2), relay.FrameData, 0, make([]byte, relay.MaxPayload+1)), relay.ErrFrame)
		require.ErrorIs(t, l.Send(key(2), relay.FrameGoAway, 0, nil), relay.ErrFrame)
		require.NoError(t, l.Err())
		require.NoError(t, l.Close())
		require.NoError(t, l.Close())
		require.ErrorIs(t, l.Send(key(2), relay.FrameData, 0, nil), net.ErrClosed)
		require.ErrorIs(t, l.Err(), relay.ErrClosed)
		require.Equal(t, "dead", l.State().String())
	})
}

// Send takes a copy.
func TestSendCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		a, _ := w.link(key(1))
		_, in := w.link(key(2))
		b := []byte("first")
		require.NoError(t, a.Send(key(2), relay.FrameData, 0, b))
		copy(b, "XXXXX")
		require.Equal(t, "first", get(t, in.frames).payload)
	})
}

func TestGreetingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(ctx context.Context, answer func(net.Conn)) error {
			client, end := net.Pipe()
			defer end.Close()
			go answer(end)
			l, _, err := relay.NewLink(ctx, client, relay.LinkConfig{})
			require.Nil(t, l)
			require.Error(t, err)
			_, closed := client.Write([]byte("x"))
			require.Error(t, closed, "the stream is closed")
			return err
		}
		ctx := context.Background()
		start := time.Now()
		require.Error(t, dial(ctx, func(s net.Conn) { _, _ = io.Copy(io.Discard, s) }))
		require.Equal(t, 10*time.Second, time.Since(start))

		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		require.ErrorIs(t, dial(short, func(s net.Conn) { _, _ = io.Copy(io.Discard, s) }), context.DeadlineExceeded)

		require.ErrorIs(t, dial(ctx, func(s net.Conn) {
			_, _ = relay.NewFrameReader(s).Greeting()
			_, _ = s.Write([]byte(text("{")))
		}), relay.ErrFrame)
		require.ErrorIs(t, dial(ctx, func(s net.Conn) {
			_, _ = relay.NewFrameReader(s).Greeting()
			_ = s.Close()
		}), io.ErrUnexpectedEOF)
		requireGoAway(t, dial(ctx, func(s net.Conn) {
			_, _ = relay.NewFrameReader(s).Greeting()
			_, _ = s.Write([]byte(text(`{"version":1,"time":0,"refused":4}`)))
		}), relay.GoAwayDenied)
	})
}

// A relay that breaks the protocol ends its link, and nothing else.
func TestHostileRelay(t *testing.T) {
	for name, raw := range map[string][]byte{
		"length zero":    {0, 0, 0},
		"short ping":     frame(t, relay.Frame{Type: relay.FramePing, Payload: []byte("1234567")}),
		"empty go away":  frame(t, relay.Frame{Type: relay.FrameGoAway}),
		"odd rate hint":  frame(t, relay.Frame{Type: relay.FrameRateHint, Payload: []byte("1234567")}),
		"cut short":      {0, 40, 1},
		"payload length": append([]byte{0xff, 0xff, 1}, make([]byte, 100)...),
	} {
		synctest.Test(t, func(t *testing.T) {
			client, end := net.Pipe()
			go func() {
				greetAsRelay(t, end, raw)
				if name == "cut short" {
					_, _ = end.Read(make([]byte, 100)) // the link's ping
					_ = end.Close()
				}
			}()
			l, _, err := relay.NewLink(context.Background(), client, relay.LinkConfig{})
			require.NoError(t, err, name)
			<-l.Done()
			require.True(t, errors.Is(l.Err(), relay.ErrFrame) || name == "cut short" && errors.Is(l.Err(), io.ErrUnexpectedEOF), "%s: %v", name, l.Err())
			require.NoError(t, l.Close())
		})
	}
}

// What a relay may send without harm: pings, pongs nobody asked for, unknown
// types and reasons.
func TestOddRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, end := net.Pipe()
		var odd []byte
		odd = append(odd, frame(t, relay.Frame{Type: relay.FramePong, Payload: []byte("12345678")})...)
		odd = append(odd, frame(t, relay.Frame{Type: relay.FramePong})...)
		odd = append(odd, frame(t, relay.Frame{Type: 77, Payload: []byte("?")})...)
		odd = append(odd, frame(t, relay.Frame{Type: relay.FramePing, Payload: []byte("12345678")})...)
		go greetAsRelay(t, end, odd)
		l, _, err := relay.NewLink(context.Background(), client, relay.LinkConfig{})
		require.NoError(t, err)
		defer l.Close()
		for {
			if f := readFrame(t, end); f.Type == relay.FramePong {
				require.Equal(t, "12345678", string(f.Payload))
				break
			}
		}
		write(t, end, frame(t, relay.Frame{Type: relay.FrameGoAway, Payload: []byte{99, 1}}))
		<-l.Done()
		requireGoAway(t, l.Err(), 99)
		require.Equal(t, "relay says go away: reason 99", l.Err().Error())
	})
}
