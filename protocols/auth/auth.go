// Package auth says who a peer or token is to this node, and what they may do.
// It does no I/O.
//
// A peer is recognised by its key: [Peers] holds the operator's registry, maps
// the key's fingerprint or a bearer [Token] to an [Identity], and is replaced
// whole by Reload. What an identity may do is [Access], checked against it and
// nothing else. A [PeerName] is what the operator calls a peer; it is never a
// key and no conversion between the two exists but through a [PeerEntry].
package auth

import (
	"context"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
)

// Identity is what a peer, token or composed operation is to this node.
type Identity struct {
	// ID is a PeerName, an API key's prefix, "ticket:<id>" or an authority's
	// label (NODE-19); never a libp2p peer ID.
	ID string `json:"id"`
	// Scopes are the rights held; never null in JSON.
	Scopes []string `json:"scopes"`
	// Resources maps a resource type to the actions granted on it; never null
	// in JSON.
	Resources map[string][]string `json:"resources"`
	// Only, unless nil, names the operations this identity may call at all,
	// whatever its scopes: a capability ticket's. It is no part of the JSON.
	Only []string `json:"-"`
	// Spend, unless nil, is called when an operation is about to run with this
	// identity, and its error keeps it from running: a ticket that may be used
	// once is used up here, before the effect, and one that is bound to the key
	// that brings it first is bound. It may block. It is no part of the JSON.
	Spend func(context.Context) error `json:"-"`
	// Stands, unless nil, reports whether a request that began with this identity
	// may go on: a ticket that is used up or has expired since lets it, one that
	// was revoked does not. It does not block. It is no part of the JSON.
	Stands func() bool `json:"-"`
}

// May returns nil when the operation of that name, which asks for access, is
// open to i, else a *DeniedError. What the identity is good for at all is
// looked at first, then the access. A nil i is an anonymous caller.
func (i *Identity) May(operation string, access Access) error {
	if i != nil && i.Only != nil && !slices.Contains(i.Only, operation) {
		return &DeniedError{"not an operation this caller was let in for"}
	}
	return access.Check(i)
}

// Equal reports whether both identities have the same ID and the same rights;
// the order of scopes, actions and operations does not matter.
func (i Identity) Equal(o Identity) bool {
	return i.ID == o.ID && sameSet(i.Scopes, o.Scopes) &&
		maps.EqualFunc(i.Resources, o.Resources, sameSet) &&
		(i.Only == nil) == (o.Only == nil) && sameSet(i.Only, o.Only)
}

// Clone returns a deep copy.
func (i Identity) Clone() Identity {
	i.Scopes, i.Resources, i.Only = slices.Clone(i.Scopes), cloneResources(i.Resources), slices.Clone(i.Only)
	return i
}

// MarshalJSON writes all three members, none of them null, whichever JSON
// package calls it.
func (i Identity) MarshalJSON() ([]byte, error) {
	type plain Identity
	return json.Marshal(plain(i), json.Deterministic(true))
}

// Context is what is known of the peer of a session when its handler starts.
// It is a value, immutable for handlers.
type Context struct {
	// Identity is nil when the peer's key is not in the registry.
	Identity *Identity
	// Guest is what a key that is not in the registry is held to where
	// strangers are not admitted: it came with a ticket, or this node dialled
	// it. It may do nothing of itself; tokens of its requests may. Nil where
	// strangers are admitted.
	Guest *Identity
	// PeerName is the registry's name of the peer, or a UUID for the
	// session's lifetime when it is not known (NODE-30).
	PeerName PeerName
	// ALPN of the session.
	ALPN string
	// RemoteAddr at the time the session began; informational.
	RemoteAddr string
	// Fingerprint is the peer's key, "ed25519:<64 hex>", also when not
	// recognised; "" for other key types (NODE-51).
	Fingerprint string
}

// Caller is whose requests those of the session are that bring no token of
// their own: Identity, else Guest; nil for an anonymous peer.
func (c Context) Caller() *Identity {
	if c.Identity != nil {
		return c.Identity
	}
	return c.Guest
}

// Provider resolves credentials to identities. It sits on the hot path: no
// I/O, no blocking, safe for concurrent use. The identities it returns belong
// to the caller.
type Provider interface {
	// ResolveFromFingerprint finds the enabled peer that lists the key.
	ResolveFromFingerprint(fingerprint string) (Identity, bool)
	// ResolveFromToken finds the peer or API key the token belongs to
	// (NODE-22).
	ResolveFromToken(token Token) (Identity, bool)
}

// Tickets resolves capability tickets, which package ticket makes. It is safe
// for concurrent use and does not block; the identities it returns belong to
// the caller.
type Tickets interface {
	// ResolveTicket says what the ticket lets the holder of the key do; false
	// when the token is no ticket or this one is void for that key. Spend of the
	// identity is yet to be called.
	ResolveTicket(token Token, fingerprint string) (Identity, bool)
	// Guest reports whether the key was let in by a ticket that has neither
	// expired nor been revoked.
	Guest(fingerprint string) bool
}

func sameSet(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

func cloneResources(r map[string][]string) map[string][]string {
	if r == nil {
		return nil
	}
	c := make(map[string][]string, len(r))
	for typ, actions := range r {
		c[typ] = slices.Clone(actions)
	}
	return c
}
