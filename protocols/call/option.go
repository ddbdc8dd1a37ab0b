package call

import (
	"time"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// CallOption changes one call or subscription.
type CallOption func(*callOptions)

type callOptions struct {
	timeout      time.Duration
	token        *auth.Token
	forwardedFor *auth.Identity
	id           string
	window       int
	traceparent  string
	forwards     *execution
}

// WithTimeout sets the deadline of a call in place of Config.Timeout, or bounds
// a whole subscription, which has none otherwise. The peer is told, and caps it
// at its own Config.MaxTimeout.
func WithTimeout(d time.Duration) CallOption { return func(o *callOptions) { o.timeout = d } }

// WithToken sends a token with the request, in place of the session's
// (Session.SetToken): if the peer knows it, the request runs under the token's
// identity. The zero Token sends none.
func WithToken(t auth.Token) CallOption { return func(o *callOptions) { o.token = &t } }

// WithForwardedFor claims for whom the request is made (CALL-63).
func WithForwardedFor(id auth.Identity) CallOption {
	return func(o *callOptions) { o.forwardedFor = &id }
}

// WithRequestID chooses the request's id, 1 to 128 bytes of UTF-8, unique among
// the session's unfinished requests; the default is a fresh UUID.
func WithRequestID(id string) CallOption { return func(o *callOptions) { o.id = id } }

// WithWindow sets how many values of a subscription may be on their way or
// waiting to be taken; the default is 32 (CALL-28).
func WithWindow(items int) CallOption { return func(o *callOptions) { o.window = items } }

// WithTraceparent sends a W3C trace context with the request.
func WithTraceparent(value string) CallOption { return func(o *callOptions) { o.traceparent = value } }

// Forward tells that the call, or subscription, does what r asks for: it counts
// as started once its frame is written (CALL-82), carries r's trace context, and
// is what the handler of an operation imported from a peer makes. The deadline
// comes with the handler's context.
func Forward(r *Request) CallOption {
	return func(o *callOptions) { o.forwards, o.traceparent = r.execution, r.Traceparent }
}
