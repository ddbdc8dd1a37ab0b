package call_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// refusal is the reason in the details of an INTERNAL that may be retried.
func refusal(t *testing.T, err error) string {
	t.Helper()
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, call.CodeInternal, e.Code)
	require.True(t, e.Retryable)
	var d struct{ Reason string }
	require.NoError(t, json.Unmarshal(e.Details, &d), "%s", e.Details)
	return d.Reason
}

// hold returns an operation of either kind that lasts until its context ends,
// and a count of those that run.
func hold() (call.Operation, call.Operation, *atomic.Int64) {
	var running atomic.Int64
	wait := func(ctx context.Context) error {
		running.Add(1)
		defer running.Add(-1)
		<-ctx.Done()
		return ctx.Err()
	}
	return query("hold/call", func(ctx context.Context, _ *call.Request) (any, error) { return nil, wait(ctx) }),
		stream("hold/stream", func(ctx context.Context, _ *call.Request, _ func(any) error) error { return wait(ctx) }),
		&running
}

func TestCALL26Limits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, running := hold()
		session := pair(t, anonymous(), c, s, call.Echo())
		ctx, cancel := context.WithCancel(t.Context())
		for range 64 {
			go func() { _, _ = session.Call(ctx, "hold/call", nil) }()
			sub, err := session.Subscribe(ctx, "hold/stream", nil)
			require.NoError(t, err)
			defer sub.Close()
		}
		synctest.Wait()
		require.EqualValues(t, 128, running.Load())
		_, err := session.Call(t.Context(), "node/echo", nil)
		require.Equal(t, "overloaded", refusal(t, err))
		sub, err := session.Subscribe(t.Context(), "hold/stream", nil)
		require.NoError(t, err)
		_, err = sub.Next(t.Context())
		require.Equal(t, "overloaded", refusal(t, err))
		// CALL-31: what is not there stays not there.
		_, err = session.Call(t.Context(), "no/such", nil)
		require.ErrorIs(t, err, call.ErrNotFound)

		cancel()
		synctest.Wait()
		require.Zero(t, running.Load()) // aborts were read behind running calls (CALL-24)
		_, err = session.Call(t.Context(), "node/echo", nil)
		require.NoError(t, err)
	})
}

// Handlers that ignore their context do not let a peer start ever more.
func TestCALL26DeafHandlersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int64
		session := pair(t, anonymous(), query("a/deaf", func(context.Context, *call.Request) (any, error) {
			running.Add(1)
			defer running.Add(-1)
			time.Sleep(time.Hour)
			return nil, nil
		}))
		refused := 0
		for range 300 {
			_, err := session.Call(t.Context(), "a/deaf", nil, call.WithTimeout(time.Millisecond))
			if !errors.Is(err, call.ErrTimeout) {
				require.Equal(t, "overloaded", refusal(t, err))
				refused++
			}
		}
		require.EqualValues(t, 128, running.Load())
		require.Equal(t, 300-128, refused)
		time.Sleep(2 * time.Hour)
	})
}

// CALL-26, CALL-22: streams over the limit are refused by an answer, and the
// caller then opens fewer.
func TestCALL26Streams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, running := hold()
		server := call.New(call.Config{})
		require.NoError(t, server.Register(s))
		a, b := protocols.Pipe(call.ALPN)
		client := serve(t, a, call.New(call.Config{}), known())
		serve(t, b, server, anonymous()) // 32 streams, of which the caller knows nothing
		session := client.session(t)
		refused := 0
		var subs []*call.Subscription
		for range 64 {
			sub, err := session.Subscribe(t.Context(), "hold/stream", nil)
			require.NoError(t, err)
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if _, err := sub.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
				require.Equal(t, "overloaded", refusal(t, err))
				refused++
			}
			cancel()
			subs = append(subs, sub)
		}
		require.Equal(t, 1, refused)
		require.EqualValues(t, 63, running.Load())
		for _, sub := range subs {
			require.NoError(t, sub.Close())
		}
	})
}

// A peer that sends and never reads is cut off; memory stays bounded.
func TestFloodedStreamIsReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := protocols.Pipe(call.ALPN)
		serve(t, a, serving(t), known())
		s, err := b.OpenStream(t.Context())
		require.NoError(t, err)
		name := strings.Repeat("n", 180)
		frame := fmt.Sprintf(`{"type":"call.requested","id":"1","payload":{"operationId":"/%s"}}`, name)
		frame = string([]byte{0, 0, 0, byte(len(frame))}) + frame
		require.Less(t, len(frame), 256)
		sent := 0
		for err == nil && sent < 100<<20 {
			_, err = s.Write([]byte(frame))
			sent += len(frame)
		}
		var reset *protocols.StreamResetError
		require.ErrorAs(t, err, &reset)
		require.Equal(t, protocols.CodeOverloaded, reset.Code)
		require.Less(t, sent, 8<<20)

		s, err = b.OpenStream(t.Context()) // the session goes on
		require.NoError(t, err)
		_, err = s.Write([]byte(frame))
		require.NoError(t, err)
		_, err = readFrame(s)
		require.NoError(t, err)
		_ = b.Close(0, "")
	})
}

// CALL-28: subscribers that do not take block neither calls nor each other,
// however many they are.
func TestCALL28StuckSubscribersBlockNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := strings.Repeat("v", 10_000)
		session := pair(t, known(), call.Echo(), stream("a/flood", func(_ context.Context, _ *call.Request, emit func(any) error) error {
			for {
				if err := emit(value); err != nil {
					return err
				}
			}
		}))
		var stuck []*call.Subscription
		for range 100 { // more than there are pooled streams: some share
			sub, err := session.Subscribe(t.Context(), "a/flood", nil)
			require.NoError(t, err)
			stuck = append(stuck, sub)
		}
		time.Sleep(time.Hour)
		for range 10 {
			_, err := session.Call(t.Context(), "node/echo", json.RawMessage(`"`+strings.Repeat("x", 100_000)+`"`))
			require.NoError(t, err)
		}
		for _, sub := range stuck { // and nothing was lost
			for range 100 {
				_, err := sub.Next(t.Context())
				require.NoError(t, err)
			}
			require.NoError(t, sub.Close())
		}
	})
}

// CALL-29: without credit, a subscriber that does not read is cut off by the
// responder.
func TestCALL29ResponderWithoutCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		server := call.New(call.Config{})
		require.NoError(t, server.Register(stream("a/flood", func(ctx context.Context, _ *call.Request, emit func(any) error) error {
			for {
				if err := emit(strings.Repeat("v", 1000)); err != nil {
					require.ErrorIs(t, context.Cause(ctx), call.ErrSubscriptionOverflow)
					ended <- err
					return err
				}
			}
		})))
		a, b := protocols.Pipe(call.ALPN)
		serve(t, a, server, known())
		s, err := b.OpenStream(t.Context())
		require.NoError(t, err)
		frame := `{"type":"call.requested","id":"1","payload":{"operationId":"/a/flood"}}`
		_, err = s.Write([]byte(string([]byte{0, 0, 0, byte(len(frame))}) + frame))
		require.NoError(t, err)
		begin := time.Now()
		require.ErrorIs(t, <-ended, call.ErrSubscriptionOverflow)
		require.Equal(t, 5*time.Second, time.Since(begin))
		last := ""
		for !strings.Contains(last, "call.aborted") {
			last, err = readFrame(s)
			require.NoError(t, err)
		}
		_ = b.Close(0, "")
	})
}

// CALL-3: what is too large is refused on its own side.
func TestCALL3TooLarge(t *testing.T) {
	big := json.RawMessage(`"` + strings.Repeat("x", 64<<20) + `"`)
	session := pair(t, known(),
		query("a/big", func(context.Context, *call.Request) (any, error) { return big, nil }),
		stream("a/bigs", func(_ context.Context, _ *call.Request, emit func(any) error) error {
			if err := emit(1); err != nil {
				return err
			}
			return emit(big)
		}), call.Echo())
	_, err := session.Call(t.Context(), "node/echo", big)
	require.ErrorIs(t, err, call.ErrFrameTooLarge)
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.False(t, e.Remote())
	_, err = session.Call(t.Context(), "a/big", nil)
	require.ErrorAs(t, err, &e)
	require.Equal(t, "response too large", e.Message)
	sub, err := session.Subscribe(t.Context(), "a/bigs", nil)
	require.NoError(t, err)
	_, err = sub.Next(t.Context())
	require.NoError(t, err)
	_, err = sub.Next(t.Context())
	require.ErrorAs(t, err, &e)
	require.Equal(t, "response too large", e.Message)
}

// CALL-86: the handler can tell why it was stopped.
func TestCALL86Causes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 1)
		op := query("a/wait", func(ctx context.Context, _ *call.Request) (any, error) {
			<-ctx.Done()
			causes <- fmt.Errorf("%w (%w)", context.Cause(ctx), ctx.Err())
			return nil, ctx.Err()
		})
		server := call.New(call.Config{})
		require.NoError(t, server.Register(op))
		a, b := protocols.Pipe(call.ALPN)
		client := serve(t, a, call.New(call.Config{}), known())
		node := serve(t, b, server, known())
		session := client.session(t)

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := session.Call(ctx, "a/wait", nil)
		require.ErrorIs(t, err, call.ErrAborted)
		cause := <-causes
		require.ErrorIs(t, cause, call.ErrAborted)
		require.ErrorIs(t, cause, context.Canceled)

		_, err = session.Call(t.Context(), "a/wait", nil, call.WithTimeout(time.Second))
		require.ErrorIs(t, err, call.ErrTimeout)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cause = <-causes
		if !errors.Is(cause, call.ErrAborted) { // our abort and the deadline are one moment
			require.ErrorIs(t, cause, call.ErrTimeout)
			require.ErrorIs(t, cause, context.DeadlineExceeded)
		}

		s, err := a.OpenStream(t.Context())
		require.NoError(t, err)
		frame := `{"type":"call.requested","id":"1","payload":{"operationId":"/a/wait"}}`
		_, err = s.Write([]byte(string([]byte{0, 0, 0, byte(len(frame))}) + frame))
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, s.Reset(protocols.CodeAborted))
		require.ErrorIs(t, <-causes, call.ErrStreamClosed)

		go func() { _, _ = session.Call(t.Context(), "a/wait", nil) }()
		synctest.Wait()
		node.cancel()
		require.ErrorIs(t, <-causes, call.ErrSessionClosed)
	})
}

// CALL-46: the end of the session is the end of everything on it.
func TestCALL46SessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, running := hold()
		server := call.New(call.Config{})
		require.NoError(t, server.Register(c, s))
		a, b := protocols.Pipe(call.ALPN)
		client := serve(t, a, call.New(call.Config{}), known())
		serve(t, b, server, known())
		session := client.session(t)
		failed := make(chan error, 1)
		go func() {
			_, err := session.Call(t.Context(), "hold/call", nil)
			failed <- err
		}()
		sub, err := session.Subscribe(t.Context(), "hold/stream", nil)
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 2, running.Load())
		require.NoError(t, a.Close(0, "gone"))
		err = <-failed
		require.ErrorIs(t, err, call.ErrSessionClosed)
		require.ErrorIs(t, err, net.ErrClosed)
		require.EqualError(t, err, "INTERNAL: connection closed")
		_, err = sub.Next(t.Context())
		require.ErrorIs(t, err, call.ErrSessionClosed)
		<-session.Done()
		synctest.Wait()
		require.Zero(t, running.Load())
		_, err = session.Call(t.Context(), "hold/call", nil)
		require.ErrorIs(t, err, call.ErrSessionClosed)
		_, err = session.Subscribe(t.Context(), "hold/stream", nil)
		require.ErrorIs(t, err, call.ErrSessionClosed)
		_, err = server.Session(t.Context(), b)
		require.ErrorIs(t, err, call.ErrSessionClosed)
	})
}

// NODE-63: refuse, finish calls, then end subscriptions.
func TestNODE63Draining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serving(t)
		a, b := protocols.Pipe(call.ALPN)
		client := serve(t, a, call.New(call.Config{}), known())
		draining := make(chan struct{})
		handled := make(chan error, 1)
		go func() {
			handled <- server.Handle(protocols.WithDraining(context.Background(), draining), b, known())
			_ = b.Close(0, "handled")
		}()
		session := client.session(t)
		sub, err := session.Subscribe(t.Context(), "test/ticks", nil)
		require.NoError(t, err)
		running := make(chan error, 1)
		go func() {
			_, err := session.Call(t.Context(), "test/sleep", 2500)
			running <- err
		}()
		time.Sleep(100 * time.Millisecond)
		close(draining)
		synctest.Wait()
		_, err = session.Call(t.Context(), "node/echo", nil)
		require.Equal(t, "draining", refusal(t, err))
		for range 2 { // subscriptions end last
			_, err := sub.Next(t.Context())
			require.NoError(t, err)
		}
		require.NoError(t, <-running)
		_, err = sub.Next(t.Context())
		require.Equal(t, "draining", refusal(t, err))
		require.NoError(t, <-handled)
		_, err = session.Call(t.Context(), "node/echo", nil)
		require.ErrorIs(t, err, call.ErrInternal)
	})
}

func TestNODE63IdleSessionDrainsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serving(t)
		a, b := protocols.Pipe(call.ALPN)
		client := serve(t, a, call.New(call.Config{}), known())
		draining := make(chan struct{})
		handled := make(chan error, 1)
		go func() { handled <- server.Handle(protocols.WithDraining(context.Background(), draining), b, known()) }()
		_, err := client.session(t).Call(t.Context(), "node/echo", nil)
		require.NoError(t, err)
		begin := time.Now()
		close(draining)
		require.NoError(t, <-handled)
		require.Zero(t, time.Since(begin))
		_ = b.Close(0, "handled")
	})
}

// CALL-51, CALL-36: the session's token, unless the call has its own.
func TestCALL51Token(t *testing.T) {
	session := pair(t, anonymous(), call.Operation{
		Spec:    call.Spec{Name: "a/who", Access: auth.Access{RequiredScopes: []string{"admin"}}},
		Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) { return r.Identity.ID, nil }),
	})
	_, err := session.Call(t.Context(), "a/who", nil)
	require.ErrorIs(t, err, call.ErrForbidden)
	session.SetToken(auth.TokenFromText("alk_good"))
	out, err := session.Call(t.Context(), "a/who", nil)
	require.NoError(t, err)
	require.Equal(t, `"alk_good"`, string(out))
	_, err = session.Call(t.Context(), "a/who", nil, call.WithToken(auth.Token{}))
	require.ErrorIs(t, err, call.ErrForbidden)
	_, err = session.Call(t.Context(), "a/who", nil, call.WithToken(auth.TokenFromText("alk_bad")))
	require.ErrorIs(t, err, call.ErrForbidden)
	require.NotContains(t, err.Error(), "alk_bad") // CALL-99
}

// CALL-101: what a handler is told of a request from the wire.
func TestCALL101RequestFromTheWire(t *testing.T) {
	var got *call.Request
	session := pair(t, known("a"), query("a/b", func(_ context.Context, r *call.Request) (any, error) {
		got = r
		return nil, nil
	}))
	claim := auth.Identity{ID: "alice", Scopes: []string{"x"}, Resources: map[string][]string{}}
	_, err := session.Call(t.Context(), "a/b", []int{1}, call.WithRequestID("my id"), call.WithForwardedFor(claim),
		call.WithTraceparent("00-1-2-3"), call.WithTimeout(time.Minute))
	require.NoError(t, err)
	require.Equal(t, "my id", got.ID)
	require.Empty(t, got.ParentID)
	require.Equal(t, "a/b", got.Operation)
	require.Equal(t, "[1]", string(got.Input))
	require.Equal(t, known("a").Identity, got.Identity)
	require.Equal(t, known("a").Identity, got.Origin)
	require.Equal(t, &claim, got.ForwardedFor)
	require.Equal(t, known("a"), got.Peer)
	require.Equal(t, "00-1-2-3", got.Traceparent)
	require.NotNil(t, got.Metadata)
	require.Empty(t, got.Metadata)
	require.False(t, got.Internal()) // CALL-69
	require.WithinDuration(t, time.Now().Add(time.Minute), got.Deadline, 10*time.Second)
}

func TestCallerMistakesFailLocally(t *testing.T) {
	_, held, _ := hold()
	session := pair(t, known(), call.Echo(), held)
	for _, c := range []struct {
		name  string
		input any
		opts  []call.CallOption
	}{
		{"", nil, nil},
		{"a//b", nil, nil},
		{strings.Repeat("a", 257), nil, nil},
		{"node/echo", make(chan int), nil},
		{"node/echo", json.RawMessage(`{`), nil},
		{"node/echo", nil, []call.CallOption{call.WithRequestID(strings.Repeat("i", 129))}},
		{"node/echo", nil, []call.CallOption{call.WithRequestID("\xff")}},
	} {
		_, err := session.Call(t.Context(), c.name, c.input, c.opts...)
		var e *call.Error
		require.ErrorAs(t, err, &e, "%v", c)
		require.ErrorIs(t, err, call.ErrInvalidInput)
		require.False(t, e.Remote())
	}
	// CALL-17: an id of one's own may be used once at a time.
	sub, err := session.Subscribe(t.Context(), "hold/stream", nil, call.WithRequestID("twice"))
	require.NoError(t, err)
	_, err = session.Call(t.Context(), "node/echo", nil, call.WithRequestID("twice"))
	require.ErrorIs(t, err, call.ErrInvalidInput)
	require.NoError(t, sub.Close())
}

// A context that has ended already sends nothing.
func TestEndedContext(t *testing.T) {
	session := pair(t, known(), call.Echo())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := session.Call(ctx, "node/echo", nil)
	require.ErrorIs(t, err, context.Canceled)
	sub, err := session.Subscribe(ctx, "node/echo", nil)
	if err == nil {
		_, err = sub.Next(t.Context())
	}
	require.ErrorIs(t, err, context.Canceled)
}

// CALL-35: a handler that ends its goroutine is a panic like any other.
func TestCALL35HandlerThatExits(t *testing.T) {
	session := pair(t, known(), query("a/exit", func(context.Context, *call.Request) (any, error) {
		runtime.Goexit()
		return nil, nil
	}), call.Echo())
	_, err := session.Call(t.Context(), "a/exit", nil)
	require.ErrorIs(t, err, call.ErrInternal)
	_, err = session.Call(t.Context(), "node/echo", nil)
	require.NoError(t, err)
}
