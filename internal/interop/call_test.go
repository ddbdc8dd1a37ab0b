package interop

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
)

// outcome is how a request of the js-libp2p node ended, as it tells.
type outcome struct {
	Output json.RawMessage `json:"output"`
	Values json.RawMessage `json:"values"`
	Error  *struct {
		Code      call.Code       `json:"code"`
		Message   string          `json:"message"`
		Retryable bool            `json:"retryable"`
		Details   json.RawMessage `json:"details"`
		Remote    bool            `json:"remote"`
	} `json:"error"`
}

// code is the code of the error, or "".
func (o outcome) code() call.Code {
	if o.Error == nil {
		return ""
	}
	return o.Error.Code
}

// ours are the operations that the js-libp2p node calls.
type ours struct {
	emitted atomic.Int64
	ended   chan error // why handlers that wait for it ended
}

func (o *ours) operations() []call.Operation {
	wait := func(ctx context.Context) error {
		<-ctx.Done()
		o.ended <- context.Cause(ctx)
		return context.Cause(ctx)
	}
	return []call.Operation{
		{
			Spec: call.Spec{Name: "go/sleep", InputSchema: json.RawMessage(`{"type":"integer"}`)},
			Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
				var ms int
				if err := r.Decode(&ms); err != nil {
					return nil, err
				}
				time.Sleep(time.Duration(ms) * time.Millisecond)
				return ms, nil
			}),
		},
		{
			Spec:    call.Spec{Name: "go/wait"},
			Handler: call.HandlerFunc(func(ctx context.Context, _ *call.Request) (any, error) { return nil, wait(ctx) }),
		},
		{
			Spec: call.Spec{Name: "go/fail", Errors: []call.ErrorSpec{{Code: "NO_INK", Schema: json.RawMessage(`{"type":"object"}`)}}},
			Handler: call.HandlerFunc(func(context.Context, *call.Request) (any, error) {
				return nil, call.Errorf("NO_INK", "empty").WithDetails(map[string]string{"colour": "cyan"})
			}),
		},
		{
			Spec: call.Spec{Name: "go/numbers", Type: call.OpSubscription},
			Stream: call.StreamHandlerFunc(func(ctx context.Context, r *call.Request, emit func(any) error) error {
				var n int64
				if err := r.Decode(&n); err != nil {
					return err
				}
				for i := range n {
					o.emitted.Store(i + 1)
					if err := emit(i); err != nil {
						o.ended <- context.Cause(ctx)
						return err
					}
				}
				return nil
			}),
		},
	}
}

// A client in another language, written against SPEC.md alone, uses all of the
// protocol.
func TestJSCalls(t *testing.T) {
	js := startJS(t)
	o := ours{ended: make(chan error, 1)}
	server := newServer(t, o.operations(), ways["TCP"])
	at := addr(t, server)
	do := func(what, operation string, input any, more map[string]any) (answer outcome) {
		t.Helper()
		command := map[string]any{"do": what, "addr": at, "operation": operation, "input": input}
		maps.Copy(command, more)
		js.do(t, &answer, command)
		return answer
	}

	t.Run("lists", func(t *testing.T) {
		var rows []call.OperationInfo
		js.do(t, &rows, map[string]any{"do": "list", "addr": at})
		require.Contains(t, rows, call.OperationInfo{Name: "go/numbers", Namespace: "go", Type: call.OpSubscription})
		require.Contains(t, rows, call.OperationInfo{Name: "services/list", Namespace: "services", Type: call.OpQuery})
		require.JSONEq(t, `"go/fail"`, member(t, do("call", "services/schema", map[string]string{"name": "/go/fail"}, nil).Output, "name"))
	})
	t.Run("calls", func(t *testing.T) {
		var ended []int
		js.do(t, &ended, map[string]any{"do": "together", "addr": at, "operation": "go/sleep", "inputs": []int{400, 200, 1}})
		require.Equal(t, []int{1, 200, 400}, ended, "in order of completion, on one stream")

		failed := do("call", "go/fail", nil, nil)
		require.Equal(t, call.Code("NO_INK"), failed.code())
		require.True(t, failed.Error.Remote)
		require.JSONEq(t, `{"colour":"cyan"}`, string(failed.Error.Details))
		require.Equal(t, call.CodeNotFound, do("call", "no/such", nil, nil).code())
		require.Equal(t, call.CodeInvalidInput, do("call", "go/sleep", "x", nil).code())

		late := do("call", "go/wait", nil, map[string]any{"timeout": 50})
		require.Equal(t, call.CodeTimeout, late.code())
		require.True(t, late.Error.Retryable)
		require.ErrorIs(t, <-o.ended, call.ErrTimeout)
	})
	t.Run("aborts", func(t *testing.T) {
		require.Equal(t, "request aborted", do("abort", "go/wait", nil, map[string]any{"after": 50}).Error.Message)
		require.ErrorIs(t, <-o.ended, call.ErrAborted)
	})
	t.Run("subscribes", func(t *testing.T) {
		all := do("subscribe", "go/numbers", 100, map[string]any{"window": 8})
		require.Nil(t, all.Error)
		require.Len(t, numbers(t, all.Values), 100)

		// With credit, we are never more than the window ahead; leaving ends it.
		some := do("subscribe", "go/numbers", 1_000_000, map[string]any{"window": 4, "count": 10, "every": 5})
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, numbers(t, some.Values))
		require.ErrorIs(t, <-o.ended, call.ErrAborted)
		require.LessOrEqual(t, o.emitted.Load(), int64(10+4+1))
	})
	t.Run("violates", func(t *testing.T) {
		// A stream that breaks the rules is reset, all else goes on (CALL-6).
		for _, hex := range []string{"00000000", "ffffffff", "00000002ff7d", "000000027b7d"} {
			var end struct {
				Got    int
				Status string
			}
			js.do(t, &end, map[string]any{"do": "raw", "addr": at, "hex": hex})
			require.Equal(t, 0, end.Got)
			require.Equal(t, "reset", end.Status, hex)
		}
		require.JSONEq(t, `7`, string(do("call", "node/echo", 7, nil).Output))
	})
	t.Run("is called back", func(t *testing.T) {
		// Ours calls over the session that the js-libp2p node opened, and is called
		// by the handler meanwhile.
		out, err := server.Call(within(t, 10*time.Second), js.ID.String(), "js/back", "x")
		require.NoError(t, err)
		require.JSONEq(t, `{"back":"x"}`, string(out))
	})
}

// The server in another language: ours lists, calls, subscribes and aborts.
func TestJSServes(t *testing.T) {
	js := startJS(t)
	n := newNode(t, ways["TCP"])
	var dialled outcome
	js.do(t, &dialled, map[string]any{"do": "call", "addr": addr(t, n), "operation": "node/echo", "input": 1})
	ctx := within(t, 30*time.Second)
	s := session(t, n, js)

	rows, err := s.List(ctx)
	require.NoError(t, err)
	require.Len(t, rows, 9)
	require.Equal(t, call.OperationInfo{Name: "js/back", Namespace: "js", Type: call.OpQuery}, rows[0])
	spec, err := s.Schema(ctx, "js/fail")
	require.NoError(t, err)
	require.Equal(t, call.OpMutation, spec.Type)
	require.Equal(t, call.Code("NO_PAPER"), spec.Errors[0].Code)

	imported, err := adapt.FromCall(ctx, s, adapt.FromCallConfig{NamespacePrefix: "at"})
	require.NoError(t, err)
	require.Len(t, imported, 7, "without the services")
	require.NoError(t, s.RegisterImported(imported...))

	_, err = s.Call(ctx, "js/fail", struct{}{})
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "NO_PAPER: out of paper", e.Error())
	require.True(t, e.Remote() && e.Retryable)
	require.JSONEq(t, `{"tray":2}`, string(e.Details))
	_, err = s.Call(ctx, "js/crash", nil)
	require.EqualError(t, err, "INTERNAL: internal error")
	_, err = s.Call(ctx, "js/echo", json.RawMessage(`{"a":{"b":1,"b":2}}`))
	require.ErrorIs(t, err, call.ErrInvalidInput, "members twice")
	for i, r := range s.Batch(ctx, []call.BatchCall{{Name: "js/echo", Input: 0}, {Name: "js/echo", Input: 1}, {Name: "js/none"}}) {
		if i == 2 {
			require.ErrorIs(t, r.Err, call.ErrNotFound)
		} else {
			require.Equal(t, strconv.Itoa(i), string(r.Output))
		}
	}

	// Deadline and abort reach it.
	_, err = s.Call(ctx, "js/wait", nil, call.WithTimeout(50*time.Millisecond))
	require.ErrorIs(t, err, call.ErrTimeout)
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = s.Call(short, "js/wait", nil)
	require.Error(t, err)
	seen := func() (seen struct{ Aborted, Emitted int }) {
		js.do(t, &seen, map[string]any{"do": "seen"})
		return seen
	}
	require.Eventually(t, func() bool { return seen().Aborted == 2 }, 10*time.Second, 10*time.Millisecond)

	// It waits for credit, and completes.
	sub, err := s.Subscribe(ctx, "js/count", 50, call.WithWindow(4))
	require.NoError(t, err)
	for want := range 10 {
		value, err := sub.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(want), string(value))
	}
	require.LessOrEqual(t, seen().Emitted, 10+4+1)
	for want := 10; want < 50; want++ {
		value, err := sub.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(want), string(value))
	}
	_, err = sub.Next(ctx)
	require.ErrorIs(t, err, io.EOF)
	sub, err = s.Subscribe(ctx, "js/count", 1_000_000, call.WithWindow(2))
	require.NoError(t, err)
	_, err = sub.Next(ctx)
	require.NoError(t, err)
	require.NoError(t, sub.Close())
	require.LessOrEqual(t, seen().Emitted, 50+1+2+1)
}

// session is ours with the js-libp2p node, which has dialled us.
func session(t *testing.T, n *node.Node, js *jsNode) *call.Session {
	t.Helper()
	s, err := n.CallSession(within(t, 10*time.Second), js.ID.String())
	require.NoError(t, err)
	return s
}

// member is the JSON of a member of an object.
func member(t *testing.T, object json.RawMessage, name string) string {
	t.Helper()
	var members map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(object, &members), "%s", object)
	return string(members[name])
}

func numbers(t *testing.T, values json.RawMessage) []int {
	t.Helper()
	var list []int
	require.NoError(t, json.Unmarshal(values, &list))
	return list
}
