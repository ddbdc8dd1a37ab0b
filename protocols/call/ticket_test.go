package call_test

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// issuer is a node that issues tickets and serves disk/free, disk/wipe and
// open/any.
type issuer struct {
	key      ed25519.PrivateKey
	store    ticket.Memory
	proto    *call.Protocol
	runs     atomic.Int32
	failures atomic.Int32 // how many tokens of a session may fail
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := new(issuer)
	i.failures.Store(1000)
	var err error
	_, i.key, err = ed25519.GenerateKey(nil)
	require.NoError(t, err)
	keeper, err := ticket.NewKeeper(i.key.Public().(ed25519.PublicKey), "main", &i.store)
	require.NoError(t, err)
	i.proto = call.New(call.Config{
		Provider: tokens{}, Tickets: keeper, MaxTokenFailures: func() int { return int(i.failures.Load()) },
	})
	op := func(name string, access auth.Access) call.Operation {
		return call.Operation{
			Spec: call.Spec{Name: name, Access: access, InputSchema: json.RawMessage(`{"type":["object","null"]}`)},
			Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
				i.runs.Add(1)
				if r.Identity == nil {
					return "", nil
				}
				return r.Identity.ID, nil
			}),
		}
	}
	require.NoError(t, i.proto.Register(
		op("disk/free", auth.Access{RequiredScopes: []string{"call:disk/free"}}),
		op("disk/wipe", auth.Access{RequiredScopes: []string{"call:disk/free"}}),
		op("open/any", auth.Access{})))
	i.proto.Freeze()
	return i
}

// sign makes a ticket for disk/free, without recording it.
func (i *issuer) sign(t *testing.T, change func(*ticket.Terms)) (*ticket.Ticket, auth.Token) {
	t.Helper()
	terms := ticket.Terms{Network: "main", Scopes: []string{"call:disk/free"}, Only: []string{"disk/free"}, Expires: time.Now().Add(time.Hour)}
	if change != nil {
		change(&terms)
	}
	made, token, err := ticket.Sign(i.key, terms)
	require.NoError(t, err)
	return made, token
}

func (i *issuer) issue(t *testing.T, change func(*ticket.Terms)) (*ticket.Ticket, auth.Token) {
	t.Helper()
	made, token := i.sign(t, change)
	require.NoError(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Record(made, "") }))
	return made, token
}

// stranger is a peer with a key that is not in the registry.
func stranger(t *testing.T) auth.Context {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return auth.Context{PeerName: "5f1c", ALPN: call.ALPN, Fingerprint: "ed25519:" + hex.EncodeToString(public)}
}

// guest is a stranger where strangers are not admitted.
func guest(t *testing.T) auth.Context {
	c := stranger(t)
	c.Guest = &auth.Identity{ID: "guest", Scopes: []string{}, Resources: map[string][]string{}, Only: []string{}}
	return c
}

// NODE-67: a ticket used rightly, and in every wrong way: only the first
// passes.
func TestTickets(t *testing.T) {
	i := newIssuer(t)
	a := stranger(t)
	session := connect(t, i.proto, a)
	free := func(token auth.Token) error {
		_, err := session.Call(t.Context(), "disk/free", nil, call.WithToken(token))
		return err
	}
	forbidden := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, call.ErrForbidden)
	}

	made, token := i.issue(t, nil)
	out, err := session.Call(t.Context(), "disk/free", nil, call.WithToken(token))
	require.NoError(t, err)
	require.JSONEq(t, `"ticket:`+made.ID.String()+`"`, string(out))
	require.NoError(t, free(token), "not good for one use only")

	t.Run("another operation", func(t *testing.T) {
		for _, op := range []string{"disk/wipe", "open/any", "services/list", "services/schema"} {
			_, err := session.Call(t.Context(), op, map[string]string{"name": "disk/free"}, call.WithToken(token))
			forbidden(err)
		}
		_, err := session.Call(t.Context(), "open/any", nil)
		require.NoError(t, err, "without a ticket anyone may")
	})
	t.Run("another key", func(t *testing.T) {
		other := connect(t, i.proto, stranger(t))
		_, err := other.Call(t.Context(), "disk/free", nil, call.WithToken(token))
		forbidden(err)
	})
	t.Run("used twice", func(t *testing.T) {
		_, once := i.issue(t, func(c *ticket.Terms) { c.Once = true })
		_, err := session.Call(t.Context(), "disk/free", "not an object", call.WithToken(once))
		require.ErrorIs(t, err, call.ErrInvalidInput, "which uses nothing up")
		_, err = session.Call(t.Context(), "disk/wipe", nil, call.WithToken(once))
		forbidden(err)
		require.NoError(t, free(once))
		forbidden(free(once))
	})
	t.Run("expired", func(t *testing.T) {
		_, old := i.issue(t, func(c *ticket.Terms) { c.Expires = time.Now() })
		forbidden(free(old))
	})
	t.Run("revoked", func(t *testing.T) {
		gone, token := i.issue(t, nil)
		require.NoError(t, free(token))
		require.NoError(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Revoke(gone.ID.String()) }))
		forbidden(free(token))
	})
	t.Run("forged", func(t *testing.T) {
		text := []byte(token.Reveal())
		last := len(text) - 3
		text[last] ^= 1
		forbidden(free(auth.TokenFromText(string(text))))
		_, unrecorded := i.sign(t, nil)
		forbidden(free(unrecorded))
	})
	t.Run("another node or network", func(t *testing.T) {
		_, elsewhere := newIssuer(t).issue(t, nil)
		forbidden(free(elsewhere))
		_, network := i.issue(t, func(c *ticket.Terms) { c.Network = "test" })
		forbidden(free(network))
	})
	t.Run("bearer", func(t *testing.T) {
		_, bearer := i.issue(t, func(c *ticket.Terms) { c.Bearer = true })
		require.NoError(t, free(bearer))
		other := connect(t, i.proto, stranger(t))
		_, err := other.Call(t.Context(), "disk/free", nil, call.WithToken(bearer))
		require.NoError(t, err)
	})
	require.NoError(t, free(token), "the true one is still good")
}

// NODE-67: redeemed in parallel, over many sessions, a ticket that is good for one use
// runs its operation once.
func TestTicketInParallel(t *testing.T) {
	for _, bearer := range []bool{false, true} {
		i := newIssuer(t)
		_, once := i.issue(t, func(c *ticket.Terms) { c.Once, c.Bearer = true, bearer })
		var (
			all    sync.WaitGroup
			passed atomic.Int32
		)
		for range 4 {
			session := connect(t, i.proto, stranger(t))
			for range 8 {
				all.Go(func() {
					_, err := session.Call(t.Context(), "disk/free", nil, call.WithToken(once))
					if err == nil {
						passed.Add(1)
					}
				})
			}
		}
		all.Wait()
		require.EqualValues(t, 1, passed.Load())
		require.EqualValues(t, 1, i.runs.Load())
	}
}

// NODE-68: a guest may do nothing but what its tickets open, each by itself; not even
// what is open to all where strangers are admitted.
func TestGuestNeedsATicketForEachCall(t *testing.T) {
	i := newIssuer(t)
	_, token := i.issue(t, nil)
	session := connect(t, i.proto, guest(t))
	for _, op := range []string{"disk/free", "disk/wipe", "open/any", "services/list", "services/schema"} {
		_, err := session.Call(t.Context(), op, map[string]string{"name": "open/any"})
		require.ErrorIs(t, err, call.ErrForbidden, op)
	}
	_, err := session.Call(t.Context(), "disk/free", nil, call.WithToken(auth.NewToken()))
	require.ErrorIs(t, err, call.ErrForbidden)
	_, err = session.Call(t.Context(), "disk/free", nil, call.WithToken(token))
	require.NoError(t, err)
	_, err = session.Call(t.Context(), "open/any", nil)
	require.ErrorIs(t, err, call.ErrForbidden, "the ticket was for its request alone")
}

// services/list shows a ticket's holder what the ticket opens, when it opens
// services/list too.
func TestTicketAndDiscovery(t *testing.T) {
	i := newIssuer(t)
	_, token := i.issue(t, func(c *ticket.Terms) { c.Only = []string{"disk/free", "services/list"} })
	session := connect(t, i.proto, guest(t))
	session.SetToken(token)
	out, err := session.Call(t.Context(), "services/list", nil)
	require.NoError(t, err)
	require.JSONEq(t, `{"operations":[{"name":"disk/free","namespace":"disk","op_type":"query"},{"name":"services/list","namespace":"services","op_type":"query"}]}`, string(out))
}

// NODE-16, NODE-17, NODE-19: one session serves requests of several identities;
// its own stays what the key made it.
func TestNODE17RequestAndSessionIdentity(t *testing.T) {
	i := newIssuer(t)
	made, token := i.issue(t, func(c *ticket.Terms) { c.Only = []string{"open/any"} })
	server, caller := call.New(call.Config{}), known("user")
	caller.Fingerprint = stranger(t).Fingerprint
	a, b := protocols.Pipe(call.ALPN)
	require.NoError(t, b.SetIdentity(*caller.Identity))
	client := serve(t, a, server, caller)
	serve(t, b, i.proto, caller)
	session := client.session(t)
	for want, opts := range map[string][]call.CallOption{
		"peer":                       nil,
		"alk_good":                   {call.WithToken(auth.TokenFromText("alk_good"))},
		"ticket:" + made.ID.String(): {call.WithToken(token)},
	} {
		out, err := session.Call(t.Context(), "open/any", nil, opts...)
		require.NoError(t, err)
		require.JSONEq(t, `"`+want+`"`, string(out))
		id, ok := b.Identity()
		require.True(t, ok)
		require.Equal(t, *caller.Identity, id)
	}
	out, err := session.Call(t.Context(), "open/any", nil, call.WithToken(auth.NewToken()))
	require.NoError(t, err)
	require.JSONEq(t, `"peer"`, string(out), "CALL-36: a token that is not known changes nothing")
}

// NODE-34: after so many failed tokens the next request with one closes the
// session; tickets count like tokens, and the number is asked for each time.
func TestNODE34FailedTokens(t *testing.T) {
	i := newIssuer(t)
	_, good := i.issue(t, nil)
	i.failures.Store(3)
	a, b := protocols.Pipe(call.ALPN)
	client := serve(t, a, call.New(call.Config{}), stranger(t))
	ended, peer := make(chan error, 1), stranger(t)
	go func() { ended <- i.proto.Handle(t.Context(), b, peer) }() // the router closes the connection
	session := client.session(t)
	_, wrong := newIssuer(t).issue(t, nil)
	for _, token := range []auth.Token{auth.NewToken(), wrong, auth.TokenFromText("alkt1")} {
		_, err := session.Call(t.Context(), "open/any", nil, call.WithToken(token))
		require.NoError(t, err)
	}
	i.failures.Store(4) // a reload
	_, err := session.Call(t.Context(), "disk/free", nil, call.WithToken(good))
	require.NoError(t, err)
	_, err = session.Call(t.Context(), "open/any", nil, call.WithToken(wrong))
	require.NoError(t, err)
	_, err = session.Call(t.Context(), "open/any", nil)
	require.NoError(t, err, "without a token nothing is tried")
	_, err = session.Call(t.Context(), "disk/free", nil, call.WithToken(good))
	var reset *protocols.StreamResetError
	require.ErrorAs(t, err, &reset)
	require.Equal(t, protocols.CodeUnauthorised, reset.Code)
	require.ErrorIs(t, <-ended, protocols.ErrAuthRequired)
	require.NoError(t, b.Close(protocols.CodeUnauthorised, ""))
}
