package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	// MaxPlaintext is the most that Encrypt seals, in bytes.
	MaxPlaintext = 64 << 10

	saltSize, ivSize, tagSize = 32, 12, 16

	maxEncrypted = 128 << 10 // of the JSON, bytes
)

// EncryptedData is something sealed by a vault: AES-256-GCM under the key of a
// version. It may be shown and kept anywhere. Its JSON form, which does not
// change, is {"key_version":2,"salt":"…","iv":"…","data":"…"}, with the bytes in
// padded base64.
type EncryptedData struct {
	// KeyVersion selects the key.
	KeyVersion uint32
	// Salt is 32 random bytes without a use; who stores the data keeps it.
	Salt []byte
	// IV is the nonce, 12 bytes.
	IV []byte
	// Data is the ciphertext and its tag of 16 bytes.
	Data []byte
}

// ParseEncryptedData reads the JSON form. It wants all four members under their
// exact names and none twice, ignores others, and reads base64 strictly. What it
// refuses is ErrEncryption; that the key version has a key, Decrypt finds out.
func ParseEncryptedData(text []byte) (*EncryptedData, error) {
	d, err := parseEncrypted(text)
	if err != nil {
		return nil, fmt.Errorf("%w: sealed data: %w", ErrEncryption, err)
	}
	return d, nil
}

// MarshalJSON returns the JSON form, compact, the members in their order.
func (d EncryptedData) MarshalJSON() ([]byte, error) {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"key_version":%d,"salt":"%s","iv":"%s","data":"%s"}`,
		d.KeyVersion, encode(d.Salt), encode(d.IV), encode(d.Data)), nil
}

// UnmarshalJSON is ParseEncryptedData.
func (d *EncryptedData) UnmarshalJSON(text []byte) error {
	parsed, err := ParseEncryptedData(text)
	if err != nil {
		return err
	}
	*d = *parsed
	return nil
}

// Encrypt seals plaintext, UTF-8 of at most MaxPlaintext bytes, under the key of
// a version; it may be empty. Nonce and salt are random, so no two results are
// alike: up to 2^32 of them are safe under one version. ErrInvalidPath for a
// version without a key, ErrEncryption for an unfit plaintext, ErrLocked while
// locked. The plaintext stays the caller's, who wipes it.
func (v *Vault) Encrypt(plaintext []byte, version uint32) (*EncryptedData, error) {
	keys, err := v.encryptionKeys(version)
	if err != nil {
		return nil, err
	}
	defer keys[0].Wipe()
	return encryptWith(keys[0], plaintext, version)
}

// Decrypt opens what Encrypt sealed, whatever its version. All that can be wrong
// with the data, or with the seed for it, is one ErrEncryption; ErrInvalidPath
// for a version without a key, ErrLocked while locked. The caller wipes the
// result.
func (v *Vault) Decrypt(d *EncryptedData) ([]byte, error) {
	if d == nil {
		return nil, errCannotOpen
	}
	keys, err := v.encryptionKeys(d.KeyVersion)
	if err != nil {
		return nil, err
	}
	defer keys[0].Wipe()
	return decryptWith(keys[0], d)
}

// Rotate seals what d holds again under the key of a version, which may be the
// same one, and returns that; d is left alone and stays valid. The errors are
// those of Decrypt and Encrypt.
func (v *Vault) Rotate(d *EncryptedData, version uint32) (*EncryptedData, error) {
	if d == nil {
		return nil, errCannotOpen
	}
	keys, err := v.encryptionKeys(d.KeyVersion, version)
	if err != nil {
		return nil, err
	}
	defer keys[0].Wipe()
	defer keys[1].Wipe()
	plaintext, err := decryptWith(keys[0], d)
	if err != nil {
		return nil, err
	}
	defer wipe.Bytes(plaintext)
	return encryptWith(keys[1], plaintext, version)
}

// errCannotOpen is the one failure of Decrypt.
var errCannotOpen = fmt.Errorf("%w: sealed with another key, or damaged", ErrEncryption)

// encryptionKeys returns the AES keys of versions, all of one seed: a Lock
// comes before or after.
func (v *Vault) encryptionKeys(versions ...uint32) ([]*DerivedKey, error) {
	type place struct {
		path    Path
		indices []uint32
	}
	places := make([]place, len(versions))
	for i, version := range versions {
		path, err := EncryptionPath(version)
		if err != nil {
			return nil, err
		}
		if places[i].path, places[i].indices, err = encryptionPath(path); err != nil {
			return nil, err
		}
	}
	v.state.mu.Lock()
	defer v.state.mu.Unlock()
	keys := make([]*DerivedKey, 0, len(versions))
	for _, p := range places {
		key, err := v.state.keyLocked(cacheKey{AES256GCM, p.path}, p.indices)
		if err != nil {
			for _, key := range keys {
				key.Wipe()
			}
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func encryptWith(key *DerivedKey, plaintext []byte, version uint32) (*EncryptedData, error) {
	switch {
	case len(plaintext) > MaxPlaintext:
		return nil, fmt.Errorf("%w: more than %d bytes to seal", ErrEncryption, MaxPlaintext)
	case !utf8.Valid(plaintext):
		return nil, fmt.Errorf("%w: what is sealed must be UTF-8", ErrEncryption)
	}
	d := &EncryptedData{KeyVersion: version, Salt: make([]byte, saltSize), IV: make([]byte, ivSize)}
	rand.Read(d.Salt) // never fails
	rand.Read(d.IV)
	return d, sealData(key, d, plaintext)
}

// sealData sets the data of d, which has its nonce.
func sealData(key *DerivedKey, d *EncryptedData, plaintext []byte) error {
	aead, err := aesGCM(key)
	if err != nil {
		return err
	}
	d.Data = aead.Seal(nil, d.IV, plaintext, nil)
	return nil
}

func decryptWith(key *DerivedKey, d *EncryptedData) ([]byte, error) {
	if len(d.IV) != ivSize || len(d.Data) < tagSize {
		return nil, errCannotOpen
	}
	aead, err := aesGCM(key)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, d.IV, d.Data, nil)
	if err != nil {
		return nil, errCannotOpen
	}
	if !utf8.Valid(plaintext) {
		wipe.Bytes(plaintext)
		return nil, errCannotOpen
	}
	return plaintext, nil
}

func aesGCM(key *DerivedKey) (aead cipher.AEAD, err error) {
	useErr := key.Use(func(private []byte) {
		var block cipher.Block
		if block, err = aes.NewCipher(private); err == nil {
			aead, err = cipher.NewGCM(block)
		}
	})
	if err := errors.Join(useErr, err); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncryption, err)
	}
	return aead, nil
}

func parseEncrypted(text []byte) (*EncryptedData, error) {
	if len(text) > maxEncrypted {
		return nil, fmt.Errorf("larger than %d bytes", maxEncrypted)
	}
	o, err := parseObject(text)
	if err != nil {
		return nil, err
	}
	var d EncryptedData
	if d.KeyVersion, err = member[uint32](o, "key_version"); err != nil {
		return nil, err
	}
	if d.Salt, err = base64Member(o, "salt"); err != nil {
		return nil, err
	}
	if d.IV, err = base64Member(o, "iv"); err != nil {
		return nil, err
	}
	if d.Data, err = base64Member(o, "data"); err != nil {
		return nil, err
	}
	if len(d.IV) != ivSize {
		return nil, fmt.Errorf("%q is not %d bytes long", "iv", ivSize)
	}
	if len(d.Data) < tagSize {
		return nil, fmt.Errorf("%q is shorter than %d bytes", "data", tagSize)
	}
	return &d, nil
}

// base64Member reads padded base64, strictly: Go's decoder skips line ends.
func base64Member(o object, name string) ([]byte, error) {
	text, err := member[string](o, name)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%q is not base64", name)
	}
	return b, nil
}
