package ticketfile_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticketfile"
)

const fingerprint = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"

// issue makes a file with one ticket that is good for one use.
func issue(t *testing.T) (path string, key ed25519.PrivateKey, made *ticket.Ticket, token auth.Token) {
	t.Helper()
	path = filepath.Join(t.TempDir(), ticketfile.Name)
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	made, token, err = ticket.Sign(key, ticket.Terms{
		Network: "main", Only: []string{"disk/free"}, Expires: time.Now().Add(time.Hour), Once: true, Bearer: true,
	})
	require.NoError(t, err)
	require.NoError(t, open(t, path).Update(t.Context(), func(l *ticket.Ledger) error { return l.Record(made, "a note") }))
	return path, key, made, token
}

func open(t *testing.T, path string) *ticketfile.File {
	t.Helper()
	f, err := ticketfile.Open(path)
	require.NoError(t, err)
	return f
}

func keeper(t *testing.T, key ed25519.PrivateKey, f *ticketfile.File) *ticket.Keeper {
	t.Helper()
	k, err := ticket.NewKeeper(key.Public().(ed25519.PublicKey), "main", f)
	require.NoError(t, err)
	return k
}

// NODE-67: binding and use are on disk first.
func TestUseIsOnDiskBeforeItHasAnEffect(t *testing.T) {
	path, key, made, token := issue(t)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	id, ok := keeper(t, key, open(t, path)).ResolveTicket(token, fingerprint)
	require.True(t, ok)
	require.NoError(t, id.Spend(t.Context()))
	again := open(t, path) // as after a restart at this moment
	entries := again.Snapshot().Ledger().Tickets
	require.Len(t, entries, 1)
	require.Equal(t, made.ID.String(), entries[0].ID)
	require.NotZero(t, entries[0].UsedAt)
	_, ok = keeper(t, key, again).ResolveTicket(token, fingerprint)
	require.False(t, ok)
}

// Of many uses at once, by several processes' stores, the first passes alone.
func TestOnceOverSeveralStores(t *testing.T) {
	path, key, _, token := issue(t)
	var (
		passed atomic.Int32
		all    sync.WaitGroup
		start  = make(chan struct{})
	)
	for range 8 {
		id, ok := keeper(t, key, open(t, path)).ResolveTicket(token, fingerprint)
		require.True(t, ok)
		all.Go(func() {
			<-start
			err := id.Spend(context.WithoutCancel(t.Context()))
			switch {
			case err == nil:
				passed.Add(1)
			case !errors.Is(err, ticket.ErrUsed):
				t.Error(err)
			}
		})
	}
	close(start)
	all.Wait()
	require.EqualValues(t, 1, passed.Load())
}

// What cannot be written down does not pass.
func TestNoUseWithoutItsRecord(t *testing.T) {
	path, key, _, token := issue(t)
	id, ok := keeper(t, key, open(t, path)).ResolveTicket(token, fingerprint)
	require.True(t, ok)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, id.Spend(ctx))
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	require.ErrorIs(t, id.Spend(t.Context()), ticketfile.ErrInvalid)
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, id.Spend(t.Context()), ticket.ErrUnknown, "a lost ledger voids its tickets")
}

// Another process revokes; a file that is not valid changes nothing.
func TestWatch(t *testing.T) {
	path, key, made, token := issue(t)
	f := open(t, path)
	k := keeper(t, key, f)
	require.NoError(t, k.Redeem(t.Context(), token, fingerprint))
	results := make(chan error, 16)
	w, err := f.Watch(func(err error) { results <- err })
	require.NoError(t, err)
	defer w.Close()
	until := func(like func(error) bool) {
		t.Helper()
		for {
			select {
			case err := <-results:
				if like(err) {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the change was not noticed")
			}
		}
	}
	put := func(text []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(path+".draft", text, 0o600))
		require.NoError(t, os.Rename(path+".draft", path))
	}
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	put([]byte(`{"tickets":[{"id":"x"}]}`))
	until(func(err error) bool { return errors.Is(err, ticketfile.ErrInvalid) })
	require.True(t, k.Guest(fingerprint))
	put(good)
	until(func(err error) bool { return err == nil })
	require.True(t, k.Guest(fingerprint))

	require.NoError(t, open(t, path).Update(t.Context(), func(l *ticket.Ledger) error { return l.Revoke(made.ID.String()) }))
	until(func(err error) bool { return err == nil && !k.Guest(fingerprint) })
	w.Close()
}

func TestOpenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), ticketfile.Name)
	for text, why := range map[string]string{
		"":              "EOF",
		"[]":            "array",
		`{"ticket":[]}`: "unknown",
		`{"tickets":[{"id":"000102030405060708090a0b0c0d0e0f","expires_at":5,"scopes":[],"only":[],"created_at":1,"grants":"all"}]}`:               "grants",
		`{"tickets":[{"id":"000102030405060708090a0b0c0d0e0f","expires_at":5},{"id":"000102030405060708090a0b0c0d0e0f","expires_at":5}]}`:          "stands twice",
		`{"tickets":[{"id":"000102030405060708090a0b0c0d0e0f","expires_at":5,"bound_to":"12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"}]}`: "bound_to",
		`{"tickets":[{"id":"000102030405060708090a0b0c0d0e0f"}]}`:                                                                                  "time",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := ticketfile.Open(path)
		require.ErrorIs(t, err, ticketfile.ErrInvalid, text)
		require.ErrorContains(t, err, path)
		require.ErrorContains(t, err, why)
	}
}

// NODE-32: what a store fails with has a kind: not found, not readable as what
// it should be, or the system's own error.
func TestNODE32ErrorsHaveAKind(t *testing.T) {
	path, _, _, _ := issue(t)
	f := open(t, path)
	require.ErrorIs(t, f.Update(t.Context(), func(l *ticket.Ledger) error {
		return l.Revoke("000102030405060708090a0b0c0d0e0f")
	}), ticket.ErrUnknown)
	_, err := ticketfile.Open(filepath.Dir(path))
	var system *os.PathError
	require.ErrorAs(t, err, &system)
	require.NotErrorIs(t, err, ticketfile.ErrInvalid)
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	require.ErrorIs(t, f.Reload(), ticketfile.ErrInvalid)
	require.Len(t, f.Snapshot().Ledger().Tickets, 1, "the old ledger stays")
}
