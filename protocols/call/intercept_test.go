package call_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// between joins a client and a server of the given configurations; the server
// knows its peer as peer.
func between(t testing.TB, client, server call.Config, peer auth.Context, ops ...call.Operation) *call.Session {
	t.Helper()
	proto := call.New(server)
	require.NoError(t, proto.Register(append(testOperations(), ops...)...))
	a, b := protocols.Pipe(call.ALPN)
	caller := serve(t, a, call.New(client), known())
	serve(t, b, proto, peer)
	return caller.session(t)
}

// trail notes who was called, in order.
type trail struct {
	mu    sync.Mutex
	steps []string
}

func (l *trail) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps = append(l.steps, fmt.Sprintf(format, args...))
}

func (l *trail) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps := l.steps
	l.steps = nil
	return steps
}

func (l *trail) interceptor(name string) call.Interceptor {
	return func(ctx context.Context, r *call.Request, next func(context.Context) error) error {
		l.note("%s %s %s", name, r.Operation, r.Input)
		err := next(ctx)
		l.note("%s ended: %v", name, err)
		return err
	}
}

func TestInterceptorsSurroundRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l trail
		s := between(t,
			call.Config{CallInterceptors: []call.Interceptor{l.interceptor("outer"), l.interceptor("inner")}},
			call.Config{Interceptors: []call.Interceptor{l.interceptor("first"), l.interceptor("second")}}, known())
		out, err := s.Call(t.Context(), "node/echo", 1)
		require.NoError(t, err)
		require.Equal(t, "1", string(out))
		require.Equal(t, []string{
			"outer node/echo 1", "inner node/echo 1", "first node/echo 1", "second node/echo 1",
			"second ended: <nil>", "first ended: <nil>", "inner ended: <nil>", "outer ended: <nil>",
		}, l.take())

		// They see what a handler returns before it is made fit for the caller.
		_, err = s.Call(t.Context(), "test/error", nil)
		require.EqualError(t, err, "INTERNAL: internal error")
		require.Equal(t, []string{
			"outer test/error null", "inner test/error null", "first test/error null", "second test/error null",
			"second ended: a secret", "first ended: a secret", "inner ended: INTERNAL: internal error", "outer ended: INTERNAL: internal error",
		}, l.take())

		// What is not served is not intercepted (CALL-31).
		_, err = s.Call(t.Context(), "test/hidden", nil)
		require.ErrorIs(t, err, call.ErrNotFound)
		_, err = s.Call(t.Context(), "test/admin", nil)
		require.ErrorIs(t, err, call.ErrForbidden)
		for _, step := range l.take() {
			require.NotContains(t, step, "first")
		}

		// A subscription is over for the server when it has ended, for the client
		// when it has begun.
		sub, err := s.Subscribe(t.Context(), "test/count", 2)
		require.NoError(t, err)
		for range sub.All(t.Context()) {
		}
		synctest.Wait()
		require.ElementsMatch(t, []string{
			"outer test/count 2", "inner test/count 2", "inner ended: <nil>", "outer ended: <nil>",
			"first test/count 2", "second test/count 2", "second ended: <nil>", "first ended: <nil>",
		}, l.take())
	})
}

func TestInterceptorsRefuseAndRepeat(t *testing.T) {
	refuse := func(err error) call.Interceptor {
		return func(context.Context, *call.Request, func(context.Context) error) error { return err }
	}
	s := between(t, call.Config{}, call.Config{Interceptors: []call.Interceptor{refuse(call.Errorf(call.CodeForbidden, "not today"))}}, known())
	_, err := s.Call(t.Context(), "node/echo", 1)
	require.EqualError(t, err, "FORBIDDEN: not today")
	sub, err := s.Subscribe(t.Context(), "test/count", 1)
	require.NoError(t, err)
	_, err = sub.Next(t.Context())
	require.EqualError(t, err, "FORBIDDEN: not today")

	// CALL-56: an error of any kind reaches the caller as an *Error.
	odd := errors.New("odd")
	s = between(t, call.Config{CallInterceptors: []call.Interceptor{refuse(odd)}}, call.Config{}, known())
	_, err = s.Call(t.Context(), "node/echo", 1)
	require.ErrorIs(t, err, odd)
	require.ErrorIs(t, err, call.ErrInternal)
	_, err = s.Subscribe(t.Context(), "test/count", 1)
	require.ErrorIs(t, err, odd)

	// Swallowed, an error is the answer null.
	s = between(t, call.Config{}, call.Config{Interceptors: []call.Interceptor{refuse(nil)}}, known())
	out, err := s.Call(t.Context(), "test/error", 1)
	require.NoError(t, err)
	require.Equal(t, "null", string(out))

	again := func(ctx context.Context, _ *call.Request, next func(context.Context) error) error {
		if err := next(ctx); err == nil || !errors.Is(err, call.ErrInternal) {
			return err
		}
		return next(ctx)
	}
	tries := 0
	s = between(t, call.Config{CallInterceptors: []call.Interceptor{again}}, call.Config{}, known(),
		query("test/second", func(context.Context, *call.Request) (any, error) {
			if tries++; tries < 2 {
				return nil, errors.New("not yet")
			}
			return tries, nil
		}))
	out, err = s.Call(t.Context(), "test/second", nil)
	require.NoError(t, err)
	require.Equal(t, "2", string(out))
}

func TestLogRequests(t *testing.T) {
	var client, server bytes.Buffer
	logger := func(b *bytes.Buffer) *slog.Logger {
		return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "took" {
				return slog.Attr{}
			}
			return a
		}}))
	}
	synctest.Test(t, func(t *testing.T) {
		s := between(t,
			call.Config{CallInterceptors: []call.Interceptor{call.LogRequests(logger(&client))}},
			call.Config{Interceptors: []call.Interceptor{call.LogRequests(logger(&server))}}, known())
		_, err := s.Call(t.Context(), "node/echo", "a secret", call.WithRequestID("1"), call.WithToken(auth.TokenFromText("alk_a_secret")),
			call.WithForwardedFor(auth.Identity{ID: "user", Scopes: []string{}, Resources: map[string][]string{}}))
		require.NoError(t, err)
		_, err = s.Call(t.Context(), "test/panic", nil, call.WithRequestID("2"))
		require.Error(t, err)
		_, err = s.Call(t.Context(), "test/sleep", "x", call.WithRequestID("3"))
		require.Error(t, err)
		synctest.Wait()
	})
	// The JSON library words its errors in one of two ways, by process, so that
	// nobody relies on the text.
	text := strings.ReplaceAll(server.String(), "unable to", "cannot")
	require.Equal(t, `level=INFO msg=request op=node/echo call=1 peer=peer identity=peer forwarded_for=user
level=INFO msg=request op=test/sleep call=3 peer=peer identity=peer err="INVALID_INPUT: decode input: json: cannot unmarshal JSON string into Go int"
`, text)
	require.NotContains(t, client.String(), "secret")
	require.Contains(t, client.String(), `op=test/panic call=2 peer=peer err="INTERNAL: internal error"`)
}

type metrics struct{ trail }

func (m *metrics) RequestEnded(op string, code call.Code, took time.Duration) {
	m.note("%s %q %v", op, code, took)
}

func TestMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m metrics
		s := between(t, call.Config{}, call.Config{Interceptors: []call.Interceptor{call.Measure(&m)}}, known())
		_, _ = s.Call(t.Context(), "test/sleep", 1500)
		_, _ = s.Call(t.Context(), "test/sleep", "x")
		_, _ = s.Call(t.Context(), "test/error", nil)
		_, _ = s.Call(t.Context(), "test/domain", map[string]any{"Code": "FILE_NOT_FOUND", "Details": map[string]string{"path": "/"}})
		_, _ = s.Call(t.Context(), "test/sleep", 5000, call.WithTimeout(time.Second))
		synctest.Wait()
		require.Equal(t, []string{
			`test/sleep "" 1.5s`, `test/sleep "INVALID_INPUT" 0s`, `test/error "INTERNAL" 0s`, `test/domain "FILE_NOT_FOUND" 0s`, `test/sleep "TIMEOUT" 1s`,
		}, m.take())
	})
}

// CALL-26: one over is refused as over any limit, and nobody else feels it.
func TestLimitRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := call.Config{Interceptors: []call.Interceptor{call.LimitRate(2, 3)}, Provider: tokens{}}
		s := between(t, call.Config{}, limit, known())
		good := func(opts ...call.CallOption) int {
			n := 0
			for range 10 {
				_, err := s.Call(t.Context(), "node/echo", 1, opts...)
				var e *call.Error
				switch {
				case err == nil:
					n++
				case errors.As(err, &e):
					require.True(t, e.Retryable)
					require.JSONEq(t, `{"reason":"overloaded"}`, string(e.Details))
				}
			}
			return n
		}
		require.Equal(t, 3, good())
		time.Sleep(time.Second)
		require.Equal(t, 2, good())
		require.Equal(t, 3, good(call.WithToken(auth.TokenFromText("alk_good"))), "another identity")
		require.Equal(t, 0, good())
		time.Sleep(time.Hour)
		require.Equal(t, 3, good())
	})
}

// Anonymous peers are told apart by their keys, and many of them take no more
// than their place.
func TestLimitRateOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := call.LimitRate(1, 2)
		good := func(key string) int {
			n := 0
			for range 5 {
				r := &call.Request{Peer: auth.Context{Fingerprint: key}}
				if limit(t.Context(), r, func(context.Context) error { return nil }) == nil {
					n++
				}
			}
			return n
		}
		require.Equal(t, 2, good("a"))
		require.Equal(t, 0, good("a"))
		for i := range 4095 {
			require.Equal(t, 2, good(fmt.Sprint("b", i)))
		}
		require.Equal(t, 2, good("c"), "what is left is shared")
		require.Equal(t, 0, good("d"))
		time.Sleep(10 * time.Second)
		require.Equal(t, 2, good("d"), "who has not called for a while makes room")
		require.Equal(t, 2, good("e"))
	})
}

// CALL-12: a trace goes on from node to node, and what is none is dropped.
func TestTraceGoesOn(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traced := call.Config{Interceptors: []call.Interceptor{call.Trace}, CallInterceptors: []call.Interceptor{call.Trace}}
	last := between(t, traced, call.Config{}, known(), query("test/trace", func(_ context.Context, r *call.Request) (any, error) {
		return r.Traceparent, nil
	}))
	s := between(t, traced, traced, known(), query("test/forward", func(ctx context.Context, _ *call.Request) (any, error) {
		return last.Call(ctx, "test/trace", nil)
	}))
	call1 := func(ctx context.Context, opts ...call.CallOption) string {
		out, err := call.Invoke[string](ctx, s, "test/forward", nil, opts...)
		require.NoError(t, err)
		return out
	}
	require.Empty(t, call1(t.Context()))
	require.Equal(t, parent, call1(call.ContextWithTraceparent(t.Context(), parent)))
	require.Equal(t, parent, call1(t.Context(), call.WithTraceparent(parent)))
	require.Equal(t, "cc"+parent[2:]+"-later", call1(t.Context(), call.WithTraceparent("cc"+parent[2:]+"-later")))
	for _, bad := range []string{
		"x", parent + "-later", parent + "0", "ff" + parent[2:], parent[:len(parent)-1],
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		require.Empty(t, call1(t.Context(), call.WithTraceparent(bad)), bad)
	}
}
