// Package auth says who a peer or token is to this node, and what they may do.
// It does no I/O.
package auth

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

// PeerName is the logical name of a peer, chosen by the operator (NODE-25).
type PeerName string

// Provider resolves credentials to identities. It sits on the hot path: no
// I/O, no blocking, safe for concurrent use.
type Provider interface {
	// ResolveFromFingerprint finds the enabled peer that lists the key.
	ResolveFromFingerprint(fingerprint string) (Identity, bool)
	// ResolveFromToken finds the peer or API key the token belongs to
	// (NODE-22).
	ResolveFromToken(token Token) (Identity, bool)
}

// Token is a bearer credential; it redacts itself wherever it is printed.
type Token struct{ raw func() string }
