package protocols_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// caller is a node that calls another.
type caller struct {
	host   *testHost
	router *protocols.Router
	calls  *call.Protocol
}

func newCaller(t *testing.T, to *testHost) *caller {
	t.Helper()
	c := &caller{host: newHost(t, "quic"), calls: call.New(call.Config{})}
	c.host.know(to)
	c.router = newRouter(t, c.host, nil, c.calls)
	return c
}

func (c *caller) call(ctx context.Context, to *testHost, operation string) error {
	conn, err := c.router.Open(ctx, to.ID(), call.ALPN, "")
	if err != nil {
		return err
	}
	s, err := c.calls.Session(ctx, conn)
	if err != nil {
		return err
	}
	_, err = s.Call(ctx, operation, 1)
	return err
}

// NODE-27, NODE-28: the registry is reloaded a thousand times under load, from good files and
// bad ones in turn. A peer that keeps its rights loses no call; one that loses
// them is out, and its running call cancelled, within a second; a bad file
// changes nothing and its error says where it is bad.
func TestNODE28ReloadsUnderLoad(t *testing.T) {
	reloads := 1000
	if testing.Short() {
		reloads = 100
	}
	b := newHost(t, "quic")
	keeps, loses := newCaller(t, b), newCaller(t, b)
	path := filepath.Join(t.TempDir(), peerfile.Name)
	steady := auth.PeerEntry{PeerName: "keeps", Fingerprints: []string{keeps.host.fingerprint(t)}, Scopes: []string{"x"}, Enabled: true}
	shaky := auth.PeerEntry{PeerName: "loses", Fingerprints: []string{loses.host.fingerprint(t)}, Scopes: []string{"x"}, Enabled: true}
	write := func(text []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(path+".new", text, 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	config := func(entries ...auth.PeerEntry) []byte {
		text, err := (&auth.Config{Auth: auth.Policy{Peers: entries}}).Append(nil)
		require.NoError(t, err)
		return text
	}
	peers := peersOf(t)
	entered, left := make(chan struct{}, 1), make(chan error, 1)
	access := auth.Access{RequiredScopes: []string{"x"}}
	server := call.New(call.Config{Provider: peers})
	require.NoError(t, server.Register(
		call.Operation{Spec: call.Spec{Name: "load/echo", Access: access}, Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) { return r.Input, nil })},
		call.Operation{Spec: call.Spec{Name: "load/hold", Access: access}, Handler: call.HandlerFunc(func(ctx context.Context, _ *call.Request) (any, error) {
			entered <- struct{}{}
			<-ctx.Done()
			left <- ctx.Err()
			return nil, ctx.Err()
		})}))
	router := newRouter(t, b, peers, server)
	reload := func() error {
		err := peerfile.Reload(path, peers)
		if err == nil {
			router.Recheck()
		}
		return err
	}
	write(config(steady, shaky))
	require.NoError(t, reload())

	ctx, stop := context.WithCancel(t.Context())
	var (
		load  sync.WaitGroup
		calls atomic.Int64
	)
	defer load.Wait()
	defer stop()
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				if err := keeps.call(t.Context(), b, "load/echo"); err != nil {
					t.Errorf("a peer that keeps its rights lost a call: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	bad := func() {
		t.Helper()
		write([]byte("{\"auth\": {\n  \"peers\": [\n    {\"peer_id\": \"keeps\", \"scopes\": [\"x\", \"\"]}]}}"))
		err := reload()
		require.ErrorIs(t, err, peerfile.ErrInvalid)
		require.ErrorContains(t, err, path+":3:42: auth.peers[0].scopes[1] (keeps): is empty")
	}

	var slowest time.Duration
	for done := 0; done < reloads; done += 4 {
		held := make(chan error, 1)
		go func() { held <- loses.call(t.Context(), b, "load/hold") }()
		select {
		case <-entered:
		case err := <-held:
			t.Fatalf("reload %d: with rights, but refused: %v", done, err)
		}
		bad()
		select {
		case <-left:
			t.Fatal("a bad file ended a call")
		default:
		}

		write(config(steady))
		began := time.Now()
		require.NoError(t, reload())
		require.Error(t, receive(t, left), "the running call is cancelled")
		require.Error(t, receive(t, held))
		require.Eventually(t, func() bool { return sessionsOf(router, loses.host) == 0 }, 10*time.Second, 100*time.Microsecond)
		slowest = max(slowest, time.Since(began))
		if done%100 == 0 {
			err := loses.call(t.Context(), b, "load/echo")
			require.ErrorIs(t, err, call.ErrForbidden, "it comes back without rights")
		}

		bad()
		write(config(steady, shaky))
		require.NoError(t, reload())
		require.Eventually(t, func() bool { return loses.call(t.Context(), b, "load/echo") == nil }, 10*time.Second, time.Millisecond)
	}
	require.Less(t, slowest, time.Second)
	require.Equal(t, 1, sessionsOf(router, keeps.host), "one session all the while")
	t.Logf("%d reloads, %d calls beside them, out after %v at most", reloads, calls.Load(), slowest)
}

// sessionsOf counts the sessions with a host.
func sessionsOf(r *protocols.Router, h *testHost) (n int) {
	for _, s := range r.Sessions() {
		if s.Peer == h.ID() {
			n++
		}
	}
	return n
}
