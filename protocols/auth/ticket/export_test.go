package ticket

import (
	"crypto/ed25519"
	"testing"
)

// Seal signs a ticket as it stands, with its own id.
func Seal(key ed25519.PrivateKey, t *Ticket) string {
	body, err := t.body()
	if err != nil {
		panic(err)
	}
	return seal(key, body)
}

// Body is the signed part of a ticket.
func Body(t *Ticket) ([]byte, error) { return t.body() }

// Split is the signed part of a text, and its signature.
func Split(t *testing.T, text string) (body, signature []byte) {
	b, err := unspell(text)
	if err != nil {
		t.Fatal(err)
	}
	return b[:len(b)-ed25519.SignatureSize], b[len(b)-ed25519.SignatureSize:]
}

// Remember notes that a bearer ticket let the key in.
func (k *Keeper) Remember(fingerprint, id string) { k.remember(fingerprint, id) }

// Decode reads the signed part of a ticket.
func Decode(body []byte) (*Ticket, error) { return decode(body) }
