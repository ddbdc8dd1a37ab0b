package auth

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	keyMark  = "ed25519:"
	certMark = "SHA256:"
	peerMark = "12D3KooW" // how the peer ID of every ed25519 key begins
)

// FingerprintFromPeer returns the fingerprint "ed25519:<64 hex>" of a peer ID
// made from an ed25519 key (NODE-50). Peer IDs of other keys have none: an
// error.
func FingerprintFromPeer(p peer.ID) (string, error) {
	pub, err := p.ExtractPublicKey()
	if err != nil {
		return "", fmt.Errorf("peer ID %s: %w", p, err)
	}
	if pub.Type() != crypto.Ed25519 {
		return "", fmt.Errorf("peer ID %s: the key is not ed25519", p)
	}
	raw, err := pub.Raw()
	if err != nil {
		return "", fmt.Errorf("peer ID %s: %w", p, err)
	}
	return keyMark + hex.EncodeToString(raw), nil
}

// PeerFromFingerprint is the inverse of FingerprintFromPeer. It takes the
// exact form only: 64 lower-case hex digits (NODE-29).
func PeerFromFingerprint(fingerprint string) (peer.ID, error) {
	digits, ok := strings.CutPrefix(fingerprint, keyMark)
	if !ok || !isLowerHex(digits, 2*ed25519.PublicKeySize) {
		return "", errors.New(`not of the form "ed25519:<64 lower-case hex>"`)
	}
	raw, err := hex.DecodeString(digits)
	if err != nil {
		return "", fmt.Errorf("decode key: %w", err)
	}
	pub, err := crypto.UnmarshalEd25519PublicKey(raw)
	if err != nil {
		return "", fmt.Errorf("decode key: %w", err)
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("derive peer ID: %w", err)
	}
	return id, nil
}

// ParseKey reads a node's public key in either of its text forms, the
// fingerprint "ed25519:<64 hex>" or libp2p's peer ID "12D3KooW…".
func ParseKey(text string) (peer.ID, error) {
	if strings.HasPrefix(text, keyMark) {
		return PeerFromFingerprint(text)
	}
	if strings.HasPrefix(text, peerMark) {
		id, err := peer.Decode(text)
		if err != nil {
			return "", fmt.Errorf("decode peer ID: %w", err)
		}
		if _, err := FingerprintFromPeer(id); err != nil {
			return "", err
		}
		if id.String() != text {
			return "", errors.New("peer ID is not in its canonical form")
		}
		return id, nil
	}
	return "", errors.New("not a key: expected ed25519:<64 hex> or 12D3KooW…")
}

// checkFingerprint accepts both forms of NODE-29: a node key, or the SHA-256
// of an X.509 certificate.
func checkFingerprint(text string) error {
	if strings.HasPrefix(text, keyMark) {
		_, err := PeerFromFingerprint(text)
		return err
	}
	if digits, ok := strings.CutPrefix(text, certMark); ok && isLowerHex(digits, 64) {
		return nil
	}
	return errors.New(`neither "ed25519:<64 lower-case hex>" nor "SHA256:<64 lower-case hex>"`)
}
