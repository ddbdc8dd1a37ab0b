package vault

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"

	"github.com/alkdev/alknet-p2p/vault/internal/bip32"
	"github.com/alkdev/alknet-p2p/vault/internal/slip10"
	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

// KeyType names what a derived key is for.
type KeyType string

const (
	// Ed25519 is a signing key: private 32 bytes (an RFC 8032 seed), public 32.
	Ed25519 KeyType = "Ed25519"
	// AES256GCM is a key that seals: 32 bytes, without a public half.
	AES256GCM KeyType = "Aes256Gcm"
	// Secp256k1 is a signing key: private 32 bytes, public 33, compressed.
	Secp256k1 KeyType = "Secp256k1"
)

// DerivedKey is a key at a path. Its private part is reached through Use only
// and shows as [REDACTED] wherever the key is printed or marshalled; type and
// public key may show. Copies share one private part. The caller who got the
// key wipes it; it outlives a Lock of its vault. It is safe for concurrent use.
type DerivedKey struct {
	redacted
	// KeyType says what the key is for.
	KeyType KeyType
	// Public is the public key, the caller's own copy; nil for AES256GCM.
	Public []byte

	private secret
}

// Use calls f with the private key. f must not keep or change the slice, nor
// call Use or Wipe of this key. After Wipe f is not called and the error is
// ErrWiped.
func (k DerivedKey) Use(f func(private []byte)) error { return k.private.use(f) }

// Wipe overwrites the private key. It may be called again.
func (k DerivedKey) Wipe() { k.private.wipe() }

// Format prints type and public key, for every verb.
func (k DerivedKey) Format(s fmt.State, _ rune) { _, _ = fmt.Fprint(s, k.text()) }

// LogValue is type and public key.
func (k DerivedKey) LogValue() slog.Value { return slog.StringValue(k.text()) }

// MarshalText returns type and public key.
func (k DerivedKey) MarshalText() ([]byte, error) { return []byte(k.text()), nil }

// MarshalJSON returns a view for logs, {"key_type":"Ed25519",
// "private_key":"[REDACTED]","public_key":[205,…]}. It cannot be read back.
func (k DerivedKey) MarshalJSON() ([]byte, error) {
	public := make([]int, len(k.Public)) // []byte would become base64
	for i, b := range k.Public {
		public[i] = int(b)
	}
	return json.Marshal(struct {
		KeyType    KeyType `json:"key_type"`
		PrivateKey string  `json:"private_key"`
		PublicKey  []int   `json:"public_key"`
	}{k.KeyType, redaction, public})
}

func (k DerivedKey) text() string {
	return fmt.Sprintf("%s{private:%s public:%s}", k.KeyType, redaction, hex.EncodeToString(k.Public))
}

// clone copies the key, the private part included.
func (k DerivedKey) clone() (*DerivedKey, error) {
	var private []byte
	if err := k.Use(func(b []byte) { private = slices.Clone(b) }); err != nil {
		return nil, err
	}
	return &DerivedKey{KeyType: k.KeyType, Public: slices.Clone(k.Public), private: newSecret(private)}, nil
}

// deriveKey computes the key at checked indices.
func deriveKey(keyType KeyType, seed []byte, indices []uint32) (*DerivedKey, error) {
	derive := slip10.Derive
	if keyType == Secp256k1 {
		derive = bip32.Derive
	}
	node, err := derive(seed, indices)
	if err != nil {
		return nil, err
	}
	defer wipe.Bytes(node)
	private := slices.Clone(node[:slip10.KeySize])
	key := &DerivedKey{KeyType: keyType, private: newSecret(private)}
	switch keyType {
	case Ed25519:
		full := ed25519.NewKeyFromSeed(private)
		key.Public = slices.Clone(full[ed25519.SeedSize:])
		wipe.Bytes(full)
	case Secp256k1:
		key.Public = bip32.PublicKey(private)
	}
	return key, nil
}
