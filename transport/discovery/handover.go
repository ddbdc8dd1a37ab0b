package discovery

import (
	"bytes"
	stdcrypto "crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/crypto/cryptobyte"
)

const (
	// HandOverBytes is the size of a sealed hand-over.
	HandOverBytes = 1 + 3*32 + 4 + 2*8 + 2*ed25519.SignatureSize
	// MaxHandOverLife is the longest time an old key may go on beside its
	// successor.
	MaxHandOverLife = 90 * 24 * time.Hour
	// MaxHandOvers bounds the hand-overs of one identity that are published: the
	// last so many of its keys lead to the present one.
	MaxHandOvers = 16
)

const (
	handOverVersion   = 1
	handOverDomain    = "alknet-hand-over"
	handOverNamespace = "/alknet-hand-over/"
	nextDomain        = "alknet-next-v1"
)

// ErrNotCommitted: the hand-over names a key that the old one did not commit to.
var ErrNotCommitted = errors.New("hand-over to a key that was not committed to")

// HandOver says that an identity goes on under another key. Both keys sign it,
// and it is found under the commitment that the old key published in its records
// (Record.Next), so that a thief of the old key can neither make one nor hide
// the true one. It is valid in every network, and for ever: what has expired
// is the old key.
type HandOver struct {
	Old, New peer.ID
	// Next is the commitment of New to its own successor.
	Next [32]byte
	// Generation of New; that of Old is less.
	Generation uint32
	// Issued and Expiry have millisecond precision. The old key is still good
	// until Expiry, at most MaxHandOverLife after Issued; where both are equal it
	// is revoked.
	Issued, Expiry time.Time

	sealed []byte
}

// Commitment is what a key's predecessor publishes of it ahead of time: the
// SHA-256 over "alknet-next-v1" and the public key.
func Commitment(p peer.ID) ([32]byte, error) {
	key, err := rawKey(p)
	if err != nil {
		return [32]byte{}, fmt.Errorf("commitment: %w", err)
	}
	return sha256.Sum256(append([]byte(nextDomain), key...)), nil
}

// SealHandOver signs h with the keys of h.Old and h.New, which must be Ed25519
// signers, and returns the sealed bytes.
func SealHandOver(h *HandOver, oldKey, newKey stdcrypto.Signer) ([]byte, error) {
	body, err := h.body()
	if err != nil {
		return nil, fmt.Errorf("seal hand-over: %w", err)
	}
	sealed := body
	for _, key := range []stdcrypto.Signer{oldKey, newKey} {
		sig, err := key.Sign(nil, append([]byte(handOverDomain), body...), stdcrypto.Hash(0))
		if err != nil {
			return nil, fmt.Errorf("seal hand-over: %w", err)
		}
		sealed = append(sealed, sig...)
	}
	if _, err := OpenHandOver(sealed); err != nil {
		return nil, fmt.Errorf("seal hand-over: %w", err)
	}
	return sealed, nil
}

// OpenHandOver checks a sealed hand-over from anywhere: both keys signed it.
// Whether the new key is the one that was committed to is for Follows to say.
func OpenHandOver(raw []byte) (*HandOver, error) {
	if len(raw) != HandOverBytes || raw[0] != handOverVersion {
		return nil, fmt.Errorf("%w: not a hand-over of version %d", ErrMalformed, handOverVersion)
	}
	h := &HandOver{sealed: bytes.Clone(raw)}
	s := cryptobyte.String(h.sealed[1:])
	var issued, expiry uint64
	var err error
	if h.Old, err = readKey(&s); err != nil {
		return nil, err
	}
	if h.New, err = readKey(&s); err != nil {
		return nil, err
	}
	if !s.CopyBytes(h.Next[:]) || !s.ReadUint32(&h.Generation) || !s.ReadUint64(&issued) || !s.ReadUint64(&expiry) {
		return nil, errShort
	}
	if issued > maxTime || expiry > maxTime {
		return nil, fmt.Errorf("%w: time out of range", ErrMalformed)
	}
	h.Issued, h.Expiry = time.UnixMilli(int64(issued)).UTC(), time.UnixMilli(int64(expiry)).UTC()
	if err := h.check(); err != nil {
		return nil, err
	}
	body := len(raw) - 2*ed25519.SignatureSize
	signed := append([]byte(handOverDomain), raw[:body]...)
	for i, p := range []peer.ID{h.Old, h.New} {
		key, err := rawKey(p)
		if err != nil {
			return nil, err
		}
		if sig := raw[body+i*ed25519.SignatureSize:][:ed25519.SignatureSize]; !ed25519.Verify(key, signed, sig) {
			return nil, ErrWrongSigner
		}
	}
	return h, nil
}

// Sealed returns the bytes a hand-over was opened from. They must not be
// changed.
func (h *HandOver) Sealed() []byte { return h.sealed }

// Follows returns nil when the new key is the one that commitment, published by
// the old key, stands for; else ErrNotCommitted.
func (h *HandOver) Follows(commitment [32]byte) error {
	if c, err := Commitment(h.New); err != nil || c != commitment {
		return ErrNotCommitted
	}
	return nil
}

// Newer says whether h replaces old, a hand-over to the same key: it was issued
// later, as a revocation is.
func (h *HandOver) Newer(old *HandOver) bool {
	return old == nil || h.value().newer(old.value())
}

// checkClock refuses one that claims to be from the future: it would stand
// against every later one.
func (h *HandOver) checkClock(now time.Time) error {
	if h.Issued.After(now.Add(MaxRecordAhead)) {
		return ErrRecordAhead
	}
	return nil
}

func (h *HandOver) check() error {
	switch life := h.Expiry.Sub(h.Issued); {
	case h.Old == h.New:
		return fmt.Errorf("%w: hand-over of a key to itself", ErrMalformed)
	case h.Generation == 0:
		return fmt.Errorf("%w: hand-over to generation 0", ErrMalformed)
	case life < 0 || life > MaxHandOverLife:
		return fmt.Errorf("%w: the old key's end does not follow the issue by at most %v", ErrMalformed, MaxHandOverLife)
	}
	return nil
}

func (h *HandOver) body() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddUint8(handOverVersion)
	addKey(&b, h.Old)
	addKey(&b, h.New)
	b.AddBytes(h.Next[:])
	b.AddUint32(h.Generation)
	b.AddUint64(uint64(h.Issued.UnixMilli()))
	b.AddUint64(uint64(h.Expiry.UnixMilli()))
	return b.Bytes()
}

// handOverKey is where the hand-over to the key behind a commitment stands in
// the DHT.
func handOverKey(commitment [32]byte) string { return handOverNamespace + string(commitment[:]) }

// openCommitted is OpenHandOver for one that must lead to the key behind
// commitment.
func openCommitted(raw []byte, commitment [32]byte) (*HandOver, error) {
	h, err := OpenHandOver(raw)
	if err != nil {
		return nil, err
	}
	if err := h.Follows(commitment); err != nil {
		return nil, err
	}
	return h, nil
}
