// Package wipe overwrites secrets in memory.
package wipe

import "runtime"

// Bytes overwrites b with zeros. It is best effort: it reaches no copy that
// append, a string conversion, a hash state or the stack has made.
func Bytes(b []byte) {
	clear(b)
	runtime.KeepAlive(b) // the compiler may not drop the stores as dead
}
