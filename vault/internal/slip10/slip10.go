// Package slip10 derives Ed25519 keys by SLIP-0010, strictly: hardened steps
// only, and the private key is an RFC 8032 seed, not clamped.
package slip10

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/alkdev/alknet-p2p/vault/internal/hmac"
	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	// Hardened is the bit that marks an index as hardened.
	Hardened uint32 = 1 << 31
	// KeySize is the length of a private key.
	KeySize = 32
	// NodeSize is the length of a node: private key, then chain code.
	NodeSize = 64

	minSeed, maxSeed = 16, 64
)

// ErrSeedSize is returned for a seed that is not 16 to 64 bytes long.
var ErrSeedSize = errors.New("seed must be 16 to 64 bytes")

// ErrNotHardened is returned for an index without the Hardened bit.
var ErrNotHardened = errors.New("Ed25519 has hardened indices only")

// Derive walks path from the master node of seed and returns the node there,
// the private key followed by the chain code. An empty path is the master
// node. The caller wipes the node; seed is not kept.
func Derive(seed []byte, path []uint32) ([]byte, error) {
	if len(seed) < minSeed || len(seed) > maxSeed {
		return nil, ErrSeedSize
	}
	for i, index := range path {
		if index < Hardened {
			return nil, fmt.Errorf("index %d: %w", i+1, ErrNotHardened)
		}
	}
	node := make([]byte, NodeSize)
	hmac.Sum(node, []byte("ed25519 seed"), seed)
	data := make([]byte, 1+KeySize+4) // 0x00 ‖ k ‖ be32(index)
	defer wipe.Bytes(data)
	for _, index := range path {
		copy(data[1:], node[:KeySize])
		binary.BigEndian.PutUint32(data[1+KeySize:], index)
		hmac.Sum(node, node[KeySize:], data)
	}
	return node, nil
}
