package call_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// watched is a connection that keeps what is written to its streams. Nothing
// is before hold is closed.
type watched struct {
	protocols.Connection
	hold   chan struct{}
	mu     sync.Mutex
	writes [][]byte
}

type watchedStream struct {
	protocols.Stream
	c *watched
}

func (c *watched) AcceptStream(ctx context.Context) (protocols.Stream, error) {
	s, err := c.Connection.AcceptStream(ctx)
	return &watchedStream{s, c}, err
}

func (s *watchedStream) Write(p []byte) (int, error) {
	<-s.c.hold
	s.c.mu.Lock()
	s.c.writes = append(s.c.writes, append([]byte{}, p...))
	s.c.mu.Unlock()
	return s.Stream.Write(p)
}

// CALL-7: whole frames, many to a write: all that is ready while a write is
// under way is in the next.
func TestCALL7WholeFramesFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := protocols.Pipe(call.ALPN)
		w := &watched{Connection: a, hold: make(chan struct{})}
		serve(t, w, serving(t), known())
		s, err := b.OpenStream(t.Context())
		require.NoError(t, err)
		const n = 200
		var batch []byte
		for i := range n {
			body := fmt.Sprintf(`{"type":"call.requested","id":"%d","payload":{"operationId":"/node/echo","input":%d}}`, i, i)
			batch = append(binary.BigEndian.AppendUint32(batch, uint32(len(body))), body...)
		}
		_, err = s.Write(batch)
		require.NoError(t, err)
		synctest.Wait() // every answer waits for the first write
		close(w.hold)
		for range n {
			_, err := readFrame(s)
			require.NoError(t, err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		frames := 0
		for _, p := range w.writes {
			for len(p) > 0 {
				size := int(binary.BigEndian.Uint32(p))
				require.LessOrEqual(t, 4+size, len(p), "a write ends inside a frame")
				require.True(t, json.Valid(p[4:4+size]))
				p = p[4+size:]
				frames++
			}
		}
		require.Equal(t, n, frames)
		require.LessOrEqual(t, len(w.writes), 2)
		_ = b.Close(0, "")
	})
}

// CALL-10: bytes are padded base64 inside the payload, which nobody interprets
// on the way.
func TestCALL10BytesAreBase64(t *testing.T) {
	s := pair(t, known(), call.Echo())
	out, err := s.Call(t.Context(), "node/echo", []byte{0xff, 0xfe, 0x00, '<'})
	require.NoError(t, err)
	require.Equal(t, `"//4APA=="`, string(out))
}

// CALL-13, CALL-20, CALL-99: a forwarded request has an id of its own and
// carries nothing of what composition knows.
func TestCALL13NothingOfCompositionIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var childID string
		do := composing("test/do", &call.ScopedEnv{AllowedOps: []string{"run/job"}}, func(ctx context.Context, r *call.Request) (any, error) {
			r.Metadata["trace"] = "metadata"
			return r.Env.Invoke(ctx, "run/job", map[string]int{"n": 1}, call.WithAbortPolicy(call.ContinueRunning))
		}, "composition-scope")
		do.Capabilities = call.Capabilities{}.WithAPIKey("llm", []byte("capability-secret"))
		h := newHub(t, call.Config{}, do)
		a, b := protocols.Pipe(call.ALPN)
		session := serve(t, a, h.Protocol, named("runner")).session(t)
		forward := leaf(session, call.Spec{Name: "run/job"})
		inner := forward.Handler
		forward.Handler = call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
			childID = r.ID
			r.Metadata["more"] = "metadata"
			return inner.Call(ctx, r)
		})
		require.NoError(t, session.RegisterImported(forward))
		user := h.as(named("user"))
		done := make(chan error, 1)
		go func() {
			_, err := user.Call(t.Context(), "test/do", nil, call.WithRequestID("root-id"), call.WithToken(auth.TokenFromText("user-token")))
			done <- err
		}()
		s, err := b.AcceptStream(t.Context())
		require.NoError(t, err)
		body, err := readFrame(s)
		require.NoError(t, err)
		var env struct {
			ID      string
			Payload map[string]json.RawMessage
		}
		require.NoError(t, json.Unmarshal([]byte(body), &env))
		require.NotContains(t, []string{"", "root-id", childID}, env.ID)
		for member := range env.Payload {
			require.Contains(t, []string{"operationId", "input", "timeout_ms"}, member)
		}
		for _, secret := range []string{"root-id", childID, "metadata", "composition-scope", "capability-secret", "user-token", "continue"} {
			require.NotContains(t, body, secret)
		}
		writeFrame(t, s, `{"type":"call.responded","id":"`+env.ID+`","payload":{}}`)
		require.NoError(t, <-done)
		_ = b.Close(0, "")
	})
}

// CALL-30: a responder that cannot write gives up when its request ends, and
// hears of that on the very stream that is full.
func TestCALL30BlockedWriterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		server := call.New(call.Config{})
		require.NoError(t, server.Register(stream("a/flood", func(_ context.Context, _ *call.Request, emit func(any) error) error {
			for {
				if err := emit(strings.Repeat("v", 10_000)); err != nil {
					ended <- err
					return err
				}
			}
		})))
		a, b := protocols.Pipe(call.ALPN)
		serve(t, a, server, known())
		s, err := b.OpenStream(t.Context())
		require.NoError(t, err)
		writeFrame(t, s, `{"type":"call.requested","id":"1","payload":{"operationId":"/a/flood","window":1000000}}`)
		time.Sleep(time.Hour)
		require.Empty(t, ended, "with credit it waits for any time")
		writeFrame(t, s, `{"type":"call.aborted","id":"1","payload":{}}`)
		synctest.Wait()
		require.ErrorIs(t, <-ended, call.ErrAborted)
		_ = b.Close(0, "")
	})
}

// CALL-34: cancellation reaches a handler through its context and in no other
// way; it cleans up behind itself.
func TestCALL34CancellationIsTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cleaned, finished atomic.Bool
		s := pair(t, known(),
			query("a/listens", func(ctx context.Context, _ *call.Request) (any, error) {
				defer cleaned.Store(true)
				<-ctx.Done()
				return nil, ctx.Err()
			}),
			query("a/deaf", func(context.Context, *call.Request) (any, error) {
				time.Sleep(time.Minute)
				finished.Store(true)
				return nil, nil
			}))
		for _, name := range []string{"a/listens", "a/deaf"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := s.Call(ctx, name, nil)
			require.ErrorIs(t, err, call.ErrTimeout)
			cancel()
		}
		synctest.Wait()
		require.True(t, cleaned.Load())
		require.False(t, finished.Load())
		time.Sleep(time.Hour)
		require.True(t, finished.Load())
	})
}

// reloaded is a Provider whose one token changes hands.
type reloaded struct {
	tokens
	name atomic.Pointer[string]
}

func (p *reloaded) ResolveFromToken(auth.Token) (auth.Identity, bool) {
	return auth.Identity{ID: *p.name.Load()}, true
}

// CALL-38: who calls is decided once, at dispatch.
func TestCALL38IdentityIsFixedAtDispatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after := "before", "after"
		p := &reloaded{}
		p.name.Store(&before)
		server := call.New(call.Config{Provider: p})
		require.NoError(t, server.Register(query("a/who", func(_ context.Context, r *call.Request) (any, error) {
			time.Sleep(time.Second)
			return r.Identity.ID, nil
		})))
		s := connect(t, server, known())
		s.SetToken(auth.TokenFromText("t"))
		var (
			out   json.RawMessage
			err   error
			first sync.WaitGroup
		)
		first.Go(func() { out, err = s.Call(t.Context(), "a/who", nil) })
		synctest.Wait()
		p.name.Store(&after)
		first.Wait()
		require.Equal(t, "before", text(t, out, err))
		out, err = s.Call(t.Context(), "a/who", nil)
		require.Equal(t, "after", text(t, out, err))
	})
}

// CALL-52: the protocol's codes are six, only TIMEOUT is retryable as such, and
// each is what the caller finds.
func TestCALL52Codes(t *testing.T) {
	codes := map[call.Code]error{
		call.CodeNotFound: call.ErrNotFound, call.CodeForbidden: call.ErrForbidden, call.CodeInvalidInput: call.ErrInvalidInput,
		call.CodeInvalidOperationType: call.ErrInvalidOperationType, call.CodeInternal: call.ErrInternal, call.CodeTimeout: call.ErrTimeout,
	}
	s := pair(t, known(), query("a/fail", func(_ context.Context, r *call.Request) (any, error) {
		var code call.Code
		if err := r.Decode(&code); err != nil {
			return nil, err
		}
		return nil, call.Errorf(code, "so")
	}))
	for code := range codes {
		_, err := s.Call(t.Context(), "a/fail", code)
		var e *call.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, code, e.Code)
		require.Equal(t, code == call.CodeTimeout, e.Retryable)
		require.True(t, e.Remote())
		for other, is := range codes {
			require.Equal(t, other == code, errors.Is(err, is))
		}
		require.ErrorContains(t, call.NewRegistry().Register(call.Operation{
			Spec:    call.Spec{Name: "a/b", Errors: []call.ErrorSpec{{Code: code}}},
			Handler: call.HandlerFunc(func(context.Context, *call.Request) (any, error) { return nil, nil }),
		}), "belongs to the protocol")
	}
}

// CALL-58: three types, two visibilities, and what they mean when nothing is
// said.
func TestCALL58TypesAndVisibilities(t *testing.T) {
	r := call.NewRegistry()
	require.NoError(t, r.Register(says("ns/sub/op", "")))
	spec := r.Specs()[0]
	require.Equal(t, call.OpQuery, spec.Type)
	require.Equal(t, call.External, spec.Visibility)
	require.Equal(t, "ns", spec.Namespace())
	require.Equal(t, "/ns/sub/op", spec.Path())
	for want, change := range map[string]func(*call.Spec){
		"unknown operation type": func(s *call.Spec) { s.Type = "Query" },
		"unknown visibility":     func(s *call.Spec) { s.Visibility = "public" },
	} {
		op := says("a/b", "")
		change(&op.Spec)
		require.ErrorContains(t, r.Register(op), want)
	}
}

// CALL-97: to import is to trust: what runs is the peer's code, whatever its
// spec said; the scoped env bounds which operation, not what it does.
func TestCALL97ImportedCodeIsThePeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		promised := call.Spec{Name: "run/job", OutputSchema: json.RawMessage(`{"type":"integer"}`)}
		h := newHub(t, call.Config{}, composing("test/do", &call.ScopedEnv{AllowedOps: []string{"run/job"}},
			func(ctx context.Context, r *call.Request) (any, error) { return r.Env.Invoke(ctx, "run/job", nil) }))
		l := h.join(named("runner"), says("run/job", "something else"))
		require.NoError(t, l.imports.RegisterImported(leaf(l.imports, promised)))
		out, err := h.as(named("user")).Call(t.Context(), "test/do", nil)
		require.Equal(t, "something else", text(t, out, err))
	})
}
