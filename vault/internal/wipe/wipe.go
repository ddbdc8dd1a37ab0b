// Package wipe overwrites secrets in memory.
package wipe

import (
	"hash"
	"runtime"
)

// Bytes overwrites b with zeros. It is best effort: it reaches no copy that
// append, a string conversion, a hash state or the stack has made.
func Bytes(b []byte) {
	clear(b)
	runtime.KeepAlive(b) // the compiler may not drop the stores as dead
}

// Hash overwrites what h, a hash or an HMAC, still holds of its input. A key of
// an HMAC stays: there is no way to it.
func Hash(h hash.Hash) {
	h.Reset()
	h.Write(make([]byte, h.BlockSize()-1)) // one less than a block stays in the buffer
	h.Sum(nil)                             // writes to an HMAC's outer hash, too
}
