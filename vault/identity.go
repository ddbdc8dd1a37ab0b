package vault

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
)

const (
	fingerprintPrefix = "ed25519:"
	nextDomain        = "alknet-next-v1"
)

// FingerprintOf is the text form of a node key, "ed25519:" and 64 lower-case
// hex digits: the form that trust is placed in, compared exactly.
func FingerprintOf(public ed25519.PublicKey) string {
	return fingerprintPrefix + hex.EncodeToString(public)
}

// PeerIDOf is the libp2p peer ID of a node key, "12D3KooW…": the key in libp2p's
// protobuf, in an identity multihash, in base58.
func PeerIDOf(public ed25519.PublicKey) string {
	return base58(slices.Concat([]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}, public))
}

// CommitmentOf is what an identity publishes ahead of time of the public key of
// its next generation: SHA-256 over "alknet-next-v1" and the key.
func CommitmentOf(next ed25519.PublicKey) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(nextDomain), next...))
}

// parseFingerprint is the exact inverse of FingerprintOf.
func parseFingerprint(text string) (ed25519.PublicKey, bool) {
	digits, ok := strings.CutPrefix(text, fingerprintPrefix)
	if !ok || len(digits) != 2*ed25519.PublicKeySize {
		return nil, false
	}
	public, err := hex.DecodeString(digits)
	return public, err == nil && FingerprintOf(public) == text
}

// base58 encodes with Bitcoin's alphabet.
func base58(b []byte) string {
	const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	var reversed []byte
	rest, base, digit := new(big.Int).SetBytes(b), big.NewInt(58), new(big.Int)
	for rest.Sign() > 0 {
		rest.DivMod(rest, base, digit)
		reversed = append(reversed, alphabet[digit.Int64()])
	}
	for _, leading := range b {
		if leading != 0 {
			break
		}
		reversed = append(reversed, alphabet[0])
	}
	slices.Reverse(reversed)
	return string(reversed)
}
