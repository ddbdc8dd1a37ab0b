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
}

// Equal reports whether both identities have the same ID, scopes and
// resources; the order of scopes and actions does not matter.
func (i Identity) Equal(o Identity) bool {
	return i.ID == o.ID && sameSet(i.Scopes, o.Scopes) &&
		maps.EqualFunc(i.Resources, o.Resources, sameSet)
}

// Clone returns a deep copy.
func (i Identity) Clone() Identity {
	return Identity{ID: i.ID, Scopes: slices.Clone(i.Scopes), Resources: cloneResources(i.Resources)}
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
