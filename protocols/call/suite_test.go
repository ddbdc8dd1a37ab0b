package call_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// serving returns a Protocol with the operations of the transcripts, and more.
func serving(t testing.TB, more ...call.Operation) *call.Protocol {
	t.Helper()
	p := call.New(call.Config{Provider: tokens{}})
	require.NoError(t, p.Register(append(testOperations(), more...)...))
	p.Freeze()
	return p
}

// CALL-21: any mix of streams, in both directions; CALL-27: batches among it.
func TestSuiteOverPipe(t *testing.T) {
	a, b := protocols.Pipe(call.ALPN)
	x, y := serve(t, a, serving(t), known()), serve(t, b, serving(t), known())
	suite(t, x.session(t), y.session(t))
}

// CALL-22: a connection that has one stream for everything.
func TestSuiteOverSingleStream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	accepted, err := l.Accept()
	require.NoError(t, err)
	x := serve(t, protocols.ConnectionFromStream(dialled, call.ALPN, ""), serving(t), known())
	y := serve(t, protocols.ConnectionFromStream(accepted, call.ALPN, ""), serving(t), known())
	suite(t, x.session(t), y.session(t))

	// The end of the stream is the end of the session, on both sides.
	sub, err := x.session(t).Subscribe(t.Context(), "test/ticks", nil)
	require.NoError(t, err)
	require.NoError(t, accepted.Close())
	_, err = sub.Next(t.Context())
	require.ErrorIs(t, err, call.ErrInternal)
	<-x.done
	<-y.done
}

// suite is what must work over every kind of connection, in both directions at
// the same time (NODE-5, CALL-21).
func suite(t *testing.T, x, y *call.Session) {
	t.Helper()
	var wg sync.WaitGroup
	for _, s := range []*call.Session{x, y} {
		wg.Go(func() { oneWay(t, s) })
	}
	wg.Wait()
}

func oneWay(t *testing.T, s *call.Session) {
	ctx := t.Context()
	check := func(err error) bool {
		if err != nil {
			t.Error(err)
		}
		return err == nil
	}
	is := func(err, want error) {
		if !errors.Is(err, want) {
			t.Errorf("want %v, got %v", want, err)
		}
	}
	expect := func(want, got any) {
		if fmt.Sprint(want) != fmt.Sprint(got) {
			t.Errorf("want %v, got %v", want, got)
		}
	}

	out, err := s.Call(ctx, "node/echo", map[string]int{"a": 1})
	check(err)
	expect(`{"a":1}`, string(out))

	large := json.RawMessage(`"` + strings.Repeat("l", 200_000) + `"`)
	out, err = s.Call(ctx, "node/echo", large)
	check(err)
	expect(len(large), len(out))

	_, err = s.Call(ctx, "test/domain", map[string]any{"Code": "FILE_NOT_FOUND", "Details": map[string]string{"path": "/x"}})
	if e, ok := errors.AsType[*call.Error](err); ok {
		expect("FILE_NOT_FOUND: told so", e.Error())
		expect(`{"path":"/x"}`, string(e.Details))
	} else {
		t.Errorf("not a *call.Error: %v", err)
	}

	sub, err := s.Subscribe(ctx, "test/count", 100)
	if check(err) {
		n := 0
		for v, err := range sub.All(ctx) {
			check(err)
			expect(n, string(v))
			n++
		}
		expect(100, n)
	}

	abort, cancel := context.WithCancel(ctx)
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err = s.Call(abort, "test/wait", nil)
	is(err, call.ErrAborted)
	is(err, context.Canceled)

	var calls []call.BatchCall
	for i := range 100 {
		calls = append(calls, call.BatchCall{Name: "node/echo", Input: i})
	}
	calls = append(calls, call.BatchCall{Name: "no/such"})
	for i, r := range s.Batch(ctx, calls) { // CALL-27
		if i == 100 {
			is(r.Err, call.ErrNotFound)
		} else if check(r.Err) {
			expect(i, string(r.Output))
		}
	}

	list, err := s.List(ctx)
	check(err)
	expect(15, len(list))
	spec, err := s.Schema(ctx, "test/domain")
	if check(err) {
		expect("test/domain", spec.Name)
		expect(call.OpMutation, spec.Type)
		expect("FILE_NOT_FOUND", spec.Errors[0].Code)
	}
	_, err = s.Schema(ctx, "test/hidden")
	is(err, call.ErrNotFound)

	sub, err = s.Subscribe(ctx, "test/count", 1_000_000, call.WithWindow(4))
	if check(err) {
		for range 10 {
			_, err := sub.Next(ctx)
			check(err)
		}
		check(sub.Close())
		_, err = sub.Next(ctx)
		is(err, call.ErrAborted)
	}

	sub, err = s.Subscribe(ctx, "test/count", 0)
	if check(err) {
		_, err := sub.Next(ctx)
		is(err, io.EOF)
	}
}
