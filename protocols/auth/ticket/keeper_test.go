package ticket_test

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
)

// issuer is a node that issues tickets.
type issuer struct {
	key    ed25519.PrivateKey
	store  ticket.Store
	keeper *ticket.Keeper
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{key: newKey(t), store: new(ticket.Memory)}
	var err error
	i.keeper, err = ticket.NewKeeper(i.key.Public().(ed25519.PublicKey), "main", i.store)
	require.NoError(t, err)
	return i
}

// issue signs a ticket for disk/free that is good for an hour, and records it.
func (i *issuer) issue(t *testing.T, change func(*ticket.Terms)) (*ticket.Ticket, auth.Token) {
	t.Helper()
	terms := ticket.Terms{Network: "main", Scopes: []string{"call:disk/free"}, Only: []string{"disk/free"}, Expires: time.Now().Add(time.Hour)}
	if change != nil {
		change(&terms)
	}
	made, token, err := ticket.Sign(i.key, terms)
	require.NoError(t, err)
	require.NoError(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Record(made, "") }))
	return made, token
}

// use does what a request with the token does.
func (i *issuer) use(ctx context.Context, token auth.Token, fingerprint, operation string) error {
	id, ok := i.keeper.ResolveTicket(token, fingerprint)
	if !ok {
		return errRefused
	}
	if err := id.May(operation, auth.Access{RequiredScopes: []string{"call:disk/free"}}); err != nil {
		return err
	}
	if id.Spend != nil {
		return id.Spend(ctx)
	}
	return nil
}

var errRefused = errors.New("refused")

// NODE-67: used rightly, a ticket is an identity with its scopes and none but
// its operations; it belongs to the first key that brings it.
func TestTicketIsAnIdentity(t *testing.T) {
	i := newIssuer(t)
	made, token := i.issue(t, nil)
	a, b := fingerprint(t), fingerprint(t)

	id, ok := i.keeper.ResolveTicket(token, a)
	require.True(t, ok)
	require.Equal(t, "ticket:"+made.ID.String(), id.ID)
	require.Equal(t, []string{"call:disk/free"}, id.Scopes)
	require.NotNil(t, id.Resources)
	require.Equal(t, []string{"disk/free"}, id.Only)

	require.NoError(t, i.use(t.Context(), token, a, "disk/free"))
	require.NoError(t, i.use(t.Context(), token, a, "disk/free"), "more than once")
	id, ok = i.keeper.ResolveTicket(token, a)
	require.True(t, ok)
	require.Nil(t, id.Spend, "bound: nothing is written any more")
	require.Equal(t, errRefused, i.use(t.Context(), token, b, "disk/free"), "another key")
	require.Equal(t, errRefused, i.use(t.Context(), token, "", "disk/free"), "no key")
	require.ErrorContains(t, i.use(t.Context(), token, a, "disk/wipe"), "not an operation")
	require.Error(t, i.use(t.Context(), token, a, "services/list"))
}

// A refused try neither binds a ticket nor uses it up.
func TestTicketOfAnotherOperationIsNotUsedUp(t *testing.T) {
	i := newIssuer(t)
	_, token := i.issue(t, func(c *ticket.Terms) { c.Once = true })
	a, b := fingerprint(t), fingerprint(t)
	require.Error(t, i.use(t.Context(), token, a, "disk/wipe"))
	require.NoError(t, i.use(t.Context(), token, b, "disk/free"))
}

func TestBearerTicketIsForAnyKey(t *testing.T) {
	i := newIssuer(t)
	_, token := i.issue(t, func(c *ticket.Terms) { c.Bearer = true })
	for range 3 {
		require.NoError(t, i.use(t.Context(), token, fingerprint(t), "disk/free"))
	}
	require.NoError(t, i.use(t.Context(), token, "", "disk/free"), "a session of an inner transport has no key")
	_, once := i.issue(t, func(c *ticket.Terms) { c.Bearer, c.Once = true, true })
	require.NoError(t, i.use(t.Context(), once, fingerprint(t), "disk/free"))
	require.Equal(t, errRefused, i.use(t.Context(), once, fingerprint(t), "disk/free"))
}

// Used twice, and by many at once: the first passes alone, and it is on record
// before it passes.
func TestOnceIsOnce(t *testing.T) {
	for _, bearer := range []bool{false, true} {
		i := newIssuer(t)
		made, token := i.issue(t, func(c *ticket.Terms) { c.Once, c.Bearer = true, bearer })
		var (
			passed atomic.Int32
			all    sync.WaitGroup
			start  = make(chan struct{})
		)
		for n := range 32 {
			fp := fmt.Sprintf("ed25519:%064x", n)
			if bearer {
				fp = fingerprint(t)
			}
			id, ok := i.keeper.ResolveTicket(token, fp)
			require.True(t, ok, "all of them hold it before anyone has used it")
			all.Go(func() {
				<-start
				if id.Spend(context.WithoutCancel(t.Context())) == nil {
					passed.Add(1)
					if i.store.Snapshot().Ledger().Tickets[0].UsedAt == 0 {
						t.Error("not on record when it passed")
					}
				}
			})
		}
		close(start)
		all.Wait()
		require.EqualValues(t, 1, passed.Load())
		require.Equal(t, errRefused, i.use(t.Context(), token, fingerprint(t), "disk/free"))
		require.Equal(t, made.ID.String(), i.store.Snapshot().Ledger().Tickets[0].ID)
	}
}

// The first of two keys at once keeps a ticket that is no bearer's.
func TestTwoKeysAtOnce(t *testing.T) {
	i := newIssuer(t)
	_, token := i.issue(t, nil)
	a, b := fingerprint(t), fingerprint(t)
	first, ok := i.keeper.ResolveTicket(token, a)
	require.True(t, ok)
	second, ok := i.keeper.ResolveTicket(token, b)
	require.True(t, ok)
	require.NoError(t, first.Spend(t.Context()))
	require.ErrorIs(t, second.Spend(t.Context()), ticket.ErrOtherKey)
	require.NoError(t, first.Spend(t.Context()), "the same key again")
}

func TestTicketExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		_, token := i.issue(t, nil)
		a := fingerprint(t)
		require.NoError(t, i.keeper.Redeem(t.Context(), token, a))
		held, ok := i.keeper.ResolveTicket(token, a)
		require.True(t, ok)
		require.Nil(t, held.Spend)
		_, once := i.issue(t, func(c *ticket.Terms) { c.Once = true })
		late, ok := i.keeper.ResolveTicket(once, a)
		require.True(t, ok)

		time.Sleep(time.Hour - time.Nanosecond)
		require.NoError(t, i.use(t.Context(), token, a, "disk/free"))
		require.True(t, i.keeper.Guest(a))
		time.Sleep(time.Nanosecond)
		require.Equal(t, errRefused, i.use(t.Context(), token, a, "disk/free"))
		require.False(t, i.keeper.Guest(a))
		require.ErrorIs(t, i.keeper.Redeem(t.Context(), token, a), ticket.ErrExpired)
		require.ErrorIs(t, late.Spend(t.Context()), ticket.ErrExpired)
	})
}

func TestTicketRevoked(t *testing.T) {
	i := newIssuer(t)
	made, token := i.issue(t, nil)
	_, bearer := i.issue(t, func(c *ticket.Terms) { c.Bearer = true })
	a, b := fingerprint(t), fingerprint(t)
	held, ok := i.keeper.ResolveTicket(token, a)
	require.True(t, ok)
	require.NoError(t, i.keeper.Redeem(t.Context(), token, a))
	require.NoError(t, i.keeper.Redeem(t.Context(), bearer, b))
	require.True(t, i.keeper.Guest(a))
	require.True(t, i.keeper.Guest(b))

	require.NoError(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error {
		for _, e := range l.Tickets {
			require.NoError(t, l.Revoke(e.ID))
		}
		return nil
	}))
	require.Equal(t, errRefused, i.use(t.Context(), token, a, "disk/free"))
	require.ErrorIs(t, held.Spend(t.Context()), ticket.ErrRevoked)
	require.ErrorIs(t, i.keeper.Redeem(t.Context(), token, a), ticket.ErrRevoked)
	require.ErrorIs(t, i.keeper.Redeem(t.Context(), bearer, b), ticket.ErrRevoked)
	require.False(t, i.keeper.Guest(a))
	require.False(t, i.keeper.Guest(b))
	require.ErrorIs(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error {
		return l.Revoke("00000000000000000000000000000000")
	}), ticket.ErrUnknown)
	require.Len(t, made.ID.String(), 32)
}

// For another node, another network, not on record, forged: all refused.
func TestTicketElsewhere(t *testing.T) {
	i, other := newIssuer(t), newIssuer(t)
	a := fingerprint(t)
	_, token := i.issue(t, nil)
	refused := func(token auth.Token, want error) {
		t.Helper()
		require.Equal(t, errRefused, i.use(t.Context(), token, a, "disk/free"))
		require.ErrorIs(t, i.keeper.Redeem(t.Context(), token, a), want)
		require.False(t, i.keeper.Guest(a))
	}

	foreign, foreignToken := other.issue(t, nil)
	refused(foreignToken, ticket.ErrElsewhere)
	// Even when its id stands in this node's ledger.
	require.NoError(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Record(foreign, "") }))
	refused(foreignToken, ticket.ErrElsewhere)

	_, network := i.issue(t, func(c *ticket.Terms) { c.Network = "test" })
	refused(network, ticket.ErrElsewhere)

	_, unrecorded, err := ticket.Sign(i.key, ticket.Terms{Network: "main", Only: []string{"disk/free"}, Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	refused(unrecorded, ticket.ErrUnknown)

	// A recorded ticket's terms, signed by somebody else in the node's name.
	made, _ := i.issue(t, nil)
	forged := *made
	forged.Scopes = []string{"admin"}
	refused(auth.TokenFromText(ticket.Seal(other.key, &forged)), ticket.ErrForged)
	refused(auth.TokenFromText("alkt1"), ticket.ErrMalformed)
	refused(auth.NewToken(), ticket.ErrMalformed)
	refused(auth.Token{}, ticket.ErrMalformed)

	require.NoError(t, i.use(t.Context(), token, a, "disk/free"), "the true one is still good")
}

// The door lets a key in and uses nothing up; the call does.
func TestRedeemAtTheDoor(t *testing.T) {
	i := newIssuer(t)
	_, token := i.issue(t, func(c *ticket.Terms) { c.Once = true })
	a, b := fingerprint(t), fingerprint(t)
	require.False(t, i.keeper.Guest(a))
	require.NoError(t, i.keeper.Redeem(t.Context(), token, a))
	require.NoError(t, i.keeper.Redeem(t.Context(), token, a), "again")
	require.True(t, i.keeper.Guest(a))
	require.ErrorIs(t, i.keeper.Redeem(t.Context(), token, b), ticket.ErrOtherKey)
	require.False(t, i.keeper.Guest(b))
	require.False(t, i.keeper.Guest(""))

	require.NoError(t, i.use(t.Context(), token, a, "disk/free"))
	require.True(t, i.keeper.Guest(a), "the call's session stays for the answer")
	require.Equal(t, errRefused, i.use(t.Context(), token, a, "disk/free"))
	require.ErrorIs(t, i.keeper.Redeem(t.Context(), token, a), ticket.ErrUsed)
}

// Keys that bearer tickets let in are remembered up to a bound.
func TestBearersAreBounded(t *testing.T) {
	i := newIssuer(t)
	made, token := i.issue(t, func(c *ticket.Terms) { c.Bearer = true })
	key := func(n int) string { return fmt.Sprintf("ed25519:%064x", n) }
	require.NoError(t, i.keeper.Redeem(t.Context(), token, key(0)))
	require.True(t, i.keeper.Guest(key(0)))
	for n := range 5000 {
		i.keeper.Remember(key(n), made.ID.String())
	}
	require.False(t, i.keeper.Guest(key(0)))
	require.True(t, i.keeper.Guest(key(4999)))
	require.True(t, i.keeper.Guest(key(4999-4095)))
	require.False(t, i.keeper.Guest(key(4999-4096)))
}

// A ticket's own terms count, whatever somebody wrote into the ledger, which
// can only take away.
func TestLedgerCannotWiden(t *testing.T) {
	i := newIssuer(t)
	_, token := i.issue(t, func(c *ticket.Terms) { c.Once = true })
	a, b := fingerprint(t), fingerprint(t)
	require.NoError(t, i.use(t.Context(), token, a, "disk/free"))
	require.NoError(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error {
		e := &l.Tickets[0]
		e.Once, e.Bearer, e.Only = false, true, []string{"disk/wipe"}
		return nil
	}))
	require.Equal(t, errRefused, i.use(t.Context(), token, a, "disk/free"), "used")
	require.Equal(t, errRefused, i.use(t.Context(), token, b, "disk/wipe"))
}

func TestRecordDropsWhatExpiredLongAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		old, _ := i.issue(t, nil)
		time.Sleep(31 * 24 * time.Hour)
		fresh, _ := i.issue(t, nil)
		list := i.store.Snapshot().Ledger().Tickets
		require.Len(t, list, 1)
		require.Equal(t, fresh.ID.String(), list[0].ID)
		require.NotEqual(t, old.ID, fresh.ID)
	})
}

// The ledger holds nothing that lets its reader in.
func TestLedgerHoldsNoTicket(t *testing.T) {
	i := newIssuer(t)
	_, token := i.issue(t, nil)
	text, err := i.store.Snapshot().Ledger().Append(nil)
	require.NoError(t, err)
	_, signature := ticket.Split(t, token.Reveal())
	require.NotContains(t, string(text), token.Reveal()[:40])
	require.NotContains(t, string(text), hex.EncodeToString(signature))
	require.Error(t, i.store.Update(t.Context(), func(l *ticket.Ledger) error { l.Tickets[0].ID = "x"; return nil }))
	require.Len(t, i.store.Snapshot().Ledger().Tickets, 1)
}

// NODE-31: a Keeper works with whatever keeps the ledger; what that cannot write
// down does not pass.
func TestNODE31AnyStoreWillDo(t *testing.T) {
	i := newIssuer(t)
	full := errors.New("disk full")
	broken := &brokenStore{Store: i.store, err: full}
	k, err := ticket.NewKeeper(i.key.Public().(ed25519.PublicKey), "main", broken)
	require.NoError(t, err)
	_, token := i.issue(t, func(c *ticket.Terms) { c.Once = true })
	a := fingerprint(t)
	id, ok := k.ResolveTicket(token, a)
	require.True(t, ok)
	require.ErrorIs(t, id.Spend(t.Context()), full)
	require.ErrorIs(t, k.Redeem(t.Context(), token, a), full)
	require.False(t, k.Guest(a))
	broken.err = nil
	require.NoError(t, k.Redeem(t.Context(), token, a))
	require.NoError(t, id.Spend(t.Context()))
	require.True(t, k.Guest(a))
}

// brokenStore fails to write with err, unless that is nil.
type brokenStore struct {
	ticket.Store
	err error
}

func (s *brokenStore) Update(ctx context.Context, edit func(*ticket.Ledger) error) error {
	if s.err != nil {
		return s.err
	}
	return s.Store.Update(ctx, edit)
}

func TestNewKeeperRefuses(t *testing.T) {
	key := newKey(t).Public().(ed25519.PublicKey)
	for _, f := range []func() (*ticket.Keeper, error){
		func() (*ticket.Keeper, error) { return ticket.NewKeeper(nil, "main", new(ticket.Memory)) },
		func() (*ticket.Keeper, error) { return ticket.NewKeeper(key, "", new(ticket.Memory)) },
		func() (*ticket.Keeper, error) { return ticket.NewKeeper(key, "main", nil) },
	} {
		_, err := f()
		require.Error(t, err)
	}
}

// fingerprint is of a fresh key.
func fingerprint(t *testing.T) string {
	t.Helper()
	return "ed25519:" + hex.EncodeToString(newKey(t).Public().(ed25519.PublicKey))
}
