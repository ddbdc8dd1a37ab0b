//go:build unix

package adapt_test

import (
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
)

// session is one that calls ops over an in-memory connection, as identity id.
func session(t *testing.T, id *auth.Identity, ops ...call.Operation) *call.Session {
	t.Helper()
	caller, responder := call.New(call.Config{}), call.New(call.Config{})
	require.NoError(t, responder.Register(ops...))
	a, b := protocols.Pipe(call.ALPN)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = caller.Handle(ctx, a, auth.Context{}) })
	wg.Go(func() { _ = responder.Handle(ctx, b, auth.Context{Identity: id}) })
	t.Cleanup(func() {
		cancel()
		_ = a.Close(0, "")
		wg.Wait()
	})
	s, err := caller.Session(ctx, a)
	require.NoError(t, err)
	return s
}

func TestCalledByAPeer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	table := sh(t, adapt.ExecConfig{Name: "disk/free", Input: adapt.InputNone, Output: adapt.OutputText}, `echo table`)
	hang := sh(t, adapt.ExecConfig{Name: "test/hang", Scopes: []string{}, Timeout: 300 * time.Millisecond}, `echo $$ >"$1"; sleep 100`, file)
	fail := sh(t, adapt.ExecConfig{Name: "test/fail", Scopes: []string{}}, `exit 4`)
	known := &auth.Identity{ID: "b", Scopes: []string{"call:disk/free"}}

	s := session(t, known, table, hang, fail)
	out, err := s.Call(t.Context(), "disk/free", json.RawMessage(`{}`))
	require.NoError(t, err)
	require.Equal(t, `{"text":"table\n"}`, string(out))

	_, err = s.Call(t.Context(), "disk/free", json.RawMessage(`{"path":"/"}`))
	require.ErrorIs(t, err, call.ErrInvalidInput)
	require.ErrorContains(t, err, "path", "the message names what is not taken")

	_, err = s.Call(t.Context(), "test/hang", json.RawMessage(`{}`))
	require.ErrorIs(t, err, call.ErrTimeout)
	requireNoGroup(t, readPID(t, file))

	_, err = s.Call(t.Context(), "test/fail", json.RawMessage(`{}`))
	var failed *call.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, adapt.CodeExecFailed, failed.Code)
	require.JSONEq(t, `{"exit_code":4}`, string(failed.Details))

	_, err = session(t, nil, table).Call(t.Context(), "disk/free", json.RawMessage(`{}`))
	require.ErrorIs(t, err, call.ErrForbidden)
}

// The subscriber leaves, by closing or by losing its session: the program is
// gone within a second.
func TestSubscribedByAPeer(t *testing.T) {
	for name, leave := range map[string]func(*call.Subscription, context.CancelFunc){
		"close":  func(sub *call.Subscription, _ context.CancelFunc) { sub.Close() },
		"cancel": func(_ *call.Subscription, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			load := sh(t, adapt.ExecConfig{Name: "sys/load", Type: call.OpSubscription, Scopes: []string{}},
				`echo $$ >"$1"; i=0; while :; do echo "{\"n\":$i}"; i=$((i+1)); sleep 0.01; done`, file)
			s := session(t, nil, load)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			sub, err := s.Subscribe(ctx, "sys/load", json.RawMessage(`{}`))
			require.NoError(t, err)
			for _, want := range []string{`{"n":0}`, `{"n":1}`, `{"n":2}`} {
				item, err := sub.Next(ctx)
				require.NoError(t, err)
				require.Equal(t, want, string(item))
			}
			at := time.Now()
			leave(sub, cancel)
			requireNoGroup(t, readPID(t, file))
			require.Less(t, time.Since(at), time.Second)
		})
	}

	two := sh(t, adapt.ExecConfig{Name: "sys/two", Type: call.OpSubscription, Scopes: []string{}}, `echo 1; echo 2`)
	sub, err := session(t, nil, two).Subscribe(t.Context(), "sys/two", json.RawMessage(`{}`))
	require.NoError(t, err)
	for _, want := range []string{"1", "2"} {
		item, err := sub.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, string(item))
	}
	_, err = sub.Next(t.Context())
	require.ErrorIs(t, err, io.EOF)
}
