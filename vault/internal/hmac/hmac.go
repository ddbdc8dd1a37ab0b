// Package hmac is HMAC-SHA-512 that leaves no copy of its key and input behind.
// The standard library's hashes keep the end of their input in a buffer of theirs
// and, for each sum, on the stack; what they are given in whole blocks they read
// in place. So the input is padded here, and the sum taken from their state.
package hmac

import (
	"crypto/sha512"
	"encoding"
	"encoding/binary"
	"hash"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

// Size is the length of a sum.
const Size = sha512.Size

const (
	lengthSize = 16 // of the length that ends the padding
	magicSize  = 4  // before the chaining value in a state of crypto/sha512
	maxState   = 256
)

// sha is what crypto/sha512 gives.
type sha interface {
	hash.Hash
	encoding.BinaryAppender
	encoding.BinaryUnmarshaler
}

// MAC sums under one key. It is not safe for concurrent use; the caller wipes it.
type MAC struct {
	sha          sha
	inner, outer []byte // states after the first block, which is of the key
	padded       []byte // spare memory, of input
	state, sum   []byte // and of results
}

// New takes a key, which is not kept.
func New(key []byte) *MAC {
	m := &MAC{
		sha:    sha512.New().(sha),
		padded: make([]byte, 2*sha512.BlockSize),
		state:  make([]byte, 0, maxState),
		sum:    make([]byte, Size),
	}
	block := make([]byte, sha512.BlockSize)
	defer wipe.Bytes(block)
	if len(key) > len(block) {
		m.hash(block[:Size], nil, key)
		wipe.Bytes(m.padded) // at once: who has a long key sums often
	} else {
		copy(block, key)
	}
	for i := range block {
		block[i] ^= 0x36
	}
	m.inner = m.after(block)
	for i := range block {
		block[i] ^= 0x36 ^ 0x5c
	}
	m.outer = m.after(block)
	return m
}

// Sum writes the HMAC of the parts, one after the other, to out, which is Size
// bytes long and may be one of them.
func (m *MAC) Sum(out []byte, parts ...[]byte) {
	m.hash(m.sum, m.inner, parts...)
	m.hash(out, m.outer, m.sum)
}

// Wipe overwrites what m has of key, input and sums.
func (m *MAC) Wipe() {
	for _, b := range [][]byte{m.inner, m.outer, m.padded, m.state[:cap(m.state)], m.sum} {
		wipe.Bytes(b)
	}
	m.sha.Reset()
}

// Sum is New, Sum and Wipe in one; out may be the key, too.
func Sum(out, key []byte, parts ...[]byte) {
	m := New(key)
	defer m.Wipe()
	m.Sum(out, parts...)
}

// after is the state after one block.
func (m *MAC) after(block []byte) []byte {
	m.sha.Reset()
	m.sha.Write(block)
	return m.save(make([]byte, 0, maxState))
}

// hash writes the SHA-512 of the parts to out: alone, or after the block whose
// state is given.
func (m *MAC) hash(out, state []byte, parts ...[]byte) {
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	const block = sha512.BlockSize
	need := (n + 1 + lengthSize + block - 1) / block * block
	if need > len(m.padded) {
		wipe.Bytes(m.padded)
		m.padded = make([]byte, need)
	}
	padded := m.padded[:need]
	rest := padded
	for _, part := range parts {
		rest = rest[copy(rest, part):]
	}
	rest[0] = 0x80
	clear(rest[1:])
	if state == nil {
		m.sha.Reset()
	} else {
		n += block
		if err := m.sha.UnmarshalBinary(state); err != nil {
			panic("hmac: internal error: " + err.Error())
		}
	}
	binary.BigEndian.PutUint64(padded[need-8:], uint64(n)*8)
	m.sha.Write(padded)
	m.state = m.save(m.state[:0])
	copy(out, m.state[magicSize:magicSize+Size])
}

// save appends the state of the hash to b.
func (m *MAC) save(b []byte) []byte {
	b, err := m.sha.AppendBinary(b)
	if err != nil {
		panic("hmac: internal error: " + err.Error())
	}
	return b
}
