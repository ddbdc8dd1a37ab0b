package vault

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
)

// KeyType names what a derived key is for.
type KeyType string

// Ed25519 is a signing key: private 32 bytes (an RFC 8032 seed), public 32.
const Ed25519 KeyType = "Ed25519"

// DerivedKey is a key at a path. Its private part is reached through Use only
// and shows as [REDACTED] wherever the key is printed or marshalled; type and
// public key may show. Copies share one private part. The caller who got the
// key wipes it; it outlives a Lock of its vault. It is safe for concurrent use.
type DerivedKey struct {
	redacted
	// KeyType says what the key is for.
	KeyType KeyType
	// Public is the public key, the caller's own copy.
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
