package call

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	gojson "github.com/go-json-experiment/json"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// Operation is a Spec with what serves it: Handler for queries and mutations,
// Stream for subscriptions, exactly one of the two; neither for a schema alone,
// which is Internal, FromJSONSchema and NOT_FOUND to whoever calls it (CALL-98).
type Operation struct {
	Spec    Spec
	Handler Handler
	Stream  StreamHandler
	// Timeout is both default and cap of a call's deadline; 0 takes
	// Config.Timeout and Config.MaxTimeout. For a subscription it bounds the
	// whole stream, and 0 means no bound. A composed call has the deadline of
	// the request it belongs to (CALL-41).
	Timeout time.Duration

	// Provenance is where the operation comes from; the zero value is Local.
	Provenance Provenance
	// Authority is as whom the handler calls other operations; nil is as
	// nobody. Nil for leaves.
	Authority *CompositionAuthority
	// ScopedEnv is which operations the handler may call; nil is none. Nil for
	// leaves.
	ScopedEnv *ScopedEnv
	// Capabilities are the outbound secrets the handler may use.
	Capabilities Capabilities
}

// Handler serves a query or a mutation. It is called concurrently.
//
// The result is encoded as JSON; a json.RawMessage goes out byte for byte. What
// an error becomes is written at CALL-54: an *Error with a protocol code or a
// declared one passes, anything else reaches the caller as INTERNAL without
// its text. A panic is recovered. When ctx ends the handler should return;
// context.Cause tells why.
type Handler interface {
	Call(ctx context.Context, r *Request) (any, error)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, r *Request) (any, error)

// Call implements Handler.
func (f HandlerFunc) Call(ctx context.Context, r *Request) (any, error) { return f(ctx, r) }

// StreamHandler serves a subscription. It is called concurrently.
//
// Each value given to emit goes to the subscriber, in order. emit blocks while
// the subscriber has no room (CALL-28), may be called from several goroutines
// until Stream returns, and fails when the subscription is over; the handler
// then returns. A nil result completes the subscription, an error fails it, as
// for Handler.
type StreamHandler interface {
	Stream(ctx context.Context, r *Request, emit func(any) error) error
}

// StreamHandlerFunc is a function as a StreamHandler.
type StreamHandlerFunc func(ctx context.Context, r *Request, emit func(any) error) error

// Stream implements StreamHandler.
func (f StreamHandlerFunc) Stream(ctx context.Context, r *Request, emit func(any) error) error {
	return f(ctx, r, emit)
}

// Request is what a handler learns of a call (CALL-101). It belongs to the
// handler; the identities it refers to are shared and must not be changed.
type Request struct {
	// ID is the envelope's id, unique among the unfinished requests of the
	// session; of a composed request, a UUID.
	ID string
	// ParentID is the ID of the request whose handler made this one; "" when
	// it came off the wire.
	ParentID string
	// Operation is the name called, without leading slash.
	Operation string
	// Input is one valid JSON value that matches the input schema.
	Input json.RawMessage
	// Identity is the caller: that of the request's token, else that of the
	// session; nil for an anonymous caller (CALL-36). Of a composed request it
	// is the authority of the operation that made it, or nil (CALL-61).
	Identity *auth.Identity
	// Authority is the operation's own: as whom it calls others.
	Authority *CompositionAuthority
	// ForwardedFor is a forwarder's claim for whom it calls: for logs, audit
	// and rate limits, never for access (CALL-63). Nil in a composed request.
	ForwardedFor *auth.Identity
	// Origin is the identity of the caller at the root of a composed call, for
	// forwarding to name.
	Origin *auth.Identity
	// Capabilities are the operation's, with those of the request that made
	// this one where it lacks some (CALL-68).
	Capabilities Capabilities
	// Peer is the other end of the session; zero in a composed request.
	Peer auth.Context
	// Deadline is when the call times out; the zero time is never. A composed
	// request has its parent's.
	Deadline time.Time
	// Metadata is for interceptors and the handler. It starts empty and never
	// leaves this request (CALL-70).
	Metadata map[string]any
	// ScopedEnv is which operations Env reaches; nil is none.
	ScopedEnv *ScopedEnv
	// Env calls other operations.
	Env Env
	// AbortPolicy is what becomes of the request when the one that made it is
	// aborted, and the default for those it makes (CALL-82).
	AbortPolicy AbortPolicy
	// Traceparent is the W3C trace context the caller sent, unchecked; composed
	// requests inherit it.
	Traceparent string

	internal  bool
	execution *execution
}

// Internal reports whether another operation of this node made the request, as
// against one from the wire (CALL-69).
func (r *Request) Internal() bool { return r.internal }

// Decode reads the input into v, as the JSON package does, with names matched
// case-sensitively and duplicates refused. The error is an *Error with
// CodeInvalidInput that a handler may return as it is.
func (r *Request) Decode(v any) error {
	if err := gojson.Unmarshal(r.Input, v); err != nil {
		return &Error{Code: CodeInvalidInput, Message: fmt.Sprintf("decode input: %v", err), cause: err}
	}
	return nil
}
