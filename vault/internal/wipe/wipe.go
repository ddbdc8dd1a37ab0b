// Package wipe overwrites secrets in memory.
package wipe

import "runtime"

// Bytes overwrites b with zeros. They are copied there: that goes through the
// same registers of the processor as a copy of b did, which a signal would save
// to memory. It is best effort: it reaches no copy that append, a string
// conversion, a hash state or the stack has made.
func Bytes(b []byte) {
	copy(b, make([]byte, len(b)))
	runtime.KeepAlive(b) // the compiler may not drop the stores as dead
}
