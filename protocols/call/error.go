package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/alkdev/alknet-p2p/protocols"
)

// Code says what went wrong. Six codes belong to the protocol (CALL-52); all
// others are domain codes that an operation declares in its Spec (CALL-53).
type Code string

// The codes of the protocol.
const (
	// CodeNotFound: no such operation here, or none that may be called from
	// the wire.
	CodeNotFound Code = "NOT_FOUND"
	// CodeForbidden: the operation's Access does not let this identity in.
	CodeForbidden Code = "FORBIDDEN"
	// CodeInvalidInput: the input does not match the schema, or the request is
	// malformed.
	CodeInvalidInput Code = "INVALID_INPUT"
	// CodeInvalidOperationType: a call of a subscription or the reverse.
	CodeInvalidOperationType Code = "INVALID_OPERATION_TYPE"
	// CodeInternal: everything else, the loss of the connection included.
	CodeInternal Code = "INTERNAL"
	// CodeTimeout: the deadline passed; retryable.
	CodeTimeout Code = "TIMEOUT"
)

// protocol reports whether c is one of the six.
func (c Code) protocol() bool {
	switch c {
	case CodeNotFound, CodeForbidden, CodeInvalidInput, CodeInvalidOperationType, CodeInternal, CodeTimeout:
		return true
	}
	return false
}

// wellFormed reports whether c is upper snake case, at most 64 bytes.
func (c Code) wellFormed() bool {
	if c == "" || len(c) > 64 || c[0] < 'A' || c[0] > 'Z' || c[len(c)-1] == '_' {
		return false
	}
	for i := range len(c) {
		switch b := c[i]; {
		case b >= 'A' && b <= 'Z', b >= '0' && b <= '9':
		case b == '_' && c[i-1] != '_':
		default:
			return false
		}
	}
	return true
}

// Error is how every call fails (CALL-56), found with errors.As. It is the only
// error that crosses the wire: a handler that returns one decides what its
// caller sees (CALL-54).
type Error struct {
	Code Code
	// Message is for people and never parsed.
	Message string
	// Retryable tells that the same request may succeed later.
	Retryable bool
	// Details is JSON in the form the code's ErrorSpec declares; nil is none.
	Details json.RawMessage

	remote bool
	as     *Error // the sentinel it matches beside the one of its code
	cause  error
}

// Sentinels, matched with errors.Is. The first six match by code; the others
// are kinds of CodeInternal that only this side of the wire can tell apart.
var (
	ErrNotFound             = &Error{Code: CodeNotFound}
	ErrForbidden            = &Error{Code: CodeForbidden}
	ErrInvalidInput         = &Error{Code: CodeInvalidInput}
	ErrInvalidOperationType = &Error{Code: CodeInvalidOperationType}
	ErrInternal             = &Error{Code: CodeInternal}
	ErrTimeout              = &Error{Code: CodeTimeout}

	// ErrAborted: either side aborted the request.
	ErrAborted = &Error{Code: CodeInternal, Message: "request aborted"}
	// ErrParentAborted: the request whose handler made this one was aborted, or
	// has ended; what ended it is beneath.
	ErrParentAborted = &Error{Code: CodeInternal, Message: "parent request aborted"}
	// ErrSubscriptionOverflow: values came faster than they were taken, from a
	// peer that does not wait for credit (CALL-29).
	ErrSubscriptionOverflow = &Error{Code: CodeInternal, Message: "subscription overflow"}
	// ErrSessionClosed: the session ended first. It matches net.ErrClosed.
	ErrSessionClosed = &Error{Code: CodeInternal, Message: "connection closed", cause: protocols.ErrConnectionClosed}
	// ErrStreamClosed: the stream of the request ended first; whether the
	// operation ran is not known (CALL-44).
	ErrStreamClosed = &Error{Code: CodeInternal, Message: "stream closed", cause: protocols.ErrStreamClosed}
	// ErrFrameTooLarge: the request is larger than a frame may be (CALL-3).
	ErrFrameTooLarge = &Error{Code: CodeInternal, Message: "request too large"}
)

// Errorf returns an Error with the code's usual Retryable. It does not wrap:
// nothing but code and text of it goes on the wire.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Retryable: code == CodeTimeout}
}

// WithDetails returns a copy of e with v, encoded as JSON, as its details; a
// value that cannot be encoded is left out.
func (e *Error) WithDetails(v any) *Error {
	c := *e
	c.Details = nil
	if b, err := encode(v); err == nil {
		c.Details = b
	}
	return &c
}

// Error implements error: code and message.
func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Message
}

// Remote reports whether the error came off the wire, as against one made on
// this side.
func (e *Error) Remote() bool { return e.remote }

// Unwrap returns what caused a local error, such as the context's error.
func (e *Error) Unwrap() error { return e.cause }

// Is implements matching with the sentinels of this package. A timeout is also
// context.DeadlineExceeded, on whichever side the clock was first.
func (e *Error) Is(target error) bool {
	if target == context.DeadlineExceeded {
		return e.Code == CodeTimeout
	}
	t, ok := target.(*Error)
	if !ok {
		return false
	}
	return t == e.as || t.Code == e.Code && t.Message == "" && t.Details == nil
}

// wrap returns a local error that matches sentinel and has cause beneath it;
// nil leaves the sentinel's own cause.
func wrap(sentinel *Error, cause error) *Error {
	e := *sentinel
	e.as = sentinel
	if cause != nil {
		e.cause = unexpected(cause)
	}
	return &e
}

// unexpected makes io.EOF io.ErrUnexpectedEOF: the former says that a
// subscription was completed, and no other end may pass for that (CALL-44).
func unexpected(cause error) error {
	if errors.Is(cause, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return cause
}

// overloaded is the answer over a limit (CALL-26) or while draining (NODE-63).
func overloaded(reason, message string) *Error {
	return &Error{
		Code: CodeInternal, Message: message, Retryable: true,
		Details: json.RawMessage(`{"reason":"` + reason + `"}`),
	}
}

// asError finds the *Error in err.
func asError(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}
