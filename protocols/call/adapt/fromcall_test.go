package adapt_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
)

// known is the identity under which a side knows the other.
func known(name string, scopes ...string) auth.Context {
	return auth.Context{
		Identity: &auth.Identity{ID: name, Scopes: scopes, Resources: map[string][]string{}},
		PeerName: auth.PeerName(name), ALPN: call.ALPN,
	}
}

// join connects two protocols in memory until the test ends; each knows the
// other as the context given. The sessions are returned in the same order.
func join(t *testing.T, a, b *call.Protocol, toA, toB auth.Context) (ofA, ofB *call.Session) {
	t.Helper()
	x, y := protocols.Pipe(call.ALPN)
	run(t, a, x, toA)
	run(t, b, y, toB)
	ofA, err := a.Session(t.Context(), x)
	require.NoError(t, err)
	ofB, err = b.Session(t.Context(), y)
	require.NoError(t, err)
	return ofA, ofB
}

func run(t *testing.T, p *call.Protocol, conn protocols.Connection, peer auth.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Handle(ctx, conn, peer)
		_ = conn.Close(0, "handled")
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func protocol(t *testing.T, cfg call.Config, ops ...call.Operation) *call.Protocol {
	t.Helper()
	p := call.New(cfg)
	require.NoError(t, p.Register(ops...))
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func query(name string, f call.HandlerFunc) call.Operation {
	return call.Operation{Spec: call.Spec{Name: name}, Handler: f}
}

// runnerOperations are what the runner of these tests offers.
func runnerOperations() []call.Operation {
	return []call.Operation{
		query("run/echo", func(_ context.Context, r *call.Request) (any, error) { return r.Input, nil }),
		query("run/who", func(_ context.Context, r *call.Request) (any, error) {
			return map[string]any{"identity": r.Identity, "forwarded_for": r.ForwardedFor}, nil
		}),
		query("run/left", func(_ context.Context, r *call.Request) (any, error) {
			return time.Until(r.Deadline).Round(time.Second).String(), nil
		}),
		{
			Spec: call.Spec{
				Name: "run/fail", Type: call.OpMutation,
				InputSchema: json.RawMessage(`{"type":"object"}`), OutputSchema: json.RawMessage(`{"type":"string"}`),
				Errors: []call.ErrorSpec{{Code: "NO_DISK", Description: "no disk", Schema: json.RawMessage(`{"type":"integer"}`)}},
				Access: auth.Access{RequiredScopes: []string{"run"}},
			},
			Handler: call.HandlerFunc(func(context.Context, *call.Request) (any, error) {
				return nil, &call.Error{Code: "NO_DISK", Message: "full", Retryable: true, Details: json.RawMessage(`7`)}
			}),
		},
		{
			Spec: call.Spec{Name: "run/count", Type: call.OpSubscription},
			Stream: call.StreamHandlerFunc(func(_ context.Context, r *call.Request, emit func(any) error) error {
				var n int
				if err := r.Decode(&n); err != nil {
					return err
				}
				for i := range n {
					if err := emit(i); err != nil {
						return err
					}
				}
				return nil
			}),
		},
	}
}

// hub imports from a runner and offers each of its operations again, under the
// prefix "via", to a user.
type hub struct {
	user   *call.Session // the user's, with the hub
	runner *call.Session // the hub's, with the runner
}

func newHub(t *testing.T, cfg adapt.FromCallConfig, runnerOps ...call.Operation) hub {
	t.Helper()
	runner := protocol(t, call.Config{}, runnerOps...)
	authority := &call.CompositionAuthority{Label: "dispatch", Scopes: []string{"run"}}
	h := protocol(t, call.Config{MaxTimeout: time.Hour}, func() (ops []call.Operation) {
		for _, op := range runnerOps {
			spec := op.Spec
			spec.Name, spec.Access = "via/"+spec.Name, auth.Access{}
			ops = append(ops, call.ReExport(spec, call.PeerSpecific("runner"), op.Spec.Name, authority))
		}
		return ops
	}()...)
	toRunner, _ := join(t, h, runner, known("runner"), known("hub", "run"))
	ops, err := adapt.FromCall(t.Context(), toRunner, cfg)
	require.NoError(t, err)
	require.NoError(t, toRunner.RegisterImported(ops...))
	user, _ := join(t, protocol(t, call.Config{}), h, known("hub"), known("user", "boss"))
	return hub{user, toRunner}
}

func TestCALL91FromCall(t *testing.T) {
	runner := protocol(t, call.Config{}, runnerOperations()...)
	hub := protocol(t, call.Config{})
	s, _ := join(t, hub, runner, known("runner"), known("hub", "run"))

	ops, err := adapt.FromCall(t.Context(), s, adapt.FromCallConfig{NamespacePrefix: "one"})
	require.NoError(t, err)
	var names []string
	for _, op := range ops {
		names = append(names, op.Spec.Name)
		require.Equal(t, call.Internal, op.Spec.Visibility)
		require.Equal(t, call.FromCall, op.Provenance)
		require.Nil(t, op.Authority)
		require.Nil(t, op.ScopedEnv)
		require.Equal(t, "[0 redacted]", op.Capabilities.String())
	}
	require.Equal(t, []string{"one/run/count", "one/run/echo", "one/run/fail", "one/run/left", "one/run/who"}, names, "services/ is left out (CALL-92)")

	// The spec is the peer's, but for name and visibility.
	fail := ops[2].Spec
	require.Equal(t, call.OpMutation, fail.Type)
	require.JSONEq(t, `{"type":"object"}`, string(fail.InputSchema))
	require.JSONEq(t, `{"type":"string"}`, string(fail.OutputSchema))
	require.Equal(t, auth.Access{RequiredScopes: []string{"run"}}, fail.Access)
	require.Equal(t, call.Code("NO_DISK"), fail.Errors[0].Code)
	require.JSONEq(t, `{"type":"integer"}`, string(fail.Errors[0].Schema))

	// What we may not call we do not see, so it is not imported.
	stranger, _ := join(t, protocol(t, call.Config{}), runner, known("runner"), known("stranger"))
	ops, err = adapt.FromCall(t.Context(), stranger, adapt.FromCallConfig{})
	require.NoError(t, err)
	require.Len(t, ops, 4)

	// CALL-92: unless filtered in.
	ops, err = adapt.FromCall(t.Context(), s, adapt.FromCallConfig{OperationFilter: func(op call.OperationInfo) bool {
		return op.Namespace == "services" || op.Type == call.OpSubscription
	}})
	require.NoError(t, err)
	names = nil
	for _, op := range ops {
		names = append(names, op.Spec.Name)
	}
	require.Equal(t, []string{"run/count", "services/list", "services/schema"}, names)
}

// CALL-91: no more than 8 specs are asked for at a time.
func TestCALL91EightAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		next := make(chan struct{})
		count := func(ctx context.Context, r *call.Request, run func(context.Context) error) error {
			if r.Operation == "services/schema" {
				asked.Add(1)
				<-next
			}
			return run(ctx)
		}
		var ops []call.Operation
		for i := range 20 {
			ops = append(ops, query(fmt.Sprintf("run/op%d", i), nil))
			ops[i].Handler = call.HandlerFunc(func(context.Context, *call.Request) (any, error) { return nil, nil })
		}
		runner := protocol(t, call.Config{Interceptors: []call.Interceptor{count}}, ops...)
		s, _ := join(t, protocol(t, call.Config{}), runner, known("runner"), known("hub"))
		done := make(chan int)
		go func() {
			ops, _ := adapt.FromCall(t.Context(), s, adapt.FromCallConfig{})
			done <- len(ops)
		}()
		for want := int32(8); want <= 20; want++ {
			synctest.Wait()
			require.Equal(t, want, asked.Load())
			next <- struct{}{}
		}
		close(next)
		require.Equal(t, 20, <-done)
	})
}

// CALL-55, CALL-95: what the peer answers is what the caller gets.
func TestCALL95LeavesForward(t *testing.T) {
	h := newHub(t, adapt.FromCallConfig{}, runnerOperations()...)
	out, err := h.user.Call(t.Context(), "via/run/echo", json.RawMessage(`{"z":9007199254740993,"a":[ 1.0 ]}`))
	require.NoError(t, err)
	require.Equal(t, `{"z":9007199254740993,"a":[ 1.0 ]}`, string(out))

	_, err = h.user.Call(t.Context(), "via/run/fail", struct{}{})
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "NO_DISK: full", e.Error())
	require.True(t, e.Retryable)
	require.Equal(t, `7`, string(e.Details))

	sub, err := h.user.Subscribe(t.Context(), "via/run/count", 100)
	require.NoError(t, err)
	n := 0
	for item, err := range sub.All(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(n), string(item))
		n++
	}
	require.Equal(t, 100, n, "complete")
	sub, err = h.user.Subscribe(t.Context(), "via/run/count", "x")
	require.NoError(t, err)
	_, err = sub.Next(t.Context())
	require.ErrorIs(t, err, call.ErrInvalidInput)
}

// CALL-28, CALL-95: a subscriber that stops taking stops the operation at the
// far end, and one that leaves ends it.
func TestCALL95BackPressureAndAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var emitted atomic.Int32
		ended := make(chan error, 1)
		h := newHub(t, adapt.FromCallConfig{}, call.Operation{
			Spec: call.Spec{Name: "run/flood", Type: call.OpSubscription},
			Stream: call.StreamHandlerFunc(func(ctx context.Context, _ *call.Request, emit func(any) error) error {
				for {
					if err := emit(emitted.Add(1)); err != nil {
						ended <- context.Cause(ctx)
						return err
					}
				}
			}),
		})
		sub, err := h.user.Subscribe(t.Context(), "via/run/flood", nil, call.WithWindow(4))
		require.NoError(t, err)
		time.Sleep(time.Hour)
		stuck := emitted.Load()
		// 4 at the user, 1 in the hub's hand, 32 on the way to it, 1 in the runner's.
		require.LessOrEqual(t, stuck, int32(4+1+32+1))
		for i := range 1000 {
			item, err := sub.Next(t.Context())
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(i+1), string(item))
		}
		synctest.Wait()
		require.LessOrEqual(t, emitted.Load(), stuck+1000+32)
		require.NoError(t, sub.Close())
		require.ErrorIs(t, <-ended, call.ErrAborted)
	})
}

// CALL-41: the peer has what is left of the deadline, not one of its own.
func TestCALL41LeavesForwardTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, adapt.FromCallConfig{}, append(runnerOperations(),
			query("run/wait", func(ctx context.Context, _ *call.Request) (any, error) {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}))...)
		for _, d := range []time.Duration{2 * time.Second, 2 * time.Minute} {
			left, err := call.Invoke[string](t.Context(), h.user, "via/run/left", nil, call.WithTimeout(d))
			require.NoError(t, err)
			require.Equal(t, d.String(), left)
		}
		start := time.Now()
		_, err := h.user.Call(t.Context(), "via/run/wait", nil, call.WithTimeout(2*time.Minute))
		require.ErrorIs(t, err, call.ErrTimeout)
		require.Equal(t, 2*time.Minute, time.Since(start))
	})
}

// CALL-96: the peer is told of the user who calls, as much as it may know, and
// never what somebody else claimed to us.
func TestCALL96ForwardIdentity(t *testing.T) {
	for forward, want := range map[adapt.ForwardIdentity]string{
		adapt.ForwardFull: `{"id":"user","scopes":["boss"],"resources":{}}`,
		adapt.ForwardID:   `{"id":"user","scopes":[],"resources":{}}`,
		adapt.ForwardNone: `null`,
	} {
		h := newHub(t, adapt.FromCallConfig{ForwardIdentity: forward}, runnerOperations()...)
		out, err := h.user.Call(t.Context(), "via/run/who", nil,
			call.WithToken(auth.TokenFromText("alk_secret")),
			call.WithForwardedFor(auth.Identity{ID: "claimed", Scopes: []string{}, Resources: map[string][]string{}}))
		require.NoError(t, err)
		require.JSONEq(t, `{"identity":{"id":"hub","scopes":["run"],"resources":{}},"forwarded_for":`+want+`}`, string(out))
	}
}

// CALL-77: a running forward fails with its session, and is never left hanging.
func TestCALL77LeavesFailWithTheSession(t *testing.T) {
	started := make(chan struct{})
	h := newHub(t, adapt.FromCallConfig{}, query("run/wait", func(ctx context.Context, _ *call.Request) (any, error) {
		close(started)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}))
	done := make(chan error)
	go func() {
		_, err := h.user.Call(t.Context(), "via/run/wait", nil)
		done <- err
	}()
	<-started
	require.NoError(t, h.runner.Connection().Close(0, "gone"))
	require.EqualError(t, <-done, "INTERNAL: connection closed")
	<-h.runner.Done()
	_, err := h.user.Call(t.Context(), "via/run/wait", nil)
	require.ErrorIs(t, err, call.ErrNotFound)
}

// bare is a peer that answers the calls of the other side by hand: with the
// payload of call.responded or call.error.
func bare(t *testing.T, answer func(operation string, input json.RawMessage) (event, payload string)) *call.Session {
	t.Helper()
	x, y := protocols.Pipe(call.ALPN)
	p := protocol(t, call.Config{})
	run(t, p, x, known("bare"))
	s, err := p.Session(t.Context(), x)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		stream, err := y.AcceptStream(context.Background())
		for err == nil {
			err = answerOne(stream, answer)
		}
		_ = y.Close(0, "over")
	}()
	t.Cleanup(func() {
		_ = y.Close(0, "over")
		<-done
	})
	return s
}

func answerOne(stream protocols.Stream, answer func(string, json.RawMessage) (string, string)) error {
	var prefix [4]byte
	if _, err := io.ReadFull(stream, prefix[:]); err != nil {
		return err
	}
	body := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	if _, err := io.ReadFull(stream, body); err != nil {
		return err
	}
	var req struct {
		Type, ID string
		Payload  struct {
			OperationID string
			Input       json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &req); err != nil || req.Type != "call.requested" {
		return err
	}
	event, payload := answer(strings.TrimPrefix(req.Payload.OperationID, "/"), req.Payload.Input)
	text := fmt.Sprintf(`{"type":%q,"id":%q,"payload":%s}`, event, req.ID, payload)
	_, err := stream.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// CALL-93, CALL-94: what a peer may say wrong, and what that is called.
func TestCALL94MalformedPeers(t *testing.T) {
	responded := func(output string) [2]string { return [2]string{"call.responded", `{"output":` + output + `}`} }
	failed := func(code string) [2]string {
		return [2]string{"call.error", `{"code":"` + code + `","message":"no","retryable":false}`}
	}
	const row = `{"name":"a/b","namespace":"a","op_type":"query"}`
	good := responded(`{"operations":[` + row + `]}`)
	spec := func(name, typ, more string) [2]string {
		return responded(`{"name":"` + name + `","namespace":"a","op_type":"` + typ + `"` + more + `}`)
	}
	for name, test := range map[string]struct {
		list, schema [2]string
		want         adapt.AdapterErrorKind
	}{
		"no operations":        {responded(`{}`), good, adapt.SchemaParse},
		"null operations":      {responded(`{"operations":null}`), good, adapt.SchemaParse},
		"other case":           {responded(`{"Operations":[]}`), good, adapt.SchemaParse},
		"members twice":        {responded(`{"operations":[],"operations":[]}`), good, adapt.SchemaParse},
		"no list":              {responded(`[]`), good, adapt.SchemaParse},
		"no name":              {responded(`{"operations":[{"op_type":"query"}]}`), good, adapt.SchemaParse},
		"unknown type":         {responded(`{"operations":[{"name":"a/b","op_type":"event"}]}`), good, adapt.SchemaParse},
		"no type":              {responded(`{"operations":[{"name":"a/b"}]}`), good, adapt.SchemaParse},
		"twice":                {responded(`{"operations":[` + row + `,` + row + `]}`), good, adapt.SamePeerCollision},
		"too many":             {responded(`{"operations":[` + manyRows(5000) + `]}`), good, adapt.SchemaParse},
		"forbidden":            {failed("FORBIDDEN"), good, adapt.Unauthorized},
		"no such operation":    {failed("NOT_FOUND"), good, adapt.DiscoveryFailed},
		"some code":            {failed("WHATEVER"), good, adapt.DiscoveryFailed},
		"spec forbidden":       {good, failed("FORBIDDEN"), adapt.Unauthorized},
		"spec gone":            {good, failed("NOT_FOUND"), adapt.DiscoveryFailed},
		"spec of another":      {good, spec("a/c", "query", ""), adapt.SchemaParse},
		"spec of unknown type": {good, spec("a/b", "event", ""), adapt.SchemaParse},
		"spec twice":           {good, spec("a/b", "query", `,"name":"a/b"`), adapt.SchemaParse},
		"no spec":              {good, responded(`null`), adapt.SchemaParse},
		"spec too large":       {good, responded(`{"name":"a/b","op_type":"query","input_schema":{"description":"` + strings.Repeat("x", 17<<20) + `"}}`), adapt.SchemaParse},
		"bad visibility":       {good, spec("a/b", "query", `,"visibility":"secret"`), adapt.SchemaParse},
		"nobody":               {[2]string{"call.aborted", `{}`}, good, adapt.DiscoveryFailed},
	} {
		t.Run(name, func(t *testing.T) {
			s := bare(t, func(operation string, _ json.RawMessage) (string, string) {
				if operation == "services/list" {
					return test.list[0], test.list[1]
				}
				return test.schema[0], test.schema[1]
			})
			ops, err := adapt.FromCall(t.Context(), s, adapt.FromCallConfig{})
			var e *adapt.AdapterError
			require.ErrorAs(t, err, &e)
			require.Equal(t, test.want, e.Kind, "%v", err)
			require.Empty(t, ops)
			require.Less(t, len(err.Error()), 500)
		})
	}

	// What may be left out.
	s := bare(t, func(operation string, _ json.RawMessage) (string, string) {
		answer := good
		if operation == "services/schema" {
			answer = responded(`{"name":"a/b","op_type":"query","error_schemas":[{"description":"no code"},{"code":"X"}]}`)
		}
		return answer[0], answer[1]
	})
	ops, err := adapt.FromCall(t.Context(), s, adapt.FromCallConfig{})
	require.NoError(t, err)
	require.Len(t, ops, 1)
	require.Equal(t, auth.Access{}, ops[0].Spec.Access)
	require.Len(t, ops[0].Spec.Errors, 1)
	require.NoError(t, s.RegisterImported(ops...))
}

func manyRows(n int) string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf(`{"name":"a/b%d","op_type":"query"}`, i)
	}
	return strings.Join(rows, ",")
}

func TestFromCallIsBoundedByItsContext(t *testing.T) {
	never := make(chan struct{})
	s := bare(t, func(string, json.RawMessage) (string, string) {
		<-never
		return "call.aborted", "{}"
	})
	defer close(never)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := adapt.FromCall(ctx, s, adapt.FromCallConfig{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var e *adapt.AdapterError
	require.ErrorAs(t, err, &e)
	require.Equal(t, adapt.DiscoveryFailed, e.Kind)

	require.NoError(t, s.Connection().Close(0, ""))
	<-s.Done()
	_, err = adapt.FromCall(t.Context(), s, adapt.FromCallConfig{})
	require.ErrorAs(t, err, &e)
	require.Equal(t, adapt.Transport, e.Kind)
}
