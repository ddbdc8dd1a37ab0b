// Package bip32 derives secp256k1 keys by BIP-32. Public keys come from private
// ones only.
package bip32

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"github.com/alkdev/alknet-p2p/vault/internal/hmac"
	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	// Hardened is the bit that marks an index as hardened.
	Hardened uint32 = 1 << 31
	// KeySize is the length of a private key, leading zeros included.
	KeySize = 32
	// NodeSize is the length of a node: private key, then chain code.
	NodeSize = 64

	minSeed, maxSeed = 16, 64
)

// ErrSeedSize is returned for a seed that is not 16 to 64 bytes long.
var ErrSeedSize = errors.New("seed must be 16 to 64 bytes")

// ErrInvalidKey is returned when a step gives no valid key, which has a
// probability below 2^-127: BIP-32 says to take another index.
var ErrInvalidKey = errors.New("no valid key at this index")

// Derive walks path from the master node of seed and returns the node there,
// the private key followed by the chain code. An empty path is the master
// node. The caller wipes the node; seed is not kept.
func Derive(seed []byte, path []uint32) ([]byte, error) {
	if len(seed) < minSeed || len(seed) > maxSeed {
		return nil, ErrSeedSize
	}
	node := make([]byte, NodeSize)
	hmac.Sum(node, []byte("Bitcoin seed"), seed)
	if err := addKey(node[:KeySize], make([]byte, KeySize)); err != nil {
		wipe.Bytes(node)
		return nil, fmt.Errorf("master key: %w", err)
	}

	parent := make([]byte, NodeSize)
	defer wipe.Bytes(parent)
	data := make([]byte, 33+4) // 0x00 ‖ k or serP(K), then be32(index)
	defer wipe.Bytes(data)
	for i, index := range path {
		copy(parent, node)
		if index >= Hardened {
			data[0] = 0
			copy(data[1:], parent[:KeySize])
		} else {
			copy(data, PublicKey(parent[:KeySize]))
		}
		binary.BigEndian.PutUint32(data[33:], index)
		hmac.Sum(node, parent[KeySize:], data)
		if err := addKey(node[:KeySize], parent[:KeySize]); err != nil {
			wipe.Bytes(node)
			return nil, fmt.Errorf("index %d: %w", i+1, err)
		}
	}
	return node, nil
}

// PublicKey returns the compressed public key of a private one, 33 bytes.
func PublicKey(private []byte) []byte {
	key := secp256k1.PrivKeyFromBytes(private)
	defer key.Zero()
	return key.PubKey().SerializeCompressed()
}

// addKey makes left, the left half of an HMAC, a private key: left plus parent
// modulo the order of the curve.
func addKey(left, parent []byte) error {
	var sum, k secp256k1.ModNScalar
	defer sum.Zero()
	defer k.Zero()
	if sum.SetByteSlice(left) {
		return ErrInvalidKey
	}
	k.SetByteSlice(parent)
	if sum.Add(&k).IsZero() {
		return ErrInvalidKey
	}
	sum.PutBytesUnchecked(left)
	return nil
}
