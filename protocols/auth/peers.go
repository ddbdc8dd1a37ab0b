package auth

import (
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Peers is the registry of peers and API keys in memory, read from a Config.
// It is a Provider. Reads take no lock; Reload replaces everything at once, so
// a read sees the old registry or the new one and never a mixture (NODE-35).
// All methods may be called concurrently.
type Peers struct{ index atomic.Pointer[index] }

var _ Provider = (*Peers)(nil)

// index is one registry, never changed once it is published.
type index struct {
	config        *Config
	byName        map[PeerName]*PeerEntry
	byFingerprint map[string]*PeerEntry
	tokens        []peerToken
	keys          []apiKey
}

type peerToken struct {
	hash  tokenHash
	entry *PeerEntry
}

type apiKey struct {
	hash  tokenHash
	entry *APIKeyEntry
}

// NewPeers returns a registry of cfg, which is copied; nil is an empty one.
func NewPeers(cfg *Config) (*Peers, error) {
	p := new(Peers)
	if cfg == nil {
		cfg = new(Config)
	}
	if err := p.Reload(cfg); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload validates cfg and replaces the registry by a copy of it. A Config
// that does not validate is refused whole and the old registry stays
// (NODE-27). Whoever calls it lets the open sessions be checked again
// (NODE-28).
func (p *Peers) Reload(cfg *Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	x, err := newIndex(cfg.Clone())
	if err != nil {
		return err
	}
	p.index.Store(x)
	return nil
}

// Config returns a copy of what the registry was read from, with the default
// rate limits filled in.
func (p *Peers) Config() *Config { return p.index.Load().config.Clone() }

// RateLimits returns the limits, with defaults filled in.
func (p *Peers) RateLimits() RateLimits { return p.index.Load().config.RateLimits }

// Admission returns who is admitted, by ALPN.
func (p *Peers) Admission() Admission { return p.index.Load().config.Admission.clone() }

// Admits returns who may have sessions for the ALPN at this moment; "" where
// the registry says nothing. It does not allocate.
func (p *Peers) Admits(alpn string) Admit { return p.index.Load().config.Admission.For(alpn) }

// ByName returns the peer of that name, disabled ones too.
func (p *Peers) ByName(name PeerName) (PeerEntry, bool) {
	e, ok := p.index.Load().byName[name]
	if !ok {
		return PeerEntry{}, false
	}
	return e.Clone(), true
}

// NextEnd is the time of the first key to end after now, by which open sessions
// are to be checked again (NODE-28); false when none does.
func (p *Peers) NextEnd(now time.Time) (end time.Time, ok bool) {
	for _, e := range p.index.Load().byName {
		for _, until := range e.Until {
			at := time.Unix(int64(min(until, math.MaxUint32)), 0)
			if at.After(now) && (!ok || at.Before(end)) {
				end, ok = at, true
			}
		}
	}
	return end, ok
}

// NameOf returns the name of the enabled peer that lists the fingerprint.
func (p *Peers) NameOf(fingerprint string) (PeerName, bool) {
	e, ok := p.index.Load().byFingerprint[fingerprint]
	if !ok || !e.speaks(fingerprint, time.Now()) {
		return "", false
	}
	return e.PeerName, true
}

// ResolveFromFingerprint implements Provider.
func (p *Peers) ResolveFromFingerprint(fingerprint string) (Identity, bool) {
	e, ok := p.index.Load().byFingerprint[fingerprint]
	if !ok || !e.speaks(fingerprint, time.Now()) {
		return Identity{}, false
	}
	return e.identity(), true
}

// ResolveFromToken implements Provider (NODE-22). Every stored hash is
// compared, in constant time, so that the time says nothing of how near a
// guess came.
func (p *Peers) ResolveFromToken(token Token) (Identity, bool) {
	if token.IsZero() {
		return Identity{}, false
	}
	text := token.Reveal()
	hash := tokenHash(sha256.Sum256([]byte(text)))
	x := p.index.Load()

	var owner *PeerEntry
	for i := range x.tokens {
		if x.tokens[i].hash.equal(hash) {
			owner = x.tokens[i].entry
		}
	}
	if owner != nil {
		// A disabled peer's token does not fall through to API keys (NODE-24).
		if !owner.Enabled {
			return Identity{}, false
		}
		return owner.identity(), true
	}

	if !strings.HasPrefix(text, TokenMark) {
		return Identity{}, false
	}
	head := text[:min(len(text), tokenPrefixLen)]
	var key *APIKeyEntry
	for i := range x.keys {
		if x.keys[i].hash.equal(hash) && strings.HasPrefix(head, x.keys[i].entry.Prefix) {
			key = x.keys[i].entry
		}
	}
	if key == nil || key.expired(time.Now()) {
		return Identity{}, false
	}
	return Identity{ID: key.Prefix, Scopes: slices.Clone(key.Scopes), Resources: map[string][]string{}}, true
}

func (e *PeerEntry) identity() Identity {
	return Identity{ID: string(e.PeerName), Scopes: slices.Clone(e.Scopes), Resources: cloneResources(e.Resources)}
}

// speaks says whether a key that the peer lists is the peer: it is enabled and
// the key has not ended.
func (e *PeerEntry) speaks(fingerprint string, now time.Time) bool {
	until, ends := e.Until[fingerprint]
	return e.Enabled && (!ends || now.Unix() < 0 || uint64(now.Unix()) < until)
}

func (k *APIKeyEntry) expired(now time.Time) bool {
	if k.ExpiresAt == nil {
		return false
	}
	seconds := now.Unix()
	return seconds >= 0 && uint64(seconds) >= *k.ExpiresAt
}

// newIndex takes over cfg, which has been validated.
func newIndex(cfg *Config) (*index, error) {
	cfg.RateLimits = cfg.RateLimits.withDefaults()
	x := &index{
		config:        cfg,
		byName:        make(map[PeerName]*PeerEntry, len(cfg.Auth.Peers)),
		byFingerprint: make(map[string]*PeerEntry, len(cfg.Auth.Peers)),
	}
	for i := range cfg.Auth.Peers {
		e := &cfg.Auth.Peers[i]
		x.byName[e.PeerName] = e
		for _, fp := range e.Fingerprints {
			x.byFingerprint[fp] = e
		}
		if e.AuthTokenHash != nil {
			h, err := parseTokenHash(*e.AuthTokenHash)
			if err != nil {
				return nil, fmt.Errorf("token hash of %s: %w", e.PeerName, err)
			}
			x.tokens = append(x.tokens, peerToken{h, e})
		}
	}
	for i := range cfg.Auth.APIKeys {
		k := &cfg.Auth.APIKeys[i]
		h, err := parseTokenHash(k.Hash)
		if err != nil {
			return nil, fmt.Errorf("hash of API key %s: %w", k.Prefix, err)
		}
		x.keys = append(x.keys, apiKey{h, k})
	}
	return x, nil
}
