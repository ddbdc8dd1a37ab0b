// Package hmac is HMAC-SHA-512 that keeps no copy of its key and input. The
// standard library's hashes leave the end of their input in a buffer of theirs
// and, once for each sum, on the stack; what they are given in whole blocks they
// read in place. So the input is padded here.
package hmac

import (
	"bytes"
	"crypto/sha512"
	"encoding"
	"encoding/binary"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

// Size is the length of a sum.
const Size = sha512.Size

const (
	lengthSize = 16 // of the length that ends the padding
	magicSize  = 4  // before the chaining value in a state of crypto/sha512
)

// Sum writes the HMAC of the parts, one after the other, to out, which is Size
// bytes long and may be the key or a part.
func Sum(out, key []byte, parts ...[]byte) {
	block := make([]byte, sha512.BlockSize)
	defer wipe.Bytes(block)
	short := ShortKey(key)
	defer wipe.Bytes(short)
	copy(block, short)
	for i := range block {
		block[i] ^= 0x36
	}
	inner := make([]byte, Size)
	defer wipe.Bytes(inner)
	hash(inner, append([][]byte{block}, parts...)...)
	for i := range block {
		block[i] ^= 0x36 ^ 0x5c
	}
	hash(out, block, inner)
}

// ShortKey returns what HMAC makes of a key that is longer than a block, and a
// copy of any other. Who uses a key often takes this once, so that the key
// itself passes through the processor's registers once: signals save those to
// memory. The caller wipes it.
func ShortKey(key []byte) []byte {
	if len(key) <= sha512.BlockSize {
		return bytes.Clone(key)
	}
	short := make([]byte, Size)
	hash(short, key)
	return short
}

// hash writes the SHA-512 of the parts to out.
func hash(out []byte, parts ...[]byte) {
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	const block = sha512.BlockSize
	padded := make([]byte, (n+1+lengthSize+block-1)/block*block)
	defer wipe.Bytes(padded)
	rest := padded
	for _, part := range parts {
		rest = rest[copy(rest, part):]
	}
	rest[0] = 0x80
	binary.BigEndian.PutUint64(padded[len(padded)-8:], uint64(n)*8)

	h := sha512.New()
	defer h.Reset()
	h.Write(padded)
	// Its state is the sum, since it has all blocks.
	state, err := h.(encoding.BinaryAppender).AppendBinary(make([]byte, 0, 256))
	if err != nil || len(state) < magicSize+Size {
		panic("hmac: internal error: crypto/sha512 gives no state")
	}
	copy(out, state[magicSize:magicSize+Size])
	wipe.Bytes(state)
}
