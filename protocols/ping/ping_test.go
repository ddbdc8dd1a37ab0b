package ping_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/ping"
)

// serve runs a Handler on one end of a session and returns the other; the
// channel has what Handle returned.
func serve(ctx context.Context, config ping.Config) (protocols.Connection, <-chan error) {
	near, far := protocols.Pipe(ping.ALPN)
	result := make(chan error, 1)
	go func() {
		result <- ping.NewHandler(config).Handle(ctx, far, auth.Context{})
		_ = far.Close(0, "handler returned")
	}()
	return near, result
}

func stop(t *testing.T, conn protocols.Connection, result <-chan error) {
	t.Helper()
	require.NoError(t, conn.Close(0, "done"))
	require.ErrorIs(t, <-result, protocols.ErrConnectionClosed)
}

func TestPing(t *testing.T) {
	conn, result := serve(t.Context(), ping.Config{})
	p, err := ping.NewPinger(t.Context(), conn)
	require.NoError(t, err)
	for range 20 {
		rtt, err := p.Ping(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, rtt, time.Duration(0))
	}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := p.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	p.Close()
	p.Close()
	_, err = p.Ping(t.Context())
	require.ErrorIs(t, err, protocols.ErrStreamClosed)
	stop(t, conn, result)
}

// peer answers the pings of one stream as answer says: how long after, and
// whether at all.
func peer(t *testing.T, conn protocols.Connection, answer func(n int) (time.Duration, bool)) {
	st, err := conn.AcceptStream(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	frame := make([]byte, 10)
	for n := 0; ; n++ {
		if _, err := io.ReadFull(st, frame); err != nil {
			_ = st.Close()
			return
		}
		delay, ok := answer(n)
		time.Sleep(delay)
		if !ok {
			continue
		}
		frame[1] = 2
		if _, err := st.Write(frame); err != nil {
			return
		}
	}
}

func TestPingMeasuresAndOutlivesLostReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := protocols.Pipe(ping.ALPN)
		go peer(t, far, func(n int) (time.Duration, bool) {
			switch n {
			case 0:
				return 30 * time.Millisecond, true
			case 1:
				return 0, false // never answered
			case 2:
				return 3 * time.Second, true // answered too late
			default:
				return 40 * time.Millisecond, true
			}
		})
		p, err := ping.NewPinger(t.Context(), near)
		require.NoError(t, err)
		rtt, err := p.Ping(t.Context())
		require.NoError(t, err)
		require.Equal(t, 30*time.Millisecond, rtt)
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = p.Ping(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		// The late answer, 2 s from now, is not taken for this one's.
		rtt, err = p.Ping(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2*time.Second+40*time.Millisecond, rtt)
		p.Close()
		require.NoError(t, near.Close(0, "done"))
	})
}

func TestPingBoundsPingsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := protocols.Pipe(ping.ALPN)
		p, err := ping.NewPinger(t.Context(), near)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				if _, err := p.Ping(ctx); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, err = p.Ping(t.Context())
		require.ErrorContains(t, err, "under way")
		cancel()
		all.Wait()
		p.Close()
		require.NoError(t, far.Close(protocols.CodeShutdown, "done"))
	})
}

func TestPingFailsForGood(t *testing.T) {
	for name, c := range map[string]struct {
		misbehave func(st protocols.Stream)
		want      string
	}{
		"reset":      {func(st protocols.Stream) { _ = st.Reset(protocols.CodeOverloaded) }, "stream reset by the peer (code 41002)"},
		"end":        {func(st protocols.Stream) { _ = st.CloseWrite() }, "stream closed by the peer"},
		"version":    {func(st protocols.Stream) { _, _ = st.Write([]byte{9, 2, 0, 0, 0, 0, 0, 0, 0, 0}) }, "version 9"},
		"kind":       {func(st protocols.Stream) { _, _ = st.Write([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0}) }, "kind 1"},
		"cut frame":  {func(st protocols.Stream) { _, _ = st.Write([]byte{1, 2, 0}); _ = st.CloseWrite() }, "stream closed by the peer"},
		"connection": {nil, "session closed"},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := protocols.Pipe(ping.ALPN)
			p, err := ping.NewPinger(t.Context(), near)
			require.NoError(t, err)
			st, err := far.AcceptStream(t.Context())
			require.NoError(t, err)
			if c.misbehave != nil {
				c.misbehave(st)
			} else {
				require.NoError(t, near.Close(0, "test"))
			}
			_, err = p.Ping(t.Context())
			require.ErrorContains(t, err, c.want)
			_, again := p.Ping(t.Context())
			require.Equal(t, err, again)
			p.Close()
			require.NoError(t, near.Close(protocols.CodeAborted, "done"))
		})
	}
}

// The answering side reads more slowly once the rate is used up.
func TestHandlerBoundsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, result := serve(t.Context(), ping.Config{Rate: 10})
		p, err := ping.NewPinger(t.Context(), conn)
		require.NoError(t, err)
		begin := time.Now()
		for range 10 {
			_, err := p.Ping(t.Context())
			require.NoError(t, err)
		}
		require.Zero(t, time.Since(begin), "a burst passes")
		for range 20 {
			_, err := p.Ping(t.Context())
			require.NoError(t, err)
		}
		require.InDelta(t, 2*time.Second, time.Since(begin), float64(time.Millisecond))
		p.Close()
		stop(t, conn, result)
	})
}

func TestHandlerBoundsStreams(t *testing.T) {
	conn, result := serve(t.Context(), ping.Config{Streams: 1})
	first, err := ping.NewPinger(t.Context(), conn)
	require.NoError(t, err)
	_, err = first.Ping(t.Context())
	require.NoError(t, err)
	second, err := ping.NewPinger(t.Context(), conn)
	require.NoError(t, err)
	_, err = second.Ping(t.Context())
	var reset *protocols.StreamResetError
	require.ErrorAs(t, err, &reset)
	require.Equal(t, protocols.CodeOverloaded, reset.Code)
	_, err = first.Ping(t.Context())
	require.NoError(t, err)
	first.Close()
	second.Close()
	stop(t, conn, result)
}

func TestHandlerClosesIdleStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, result := serve(t.Context(), ping.Config{})
		st, err := conn.OpenStream(t.Context())
		require.NoError(t, err)
		begin := time.Now()
		_, err = st.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, 5*time.Minute, time.Since(begin))
		require.NoError(t, st.Close())
		stop(t, conn, result)
	})
}

func TestHandlerResetsViolations(t *testing.T) {
	for name, frame := range map[string][]byte{
		"version": {2, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"pong":    {1, 2, 0, 0, 0, 0, 0, 0, 0, 0},
		"cut":     {1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			conn, result := serve(t.Context(), ping.Config{})
			st, err := conn.OpenStream(t.Context())
			require.NoError(t, err)
			_, err = st.Write(frame)
			require.NoError(t, err)
			if name == "cut" { // the others are whole: their reset may come before a CloseWrite
				require.NoError(t, st.CloseWrite())
			}
			_, err = st.Read(make([]byte, 1))
			var reset *protocols.StreamResetError
			require.ErrorAs(t, err, &reset)
			require.Equal(t, protocols.StreamResetError{Code: protocols.CodeProtocolViolation, Remote: true}, *reset)

			p, err := ping.NewPinger(t.Context(), conn)
			require.NoError(t, err)
			_, err = p.Ping(t.Context())
			require.NoError(t, err, "the session goes on")
			p.Close()
			stop(t, conn, result)
		})
	}
}

// NODE-14: a draining node does not wait for its pingers.
func TestNODE14HandlerReturnsOnDrain(t *testing.T) {
	draining := make(chan struct{})
	conn, result := serve(protocols.WithDraining(t.Context(), draining), ping.Config{})
	p, err := ping.NewPinger(t.Context(), conn)
	require.NoError(t, err)
	_, err = p.Ping(t.Context())
	require.NoError(t, err)
	close(draining)
	require.NoError(t, <-result)
	_, err = p.Ping(t.Context())
	require.Error(t, err)
	p.Close()
	require.NoError(t, conn.Close(0, "done"))
}

// Whatever bytes come, the handler ends and the session is whole.
func FuzzHandler(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 1})
	f.Add([]byte{1, 2, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 500)] // below the rate's burst
		conn, result := serve(t.Context(), ping.Config{})
		st, err := conn.OpenStream(t.Context())
		require.NoError(t, err)
		_, _ = st.Write(b)
		_ = st.CloseWrite()
		answer, err := io.ReadAll(st)
		var reset *protocols.StreamResetError
		require.True(t, err == nil || errors.As(err, &reset) && reset.Code == protocols.CodeProtocolViolation, err)
		if err == nil {
			require.Len(t, answer, len(b))
		}
		require.NoError(t, st.Close())
		stop(t, conn, result)
	})
}
