// Package legacy derives the keys that earlier alknet builds computed: the
// BIP32-Ed25519 "V2" tree on the master key of SLIP-0010. Its private and public
// halves disagree under RFC 8032, and all keys of a tree share their highest
// bits, so it is for opening old data only.
package legacy

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"

	"filippo.io/edwards25519"

	"github.com/alkdev/alknet-p2p/vault/internal/hmac"
	"github.com/alkdev/alknet-p2p/vault/internal/slip10"
	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

// KeySize is the length of a private key.
const KeySize = 32

// Derive walks path, whose indices are hardened, from the master key of seed,
// and returns the private key there, kL. The caller wipes it.
func Derive(seed []byte, path []uint32) ([]byte, error) {
	master, err := slip10.Derive(seed, nil)
	if err != nil {
		return nil, err
	}
	defer wipe.Bytes(master)
	key := sha512.Sum512(master[:slip10.KeySize])
	defer wipe.Bytes(key[:])
	kL, kR, chain := key[:32], key[32:], master[slip10.KeySize:]
	kL[0] &= 0xf8
	kL[31] = kL[31]&0x1f | 0x40

	data := make([]byte, 1+64+4) // tag ‖ kL ‖ kR ‖ le32(index)
	defer wipe.Bytes(data)
	z, next := make([]byte, 64), make([]byte, 64)
	defer wipe.Bytes(z)
	defer wipe.Bytes(next)
	for i, index := range path {
		if index < slip10.Hardened {
			return nil, fmt.Errorf("index %d: %w", i+1, slip10.ErrNotHardened)
		}
		copy(data[1:], key[:])
		binary.LittleEndian.PutUint32(data[1+64:], index)
		data[0] = 0
		hmac.Sum(z, chain, data)
		data[0] = 1
		hmac.Sum(next, chain, data)
		addTo(kL, z[:28], 8)
		addTo(kR, z[32:], 1)
		copy(chain, next[32:])
	}
	private := make([]byte, KeySize)
	copy(private, kL)
	return private, nil
}

// PublicKey is kL times the base point. It is not what RFC 8032 makes of kL.
func PublicKey(private []byte) ([]byte, error) {
	wide := make([]byte, 64) // kL may be above the group's order
	defer wipe.Bytes(wide)
	copy(wide, private)
	scalar, err := edwards25519.NewScalar().SetUniformBytes(wide)
	if err != nil {
		return nil, err
	}
	return new(edwards25519.Point).ScalarBaseMult(scalar).Bytes(), nil
}

// addTo adds b times factor to sum, little-endian, modulo 2^256.
func addTo(sum, b []byte, factor uint) {
	carry := uint(0)
	for i := range sum {
		carry += uint(sum[i])
		if i < len(b) {
			carry += uint(b[i]) * factor
		}
		sum[i] = byte(carry)
		carry >>= 8
	}
}
