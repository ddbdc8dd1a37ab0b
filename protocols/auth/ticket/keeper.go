package ticket

import (
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// maxBearers bounds the keys remembered as let in by bearer tickets; beyond it
// the one that came first is forgotten, and may come again.
const maxBearers = 4096

// spendTimeout bounds how long a ticket may wait to be written down.
const spendTimeout = 10 * time.Second

// Keeper says what a ticket is good for at one node. It implements
// auth.Tickets, and all methods may be called concurrently.
type Keeper struct {
	audience ed25519.PublicKey
	network  string
	store    Store

	mu      sync.Mutex
	bearers map[string]string // keys let in by a bearer ticket, to its id
	order   []string          // of bearers
}

var _ auth.Tickets = (*Keeper)(nil)

// NewKeeper returns the Keeper of the node with that key, in that network.
func NewKeeper(key ed25519.PublicKey, network string, store Store) (*Keeper, error) {
	if len(key) != ed25519.PublicKeySize || network == "" || store == nil {
		return nil, errors.New("ticket keeper: key, network and store are required")
	}
	return &Keeper{audience: slices.Clone(key), network: network, store: store, bearers: map[string]string{}}, nil
}

// ResolveTicket implements auth.Tickets: the ticket's scopes, and none but its
// operations. Calling Spend binds or uses it up, and fails when another was
// faster.
func (k *Keeper) ResolveTicket(token auth.Token, fingerprint string) (auth.Identity, bool) {
	if !Is(token) {
		return auth.Identity{}, false
	}
	t, bound, err := k.judge(token, fingerprint)
	if err != nil {
		return auth.Identity{}, false
	}
	id := auth.Identity{ID: "ticket:" + t.ID.String(), Scopes: t.Scopes, Resources: map[string][]string{}, Only: t.Only}
	id.Stands = func() bool {
		e := k.store.Snapshot().byID[t.ID.String()]
		return e != nil && !e.Revoked
	}
	if t.Once || !bound {
		id.Spend = func(ctx context.Context) error { return k.write(ctx, t, fingerprint, t.Once) }
	}
	return id, true
}

// Guest implements auth.Tickets.
func (k *Keeper) Guest(fingerprint string) bool {
	now := time.Now()
	s := k.store.Snapshot()
	for _, e := range s.byKey[fingerprint] {
		if e.lets(now) {
			return true
		}
	}
	k.mu.Lock()
	e := s.byID[k.bearers[fingerprint]]
	k.mu.Unlock()
	return e != nil && e.lets(now)
}

// Redeem lets the key in for as long as the ticket is good, and binds the
// ticket to it unless it is a bearer's. It uses none up: that is for the
// request that comes with it. The error is for the log.
func (k *Keeper) Redeem(ctx context.Context, token auth.Token, fingerprint string) error {
	t, bound, err := k.judge(token, fingerprint)
	switch {
	case err != nil:
		return fmt.Errorf("redeem ticket: %w", err)
	case t.Bearer:
		k.remember(fingerprint, t.ID.String())
		return nil
	case bound:
		return nil
	}
	return k.write(ctx, t, fingerprint, false)
}

// judge reads a ticket and says whether it is good for the key at this moment.
// bound says that nothing needs to be written down for whose it is.
func (k *Keeper) judge(token auth.Token, fingerprint string) (t *Ticket, bound bool, err error) {
	if t, err = Parse(token); err != nil {
		return nil, false, err
	}
	if subtle.ConstantTimeCompare(t.Audience, k.audience) != 1 || t.Network != k.network {
		return nil, false, ErrElsewhere
	}
	e := k.store.Snapshot().byID[t.ID.String()]
	if err := t.good(e, fingerprint); err != nil {
		return nil, false, err
	}
	return t, t.Bearer || e.BoundTo != "", nil
}

// write puts down that the key has brought the ticket, and used it, unless the
// newest ledger says otherwise: of several at once only the first passes.
func (k *Keeper) write(ctx context.Context, t *Ticket, fingerprint string, use bool) error {
	ctx, cancel := context.WithTimeout(ctx, spendTimeout)
	defer cancel()
	err := k.store.Update(ctx, func(l *Ledger) error {
		e := l.find(t.ID.String())
		if err := t.good(e, fingerprint); err != nil {
			return err
		}
		if !t.Bearer {
			e.BoundTo = fingerprint
		}
		if use {
			e.UsedAt = time.Now().Unix()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("redeem ticket %s: %w", t.ID, err)
	}
	return nil
}

// remember notes a key that came with a bearer ticket.
func (k *Keeper) remember(fingerprint, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.bearers[fingerprint]; !known {
		if len(k.order) == maxBearers {
			delete(k.bearers, k.order[0])
			k.order = k.order[1:]
		}
		k.order = append(k.order, fingerprint)
	}
	k.bearers[fingerprint] = id
}

// good says why the ticket is not good for the key now. Its own, signed terms
// count, and the ledger may only take away; a nil entry is of a ticket that is
// not on record.
func (t *Ticket) good(e *Entry, fingerprint string) error {
	if e == nil {
		return ErrUnknown
	}
	now := time.Now()
	if now.Unix() >= t.Expires.Unix() {
		return ErrExpired
	}
	if t.Once && e.UsedAt != 0 {
		return ErrUsed
	}
	if err := e.Void(now); err != nil {
		return err
	}
	if t.Bearer {
		return nil
	}
	if fingerprint == "" || e.BoundTo != "" && subtle.ConstantTimeCompare([]byte(e.BoundTo), []byte(fingerprint)) != 1 {
		return ErrOtherKey
	}
	return nil
}

// lets reports whether the ticket still keeps its holder's sessions open. One
// that was used up does, or the answer of the call it was for would be cut off;
// it opens no operation any more.
func (e *Entry) lets(now time.Time) bool {
	err := e.Void(now)
	return err == nil || errors.Is(err, ErrUsed)
}
