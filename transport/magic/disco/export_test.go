package disco

import (
	"crypto/ecdh"
	"crypto/ed25519"
)

// NewIdentityAt is NewIdentity with a fixed key of the boot.
func NewIdentityAt(key ed25519.PrivateKey, ephemeral []byte) (*Identity, error) {
	e, err := ecdh.X25519().NewPrivateKey(ephemeral)
	if err != nil {
		return nil, err
	}
	return newIdentity(key, e)
}

// SealAt seals under a fixed nonce.
func (id *Identity) SealAt(kind Kind, nonce [24]byte, to [32]byte, m Message) ([]byte, error) {
	return id.sealNonce(nil, kind, nonce, to, m)
}

// SetCapacity changes how many peers are kept.
func (id *Identity) SetCapacity(n int) { id.capacity = n }

// Cached says how many peers are kept, and how many of them are introduced.
func (id *Identity) Cached() (peers, introduced int) { return len(id.peers), len(id.byBoot) }

// Montgomery maps an ed25519 public key to the X25519 key of the same secret.
func Montgomery(key [32]byte) ([]byte, error) {
	p, err := montgomery(key)
	if err != nil {
		return nil, err
	}
	return p.Bytes(), nil
}
