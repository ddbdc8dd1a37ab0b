package adapt

import (
	"context"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

// OperationAdapter makes operations of something that has another description
// of what it offers (CALL-90). Who imports also registers: a registry for what
// is always there, a session for what is its peer's.
type OperationAdapter interface {
	// Import asks anew each time. Its errors are of type *AdapterError.
	Import(ctx context.Context) ([]call.Operation, error)
}

// AdapterErrorKind says what stood in the way of an import. There may be more
// kinds than these.
type AdapterErrorKind string

// The kinds of errors of this package.
const (
	// DiscoveryFailed: what is to be imported does not tell what it offers.
	DiscoveryFailed AdapterErrorKind = "discovery failed"
	// SchemaParse: what it tells is malformed, or more than is taken.
	SchemaParse AdapterErrorKind = "malformed description"
	// Transport: the way to it is lost.
	Transport AdapterErrorKind = "transport"
	// Unauthorized: it does not tell us.
	Unauthorized AdapterErrorKind = "unauthorized"
	// SamePeerCollision: two operations of one peer would bear one name.
	SamePeerCollision AdapterErrorKind = "name collision"
)

// AdapterError is how an import fails; then nothing is imported.
type AdapterError struct {
	Kind AdapterErrorKind
	// Message is for people, and says where it happened.
	Message string
	// Err is what is beneath; nil for nothing.
	Err error
}

// Error implements error.
func (e *AdapterError) Error() string {
	text := string(e.Kind) + ": " + e.Message
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns Err.
func (e *AdapterError) Unwrap() error { return e.Err }
