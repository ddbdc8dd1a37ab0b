// Package vault holds the root secret of a node, a BIP-39 mnemonic, and derives
// the node's keys from it.
//
// Most callers keep the mnemonic in a file: [Create] writes it, [Open] gives an
// unlocked [Vault], and [ReadInfo] tells whose it is without any secret. A
// [Vault] from [New] is for a mnemonic that lives elsewhere: it starts locked,
// and [Vault.Unlock] gives it the seed. Keys are named by [Path] and come as
// [DerivedKey], or as [crypto.Signer] when the private part is not needed.
//
// Secrets of others, such as the API keys of services, are sealed with
// [Vault.Encrypt] into [EncryptedData], which may be kept anywhere; a
// [CredentialStore] keeps them in the node's home.
//
// The derivation paths, the derivation itself (strict SLIP-0010, and BIP-32 for
// secp256k1) and the formats are described in SPEC.md; they do not change, so
// that a phrase written down today gives the same keys for ever.
//
// Secrets redact themselves wherever they are printed, are passed as byte
// slices, and are overwritten after use. That is a safety net and best effort:
// Go's runtime keeps copies that no program can reach. The package is local: it
// has no network, reads no environment variable and depends on no other package
// of this project. Only the command should import it.
package vault

import (
	"crypto"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	// DefaultCacheTTL is how long a derived key stays in the cache.
	DefaultCacheTTL = time.Hour
	// DefaultCacheSize is how many derived keys the cache holds.
	DefaultCacheSize = 64
)

// Config of a Vault. The zero value is a good one.
type Config struct {
	// Device is the index of this node among those that share the mnemonic, 0
	// to MaxIndex. Two nodes that run at the same time must not share it.
	Device uint32
	// Generation of the identity, 0 to MaxIndex; it rises by one with each
	// rotation.
	Generation uint32
	// CacheTTL is how long a derived key is kept, counted from its derivation;
	// 0 means DefaultCacheTTL.
	CacheTTL time.Duration
	// CacheSize is how many derived keys are kept; 0 means DefaultCacheSize,
	// a negative value none.
	CacheSize int
}

// Vault derives keys from a seed, which it has while it is unlocked. It is safe
// for concurrent use. Close it when done.
type Vault struct {
	device, generation uint32
	state              *state
}

// state is apart from Vault so that it can be wiped once nobody holds the
// Vault any more.
type state struct {
	mu   sync.Mutex
	seed *secret // nil while locked
	// seedLocked tells that seed is in locked memory.
	seedLocked bool
	cache      *cache
	sweep      *time.Timer // nil when none is due
	closed     bool
	sweeps     sync.WaitGroup
}

// New returns a locked vault. A device or generation above MaxIndex is
// ErrInvalidPath.
func New(c Config) (*Vault, error) {
	if _, err := IdentityPath(c.Device, c.Generation); err != nil {
		return nil, err
	}
	if c.CacheTTL <= 0 {
		c.CacheTTL = DefaultCacheTTL
	}
	if c.CacheSize == 0 {
		c.CacheSize = DefaultCacheSize
	}
	v := &Vault{
		device:     c.Device,
		generation: c.Generation,
		state:      &state{cache: newCache(c.CacheTTL, c.CacheSize)},
	}
	runtime.AddCleanup(v, func(s *state) { s.lock() }, v.state)
	return v, nil
}

// Unlock gives the vault the seed of a mnemonic and a BIP-39 passphrase. No
// passphrase is wrong: another one is another seed, so check the identity
// afterwards, as Open does. A nil passphrase is an empty one. The mnemonic
// stays the caller's, who should wipe it. On failure the vault stays as it was.
func (v *Vault) Unlock(m *Mnemonic, passphrase []byte) error {
	if err := v.state.mayUnlock(); err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%w: no phrase", ErrMnemonic)
	}
	return undisturbed(func() error {
		seed, err := m.seed(passphrase) // slow by design, so without the lock
		if err != nil {
			return err
		}
		return v.state.unlock(seed)
	})
}

// UnlockNew makes a mnemonic of 12, 15, 18, 21 or 24 words, unlocks the vault
// with it, and returns it for the one time it is shown. The caller wipes it.
func (v *Vault) UnlockNew(words int, passphrase []byte) (*Mnemonic, error) {
	if err := v.state.mayUnlock(); err != nil {
		return nil, err
	}
	m, err := NewMnemonic(words)
	if err != nil {
		return nil, err
	}
	if err := v.Unlock(m, passphrase); err != nil {
		m.Wipe()
		return nil, err
	}
	return m, nil
}

// Lock wipes the seed and the cache. Keys handed out live on; signers fail with
// ErrLocked until the next Unlock. Locking a locked vault does nothing.
func (v *Vault) Lock() { v.state.lock() }

// IsUnlocked reports whether the vault has a seed.
func (v *Vault) IsUnlocked() bool {
	v.state.mu.Lock()
	defer v.state.mu.Unlock()
	return v.state.seed != nil
}

// Close locks the vault for good. It may be called again, and returns after
// the vault's last timer. The error is always nil.
func (v *Vault) Close() error {
	v.state.close()
	return nil
}

// MemoryLocked reports whether the seed lies in memory that is neither swapped
// out nor part of a core dump nor given to child processes. It is false while
// the vault is locked, on systems other than Linux, and where the limit on
// locked memory (RLIMIT_MEMLOCK) is used up: worth one warning in a log.
func (v *Vault) MemoryLocked() bool {
	v.state.mu.Lock()
	defer v.state.mu.Unlock()
	return v.state.seed != nil && v.state.seedLocked
}

// DeriveEd25519 returns the Ed25519 key at a path, a fresh copy that the caller
// wipes. The path must be hardened throughout and outside the branch of the
// encryption keys, else ErrInvalidPath; ErrLocked while locked.
func (v *Vault) DeriveEd25519(path Path) (*DerivedKey, error) {
	canonical, indices, err := ed25519Path(path)
	if err != nil {
		return nil, err
	}
	return v.state.key(cacheKey{Ed25519, canonical}, indices)
}

// DeriveEncryptionKey returns the AES key at a path, a fresh copy that the
// caller wipes. The path must be hardened throughout and below m/74'/2', else
// ErrInvalidPath; ErrLocked while locked.
func (v *Vault) DeriveEncryptionKey(path Path) (*DerivedKey, error) {
	canonical, indices, err := encryptionPath(path)
	if err != nil {
		return nil, err
	}
	return v.state.key(cacheKey{AES256GCM, canonical}, indices)
}

// DeriveEncryptionKeyForVersion returns the AES key of a version, as
// DeriveEncryptionKey does. A version that EncryptionPath refuses is
// ErrInvalidPath.
func (v *Vault) DeriveEncryptionKeyForVersion(version uint32) (*DerivedKey, error) {
	path, err := EncryptionPath(version)
	if err != nil {
		return nil, err
	}
	return v.DeriveEncryptionKey(path)
}

// DeriveEthereumKey returns the secp256k1 key at a path (BIP-32), a fresh copy
// that the caller wipes. The path may have indices of both kinds, but one at
// least, else ErrInvalidPath; ErrLocked while locked.
func (v *Vault) DeriveEthereumKey(path Path) (*DerivedKey, error) {
	canonical, indices, err := keyPath(path)
	if err != nil {
		return nil, err
	}
	return v.state.key(cacheKey{Secp256k1, canonical}, indices)
}

// IdentityPath is the path of the node's identity, by device and generation.
func (v *Vault) IdentityPath() Path {
	path, _ := IdentityPath(v.device, v.generation) // checked by New
	return path
}

// IdentityKey returns the node's identity key; the caller wipes it.
func (v *Vault) IdentityKey() (*DerivedKey, error) { return v.DeriveEd25519(v.IdentityPath()) }

// NextPublicKey returns the public key of the identity's next generation, to
// which the identity commits. ErrInvalidPath when there is none.
func (v *Vault) NextPublicKey() ([]byte, error) {
	path, err := IdentityPath(v.device, v.generation+1)
	if err != nil {
		return nil, err
	}
	return v.PublicKey(path)
}

// PublicKey returns the public half of the Ed25519 key at a path, with the
// errors of DeriveEd25519.
func (v *Vault) PublicKey(path Path) ([]byte, error) { return public(v.DeriveEd25519(path)) }

// EthereumPublicKey returns the public half of the secp256k1 key at a path, 33
// bytes, compressed, with the errors of DeriveEthereumKey.
func (v *Vault) EthereumPublicKey(path Path) ([]byte, error) {
	return public(v.DeriveEthereumKey(path))
}

func public(key *DerivedKey, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	key.Wipe()
	return key.Public, nil
}

// IdentitySigner returns the signer of a device's identity in a generation, not
// only the present one: the old key and the new one both sign a hand-over. It
// is as Signer's. A device or generation above MaxIndex is ErrInvalidPath.
func (v *Vault) IdentitySigner(device, generation uint32) (crypto.Signer, error) {
	path, err := IdentityPath(device, generation)
	if err != nil {
		return nil, err
	}
	return v.Signer(path)
}

// Signer returns a signer with the Ed25519 key at a path, whose public key is
// an ed25519.PublicKey. It takes the key from the vault for each signature, so
// it works while the vault is unlocked; no private byte leaves.
func (v *Vault) Signer(path Path) (crypto.Signer, error) {
	public, err := v.PublicKey(path)
	if err != nil {
		return nil, err
	}
	return &signer{vault: v, path: path, public: public}, nil
}

func (s *state) mayUnlock() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mayUnlockLocked()
}

func (s *state) mayUnlockLocked() error {
	switch {
	case s.closed:
		return ErrClosed
	case s.seed != nil:
		return ErrAlreadyUnlocked
	}
	return nil
}

// unlock takes seed over.
func (s *state) unlock(seed []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mayUnlockLocked(); err != nil {
		wipe.Bytes(seed)
		return err
	}
	held, locked := newLockedSecret(seed)
	s.seed, s.seedLocked = &held, locked
	return nil
}

func (s *state) lock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lockLocked()
}

func (s *state) lockLocked() {
	if s.sweep != nil && s.sweep.Stop() {
		s.sweeps.Done()
	}
	s.sweep = nil
	s.cache.clear()
	if s.seed != nil {
		s.seed.wipe()
		s.seed = nil
	}
}

func (s *state) close() {
	func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lockLocked()
		s.closed = true
	}()
	s.sweeps.Wait()
}

// key returns a copy of the key at a checked path, and caches the key.
func (s *state) key(id cacheKey, indices []uint32) (*DerivedKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keyLocked(id, indices)
}

func (s *state) keyLocked(id cacheKey, indices []uint32) (*DerivedKey, error) {
	if s.seed == nil {
		return nil, ErrLocked
	}
	if key := s.cache.get(id); key != nil {
		return key.clone()
	}
	var key *DerivedKey
	var err error
	useErr := undisturbed(func() error {
		return s.seed.use(func(seed []byte) { key, err = deriveKey(id.keyType, seed, indices) })
	})
	if useErr != nil {
		return nil, useErr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDerivation, err)
	}
	if s.cache.size < 1 {
		return key, nil
	}
	cached, err := key.clone()
	if err != nil {
		return nil, err
	}
	s.cache.put(id, cached)
	s.scheduleSweep()
	return key, nil
}

// scheduleSweep sets the timer for the next key that expires, unless one is
// set.
func (s *state) scheduleSweep() {
	if s.sweep != nil {
		return
	}
	left := s.cache.sweep()
	if left == 0 {
		return
	}
	s.sweeps.Add(1)
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		defer s.sweeps.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sweep == timer { // else a Lock came first
			s.sweep = nil
			s.scheduleSweep()
		}
	})
	s.sweep = timer
}
