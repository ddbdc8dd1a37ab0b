package call_test

import (
	"context"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// NODE-28, for requests that bring a token: what it lets run ends when it is
// taken back, and nothing else does.
func TestNODE28RequestsEndWithTheirToken(t *testing.T) {
	api := auth.NewToken()
	registry := &auth.Config{Auth: auth.Policy{APIKeys: []auth.APIKeyEntry{
		{Prefix: api.Prefix(), Hash: api.Hash(), Scopes: []string{"run", "more"}},
	}}}
	peers, err := auth.NewPeers(registry)
	require.NoError(t, err)
	i := newIssuer(t)
	keeper, err := ticket.NewKeeper(i.key.Public().(ed25519.PublicKey), "main", &i.store)
	require.NoError(t, err)
	proto := call.New(call.Config{Provider: peers, Tickets: keeper})

	started, causes := make(chan string), make(chan error, 10)
	require.NoError(t, proto.Register(call.Operation{
		Spec: call.Spec{Name: "run/on", Access: auth.Access{RequiredScopes: []string{"run"}}},
		Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
			started <- r.Identity.ID
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		}),
	}))
	proto.Freeze()
	known := stranger(t)
	known.Identity = &auth.Identity{ID: "alice", Scopes: []string{"run"}}
	session := connect(t, proto, known)
	run := func(who string, opts ...call.CallOption) <-chan error {
		t.Helper()
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		go func() {
			_, err := session.Call(ctx, "run/on", nil, opts...)
			ended <- err
		}()
		require.Equal(t, who, <-started)
		return ended
	}
	ends := func(ended <-chan error) {
		t.Helper()
		select {
		case err := <-ended:
			require.ErrorIs(t, err, call.ErrForbidden)
			require.ErrorContains(t, err, "taken back")
			require.ErrorContains(t, <-causes, "taken back")
		case <-time.After(10 * time.Second):
			t.Fatal("it runs on")
		}
	}
	terms := func(once bool) func(*ticket.Terms) {
		return func(terms *ticket.Terms) {
			terms.Only, terms.Scopes, terms.Once = []string{"run/on"}, []string{"run"}, once
		}
	}
	made, token := i.issue(t, terms(false))
	onceMade, onceToken := i.issue(t, terms(true))

	own := run("alice")
	byToken := run(api.Prefix(), call.WithToken(api))
	byTicket := run("ticket:"+made.ID.String(), call.WithToken(token))
	usedUp := run("ticket:"+onceMade.ID.String(), call.WithToken(onceToken))
	goOn := func(list ...<-chan error) {
		t.Helper()
		proto.Recheck()
		require.Empty(t, causes)
		for _, ended := range list {
			require.Empty(t, ended)
		}
	}
	goOn(own, byToken, byTicket, usedUp)

	// A right less.
	registry.Auth.APIKeys[0].Scopes = []string{"run"}
	require.NoError(t, peers.Reload(registry))
	proto.Recheck()
	ends(byToken)
	byToken = run(api.Prefix(), call.WithToken(api))
	goOn(own, byToken, byTicket, usedUp)

	// None at all.
	require.NoError(t, peers.Reload(new(auth.Config)))
	proto.Recheck()
	ends(byToken)
	goOn(own, byTicket, usedUp)

	require.NoError(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Revoke(made.ID.String()) }))
	proto.Recheck()
	ends(byTicket)
	goOn(own, usedUp)
}
