package vault

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	// DefaultWorkFactor is the scrypt work factor of a new vault file: 256 MiB
	// of memory and about a second for each try.
	DefaultWorkFactor = 18
	// MaxWorkFactor is the largest one that is written or read: 1 GiB.
	MaxWorkFactor = 20

	ageNonceSize = 16
)

// seal encrypts to age's scrypt recipient. age makes the header; the content is
// sealed here, as the one chunk that it is (age v1, STREAM), because age's own
// writer would leave a copy of it on the heap.
func seal(plain, passphrase []byte, workFactor int) ([]byte, error) {
	if len(plain) > maxPayload {
		return nil, fmt.Errorf("content is larger than %d bytes", maxPayload)
	}
	// age keeps a copy of the passphrase of its own, so this one matters little.
	scrypt, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, err
	}
	scrypt.SetWorkFactor(workFactor)
	recipient := &keyedRecipient{ScryptRecipient: scrypt}
	var sealed bytes.Buffer
	if _, err := age.Encrypt(&sealed, recipient); err != nil { // header and nonce
		return nil, err
	}
	defer wipe.Bytes(recipient.fileKey)
	nonce := sealed.Bytes()[sealed.Len()-ageNonceSize:]
	content, err := ageContent(recipient.fileKey, nonce)
	if err != nil {
		return nil, err
	}
	return content.Seal(sealed.Bytes(), lastChunk(), plain, nil), nil
}

// unseal decrypts what seal or the age command made, and returns its work
// factor, too. The caller wipes the content. Errors are our own throughout:
// age's quote a file that is none of its kind, and somebody may have kept a
// phrase there.
func unseal(sealed, passphrase []byte, maxWorkFactor int) (plain []byte, workFactor int, err error) {
	scrypt, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, 0, ErrPassphrase
	}
	scrypt.SetMaxWorkFactor(maxWorkFactor)
	identity := &boundedIdentity{ScryptIdentity: scrypt, maxWorkFactor: maxWorkFactor}
	noAgeFile := fmt.Errorf("%w: it is no intact age file sealed with a passphrase", ErrCorruptFile)
	header, err := age.ExtractHeader(bytes.NewReader(sealed))
	content, found := bytes.CutPrefix(sealed, header)
	if err != nil || !found || len(content) < ageNonceSize {
		return nil, 0, noAgeFile
	}
	fileKey, err := age.DecryptHeader(header, identity)
	defer wipe.Bytes(fileKey)
	var noMatch *age.NoIdentityMatchError
	switch {
	case errors.Is(err, ErrWorkFactor):
		return nil, 0, err
	case errors.As(err, &noMatch) && len(noMatch.StanzaTypes) == 1 && noMatch.StanzaTypes[0] == "scrypt":
		return nil, 0, ErrWrongPassphrase
	case err != nil:
		return nil, 0, noAgeFile
	}

	nonce, chunk := content[:ageNonceSize], content[ageNonceSize:]
	if len(chunk) > maxPayload+chacha20poly1305.Overhead {
		return nil, 0, fmt.Errorf("%w: its sealed content is larger than %d bytes", ErrCorruptFile, maxPayload)
	}
	aead, err := ageContent(fileKey, nonce)
	if err != nil {
		return nil, 0, err
	}
	plain, err = aead.Open(nil, lastChunk(), chunk, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: its sealed content is damaged", ErrCorruptFile)
	}
	return plain, identity.workFactor, nil
}

// ageContent is the cipher of an age file's content.
func ageContent(fileKey, nonce []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, fileKey, nonce, "payload", chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	defer wipe.Bytes(key)
	return chacha20poly1305.New(key)
}

// lastChunk is the nonce of an age file's first chunk when that is the last.
func lastChunk() []byte {
	nonce := make([]byte, chacha20poly1305.NonceSize)
	nonce[len(nonce)-1] = 1
	return nonce
}

// keyedRecipient keeps the key of the file that it is a recipient of.
type keyedRecipient struct {
	*age.ScryptRecipient
	fileKey []byte
}

// WrapWithLabels implements age.RecipientWithLabels.
func (r *keyedRecipient) WrapWithLabels(fileKey []byte) ([]*age.Stanza, []string, error) {
	r.fileKey = bytes.Clone(fileKey)
	return r.ScryptRecipient.WrapWithLabels(fileKey)
}

// boundedIdentity tells a work factor that is too large from other faults,
// before any work is done, and keeps the one it met.
type boundedIdentity struct {
	*age.ScryptIdentity
	maxWorkFactor, workFactor int
}

// Unwrap implements age.Identity.
func (i *boundedIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if len(stanzas) == 1 && stanzas[0].Type == "scrypt" && len(stanzas[0].Args) == 2 {
		if logN, err := strconv.Atoi(stanzas[0].Args[1]); err == nil {
			if logN > i.maxWorkFactor {
				return nil, fmt.Errorf("%w: %d is above %d", ErrWorkFactor, logN, i.maxWorkFactor)
			}
			i.workFactor = logN
		}
	}
	return i.ScryptIdentity.Unwrap(stanzas)
}
