package vault

import (
	"fmt"

	"github.com/alkdev/alknet-p2p/vault/internal/legacy"
	"github.com/alkdev/alknet-p2p/vault/internal/mnemonic"
)

// Legacy opens what early alknet builds sealed, and tells which identity they
// had. Their derivation is not the vault's (SPEC.md): nothing new is made with
// it, so Legacy neither seals nor signs. Seal again what it opened with
// Vault.Encrypt. It is safe for concurrent use; the caller wipes it.
type Legacy struct {
	redacted
	seed secret
}

// NewLegacy takes the seed of a mnemonic and its BIP-39 passphrase. Those builds
// hashed the passphrase's bytes as they were typed, which asIs repeats; BIP-39
// itself normalises (NFKD), and the two differ for letters outside ASCII only.
// Both stay the caller's, who wipes them. ErrMnemonic when the passphrase is
// not UTF-8.
func NewLegacy(m *Mnemonic, passphrase []byte, asIs bool) (*Legacy, error) {
	if m == nil {
		return nil, fmt.Errorf("%w: no phrase", ErrMnemonic)
	}
	stretch := mnemonic.Seed
	if asIs {
		stretch = mnemonic.SeedAsIs
	}
	seed, err := m.stretch(stretch, passphrase)
	if err != nil {
		return nil, err
	}
	held, _ := newLockedSecret(seed)
	return &Legacy{seed: held}, nil
}

// Wipe overwrites the seed. It may be called again.
func (l *Legacy) Wipe() { l.seed.wipe() }

// Decrypt opens what such a build sealed: with the key of its version, and else
// with that of version 2, which the oldest ones used for every version. Errors
// are those of Vault.Decrypt, and ErrWiped. The caller wipes the result.
func (l *Legacy) Decrypt(d *EncryptedData) ([]byte, error) {
	if d == nil {
		return nil, errCannotOpen
	}
	plaintext, err := l.decrypt(d, d.KeyVersion)
	if err != nil && d.KeyVersion != CurrentKeyVersion {
		if oldest, oldestErr := l.decrypt(d, CurrentKeyVersion); oldestErr == nil {
			return oldest, nil
		}
	}
	return plaintext, err
}

// PublicKey returns the public key that such a build showed for an Ed25519 path:
// for Identity, its fingerprint is that of the old node. ErrInvalidPath for a
// path that is not hardened throughout, ErrWiped after Wipe.
func (l *Legacy) PublicKey(path Path) ([]byte, error) {
	_, indices, err := hardenedPath(path)
	if err != nil {
		return nil, err
	}
	key, err := l.key(indices)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return key.Public, nil
}

func (l *Legacy) decrypt(d *EncryptedData, version uint32) ([]byte, error) {
	path, err := EncryptionPath(version)
	if err != nil {
		return nil, err
	}
	_, indices, err := encryptionPath(path)
	if err != nil {
		return nil, err
	}
	key, err := l.key(indices)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return decryptWith(key, d)
}

// key derives the key of both uses; it is never handed out.
func (l *Legacy) key(indices []uint32) (*DerivedKey, error) {
	var key *DerivedKey
	var err error
	useErr := l.seed.use(func(seed []byte) {
		var private, public []byte
		if private, err = legacy.Derive(seed, indices); err != nil {
			return
		}
		key = &DerivedKey{KeyType: AES256GCM, private: newSecret(private)}
		if public, err = legacy.PublicKey(private); err == nil {
			key.Public = public
		}
	})
	if useErr != nil {
		return nil, useErr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDerivation, err)
	}
	return key, nil
}
