package protocols_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// joined are the two sides of one session, however it came about.
type joined struct {
	near, far protocols.Connection
}

// overSessions runs a test over an in-memory pair and over libp2p.
func overSessions(t *testing.T, test func(t *testing.T, s joined)) {
	t.Run("pipe", func(t *testing.T) {
		near, far := protocols.Pipe(alpnA)
		t.Cleanup(func() { _ = near.Close(protocols.CodeAborted, "test over") })
		test(t, joined{near, far})
	})
	for name := range transports {
		t.Run(name, func(t *testing.T) {
			a, b := newHost(t, name), newHost(t, name)
			a.know(b)
			b.know(a)
			serverB := record(idle(alpnA))
			ra := newRouter(t, a, nil, idle(alpnA))
			rb := newRouter(t, b, nil, serverB)
			near, err := ra.Open(t.Context(), b.ID(), alpnA, "")
			require.NoError(t, err)
			_, err = rb.Open(t.Context(), a.ID(), alpnA, "")
			require.NoError(t, err)
			test(t, joined{near, receive(t, serverB.sessions).conn})
		})
	}
}

// streamPair opens a stream and has it accepted.
func (s joined) streamPair(t *testing.T) (near, far protocols.Stream) {
	t.Helper()
	near, err := s.near.OpenStream(t.Context())
	require.NoError(t, err)
	_, err = near.Write([]byte("!"))
	require.NoError(t, err)
	far, err = s.far.AcceptStream(t.Context())
	require.NoError(t, err)
	_, err = io.ReadFull(far, make([]byte, 1))
	require.NoError(t, err)
	return near, far
}

func TestStreamHalfClose(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		_, err := near.Write([]byte("question"))
		require.NoError(t, err)
		require.NoError(t, near.CloseWrite())
		require.NoError(t, near.CloseWrite())
		_, err = near.Write([]byte("more"))
		require.ErrorIs(t, err, protocols.ErrStreamClosed)

		got, err := io.ReadAll(far)
		require.NoError(t, err)
		require.Equal(t, "question", string(got))
		_, err = far.Write([]byte("answer"))
		require.NoError(t, err)
		require.NoError(t, far.Close())
		got, err = io.ReadAll(near)
		require.NoError(t, err)
		require.Equal(t, "answer", string(got))
		require.NoError(t, near.Close())
		require.NoError(t, near.Close())
	})
}

// More than any window goes both ways at once, and arrives whole.
func TestStreamCarriesMoreThanItsWindow(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		var all sync.WaitGroup
		for _, end := range []protocols.Stream{near, far} {
			all.Go(func() {
				if _, err := end.Write(data); err != nil {
					t.Error(err)
				}
				if err := end.CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() {
				got, err := io.ReadAll(end)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
		all.Wait()
		require.NoError(t, near.Close())
		require.NoError(t, far.Close())
	})
}

// NODE-7: a reset carries its code, one side as its own and one as the peer's.
func TestNODE7Reset(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		other, otherFar := s.streamPair(t)
		require.NoError(t, near.Reset(protocols.CodeProtocolViolation))
		require.NoError(t, near.Reset(protocols.CodeAborted))

		var reset *protocols.StreamResetError
		_, err := near.Read(make([]byte, 1))
		require.ErrorAs(t, err, &reset)
		require.Equal(t, protocols.StreamResetError{Code: protocols.CodeProtocolViolation}, *reset)
		_, err = far.Read(make([]byte, 1))
		require.ErrorAs(t, err, &reset)
		require.Equal(t, protocols.StreamResetError{Code: protocols.CodeProtocolViolation, Remote: true}, *reset)
		require.ErrorIs(t, err, protocols.ErrStreamClosed)
		require.NotErrorIs(t, err, protocols.ErrConnectionClosed)

		_, err = other.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(otherFar, make([]byte, 1))
		require.NoError(t, err, "other streams live")
	})
}

func TestNODE7Timeout(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		require.NoError(t, far.SetDeadline(time.Now().Add(-time.Second)))
		_, err := far.Read(make([]byte, 1))
		require.ErrorIs(t, err, protocols.ErrStreamTimeout)

		// A later deadline makes the stream good again.
		require.NoError(t, far.SetDeadline(time.Time{}))
		_, err = near.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(far, make([]byte, 1))
		require.NoError(t, err)

		// A read that waits is woken (NODE-6).
		woken := make(chan error, 1)
		go func() {
			_, err := far.Read(make([]byte, 1))
			woken <- err
		}()
		require.NoError(t, far.SetDeadline(time.Now().Add(-time.Second)))
		require.ErrorIs(t, receive(t, woken), protocols.ErrStreamTimeout)
	})
}

// NODE-64: Close returns at once and wakes a read that waits; what was written
// before arrives, and what the peer still writes does not fail.
func TestNODE64GracefulClose(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		data := bytes.Repeat([]byte("x"), 200_000)
		wrote := make(chan error, 1)
		go func() {
			_, err := far.Write(data)
			wrote <- err
		}()
		_, err := io.ReadFull(near, make([]byte, 1))
		require.NoError(t, err)
		_, err = near.Write([]byte("bye"))
		require.NoError(t, err)

		require.NoError(t, near.Close())
		_, err = near.Read(make([]byte, 1))
		require.ErrorIs(t, err, protocols.ErrStreamClosed)
		_, err = near.Write([]byte("x"))
		require.ErrorIs(t, err, protocols.ErrStreamClosed)
		require.ErrorIs(t, near.SetDeadline(time.Time{}), protocols.ErrStreamClosed)

		require.NoError(t, receive(t, wrote), "the peer's pending write goes through")
		got, err := io.ReadAll(far)
		require.NoError(t, err)
		require.Equal(t, "bye", string(got))
		require.NoError(t, far.Close())
	})
}

func TestCloseWakesRead(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		woken := make(chan error, 1)
		started := make(chan struct{})
		go func() {
			close(started)
			_, err := near.Read(make([]byte, 1))
			woken <- err
		}()
		<-started
		require.NoError(t, near.Close())
		require.ErrorIs(t, receive(t, woken), protocols.ErrStreamClosed)
		got, err := io.ReadAll(far)
		require.NoError(t, err)
		require.Empty(t, got)
		require.NoError(t, far.Close())
	})
}

// A write that Close interrupts never looks like a whole message.
func TestCloseDuringWriteResets(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		wrote := make(chan error, 1)
		go func() {
			_, err := near.Write(make([]byte, 64<<20)) // beyond any window
			wrote <- err
		}()
		_, err := io.ReadFull(far, make([]byte, 1)) // it is under way
		require.NoError(t, err)
		require.NoError(t, near.Close())
		require.ErrorIs(t, receive(t, wrote), protocols.ErrStreamClosed)
		_, err = io.Copy(io.Discard, far)
		var reset *protocols.StreamResetError
		require.ErrorAs(t, err, &reset)
		require.Equal(t, protocols.StreamResetError{Code: protocols.CodeAborted, Remote: true}, *reset)
	})
}

// Closing a session with code 0 lets streams that were closed finish; with
// another code it cuts them off.
func TestSessionCloseAndClosingStreams(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		data := bytes.Repeat([]byte("x"), 200_000)
		sent := make(chan error, 1)
		go func() {
			_, err := near.Write(data)
			sent <- errors.Join(err, near.Close(), s.near.Close(0, "done"))
		}()
		got, err := io.ReadAll(far)
		require.NoError(t, err)
		require.Len(t, got, len(data))
		require.NoError(t, receive(t, sent))
		over(t, s.near)
		_, err = near.Read(make([]byte, 1))
		require.ErrorIs(t, err, protocols.ErrConnectionClosed)
		require.NoError(t, far.Close())
	})
}

func TestSessionCloseCutsClosingStreams(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		near, far := s.streamPair(t)
		require.NoError(t, near.Close()) // waits for far's end
		require.NoError(t, s.near.Close(0, "done"))
		require.NoError(t, s.near.Close(protocols.CodeShutdown, "now"))
		var err error
		for err == nil {
			_, err = far.Write(make([]byte, 1<<10))
		}
		if errors.Is(err, protocols.ErrConnectionClosed) {
			return // a pipe's other end has ended as well
		}
		var reset *protocols.StreamResetError
		require.ErrorAs(t, err, &reset)
		require.Equal(t, protocols.StreamResetError{Code: protocols.CodeShutdown, Remote: true}, *reset)
	})
}

// NODE-6: ctx ends waiting calls.
func TestNODE6ContextEndsAccept(t *testing.T) {
	overSessions(t, func(t *testing.T, s joined) {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := s.near.AcceptStream(ctx)
			result <- err
		}()
		cancel()
		require.ErrorIs(t, receive(t, result), context.Canceled)

		go func() {
			_, err := s.near.AcceptStream(t.Context())
			result <- err
		}()
		require.NoError(t, s.near.Close(0, "done"))
		require.ErrorIs(t, receive(t, result), protocols.ErrConnectionClosed)
	})
}

func TestSessionIDsDiffer(t *testing.T) {
	seen := map[uint64]bool{}
	for range 1000 {
		a, b := protocols.Pipe(alpnA)
		require.False(t, seen[a.ID()] || seen[b.ID()] || a.ID() == b.ID())
		seen[a.ID()], seen[b.ID()] = true, true
	}
}

func TestSetIdentityOnce(t *testing.T) {
	conn, _ := protocols.Pipe(alpnA)
	_, ok := conn.Identity()
	require.False(t, ok)
	given := auth.Identity{ID: "worker-a", Scopes: []string{"x"}}
	require.NoError(t, conn.SetIdentity(given))
	given.Scopes[0] = "y"
	got, ok := conn.Identity()
	require.True(t, ok)
	require.Equal(t, []string{"x"}, got.Scopes)
	require.ErrorIs(t, conn.SetIdentity(given), protocols.ErrIdentityAlreadySet)
}

// NODE-64: a peer that never ends its half is waited for 5 s.
func TestNODE64CloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := protocols.Pipe(alpnA)
		a, b := joined{near, far}.streamPair(t)
		begin := time.Now()
		require.NoError(t, a.Close())
		require.Zero(t, time.Since(begin))
		var err error
		for err == nil { // b writes on; a has ended its half and reads
			time.Sleep(100 * time.Millisecond)
			_, err = b.Write([]byte("x"))
		}
		require.InDelta(t, 5*time.Second, time.Since(begin), float64(200*time.Millisecond))
		require.NoError(t, b.Close())
		require.NoError(t, near.Close(0, "done"))
	})
}

func TestPipeEndsBoth(t *testing.T) {
	a, b := protocols.Pipe(alpnA)
	waiting, err := a.OpenStream(t.Context()) // nobody accepts it
	require.NoError(t, err)
	require.NoError(t, b.Close(protocols.CodeUnauthorised, "test"))
	over(t, a)
	over(t, b)
	_, err = waiting.Read(make([]byte, 1))
	require.ErrorIs(t, err, protocols.ErrConnectionClosed)
	_, err = a.AcceptStream(t.Context())
	require.ErrorIs(t, err, protocols.ErrConnectionClosed)
	_, err = a.OpenStream(t.Context())
	require.ErrorIs(t, err, protocols.ErrConnectionClosed)
	require.NoError(t, a.Close(0, "again"))
}

func TestPipeBacklogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := protocols.Pipe(alpnA)
		opened := 0
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := a.OpenStream(ctx)
			cancel()
			if err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				break
			}
			opened++
		}
		require.Equal(t, 64, opened)
		require.NoError(t, b.Close(0, "done"))
		<-a.Done()
	})
}

// Opening and closing from both sides at once loses neither ends nor streams.
func TestPipeOpenAgainstClose(t *testing.T) {
	for range 300 {
		a, b := protocols.Pipe(alpnA)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					s, err := a.OpenStream(t.Context())
					if err != nil {
						return
					}
					_, _ = s.Write([]byte("x"))
					_ = s.Close()
				}
			})
		}
		all.Go(func() {
			for range 5 {
				if s, err := b.AcceptStream(t.Context()); err == nil {
					_ = s.Close()
				}
			}
			_ = b.Close(protocols.CodeAborted, "enough")
		})
		all.Wait()
		over(t, a)
		over(t, b)
	}
}

// tcpPair is one TCP connection's two ends.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	far, err := l.Accept()
	require.NoError(t, err)
	return near.(*net.TCPConn), far.(*net.TCPConn)
}

// NODE-5: one stream, once; the session ends with it.
func TestNODE5SingleStream(t *testing.T) {
	near, far := tcpPair(t)
	a := protocols.ConnectionFromStream(near, alpnA, "here")
	b := protocols.ConnectionFromStream(far, alpnA, "there")
	require.Equal(t, "here", a.RemoteAddr())
	_, err := a.OpenStream(t.Context())
	require.ErrorIs(t, err, protocols.ErrStreamClosed)

	sa, err := a.AcceptStream(t.Context())
	require.NoError(t, err)
	sb, err := b.AcceptStream(t.Context())
	require.NoError(t, err)
	second := make(chan error, 1)
	go func() {
		_, err := b.AcceptStream(context.WithoutCancel(t.Context()))
		second <- err
	}()

	_, err = sa.Write([]byte("question"))
	require.NoError(t, err)
	require.NoError(t, sa.CloseWrite())
	got, err := io.ReadAll(sb)
	require.NoError(t, err)
	require.Equal(t, "question", string(got))
	_, err = sb.Write([]byte("answer"))
	require.NoError(t, err)
	require.Empty(t, second, "the stream lives, so the session does")
	require.NoError(t, sb.Close())
	got, err = io.ReadAll(sa)
	require.NoError(t, err)
	require.Equal(t, "answer", string(got))
	require.NoError(t, sa.Close())

	require.ErrorIs(t, receive(t, second), protocols.ErrConnectionClosed)
	over(t, a)
	over(t, b)
}

func TestNODE5SingleStreamClosed(t *testing.T) {
	near, far := tcpPair(t)
	a := protocols.ConnectionFromStream(near, alpnA, "")
	require.NoError(t, a.Close(protocols.CodeShutdown, "test"), "before the stream was taken")
	_, err := far.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, far.Close())

	near, far = tcpPair(t)
	a = protocols.ConnectionFromStream(near, alpnA, "")
	s, err := a.AcceptStream(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.SetDeadline(time.Now().Add(-time.Second)))
	_, err = s.Read(make([]byte, 1))
	require.ErrorIs(t, err, protocols.ErrStreamTimeout)
	require.NoError(t, a.Close(protocols.CodeShutdown, "after it was taken"))
	_, err = far.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, far.Close())
}

// bareStream has neither half-close nor deadlines.
type bareStream struct {
	io.Reader
	io.WriteCloser
}

func TestNODE5StreamWithoutHalfCloseOrDeadline(t *testing.T) {
	in, feed := io.Pipe()
	drained, out := io.Pipe()
	conn := protocols.ConnectionFromStream(bareStream{in, out}, alpnA, "")
	s, err := conn.AcceptStream(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, s.SetDeadline(time.Now()), errors.ErrUnsupported)
	require.ErrorIs(t, s.CloseWrite(), errors.ErrUnsupported)
	require.NoError(t, s.Close())
	_, err = drained.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	over(t, conn)
	require.NoError(t, feed.Close())
}

// brokenSource fails as told.
type brokenSource struct{ err error }

func (s brokenSource) AcceptStream(context.Context) (protocols.Stream, error) { return nil, s.err }
func (s brokenSource) OpenStream(context.Context) (protocols.Stream, error)   { return nil, s.err }
func (s brokenSource) RemoteAddr() string                                     { return "nowhere" }
func (s brokenSource) Close(uint32, string) error                             { return nil }

func TestSourceErrors(t *testing.T) {
	conn := protocols.NewConnection(brokenSource{os.ErrPermission}, alpnA)
	_, err := conn.OpenStream(t.Context())
	require.ErrorIs(t, err, os.ErrPermission)
	require.ErrorContains(t, err, "open stream")
	require.Equal(t, "nowhere", conn.RemoteAddr())

	conn = protocols.NewConnection(brokenSource{protocols.ErrConnectionClosed}, alpnA)
	_, err = conn.AcceptStream(t.Context())
	require.ErrorIs(t, err, protocols.ErrConnectionClosed)
	over(t, conn)
}
