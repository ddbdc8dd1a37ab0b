package call

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

// Interceptor surrounds a request: it does its own work before and after next,
// which runs the rest and returns how that ended. It may refuse the request by
// an error in place of next, and gives next a context of its own if it wants.
//
// A request served (Config.Interceptors) has passed name and access, and next
// returns what its handler does. Of a request sent (Config.CallInterceptors) r
// has ID, Operation, Input, ForwardedFor, Peer, Metadata and Traceparent, of
// which the last may be changed; next returns when the call has ended, or the
// subscription is on its way.
//
// It is called concurrently, and must not keep r.
type Interceptor func(ctx context.Context, r *Request, next func(context.Context) error) error

// intercept runs a request within interceptors, the first outermost.
func intercept(ctx context.Context, list []Interceptor, r *Request, run func(context.Context) error) error {
	if len(list) == 0 {
		return run(ctx)
	}
	return list[0](ctx, r, func(ctx context.Context) error { return intercept(ctx, list[1:], r, run) })
}

// intercepted sends a request within the session's interceptors.
func (s *Session) intercepted(ctx context.Context, id string, w *wire.Request, run func(context.Context) *Error) *Error {
	if len(s.p.cfg.CallInterceptors) == 0 {
		return run(ctx)
	}
	r := &Request{
		ID: id, Operation: w.Operation, Input: w.Input, Peer: s.peer,
		ForwardedFor: claimed(w.ForwardedFor), Metadata: map[string]any{}, Traceparent: w.Traceparent,
	}
	err := intercept(ctx, s.p.cfg.CallInterceptors, r, func(ctx context.Context) error {
		w.Traceparent = r.Traceparent
		if e := run(ctx); e != nil {
			return e
		}
		return nil
	})
	if err == nil {
		return nil
	}
	if e, ok := asError(err); ok {
		return e
	}
	return &Error{Code: CodeInternal, Message: err.Error(), cause: err} // CALL-56
}

// LogRequests writes a line for each request, when it has ended.
func LogRequests(log *slog.Logger) Interceptor {
	return func(ctx context.Context, r *Request, next func(context.Context) error) error {
		start := time.Now()
		err := next(ctx)
		attrs := []any{"op", r.Operation, "call", r.ID, "peer", string(r.Peer.PeerName), "took", time.Since(start)}
		if r.Identity != nil {
			attrs = append(attrs, "identity", r.Identity.ID)
		}
		if r.ForwardedFor != nil {
			attrs = append(attrs, "forwarded_for", r.ForwardedFor.ID)
		}
		if err != nil {
			attrs = append(attrs, "err", err)
		}
		log.InfoContext(ctx, "request", attrs...)
		return err
	}
}

// Metrics counts requests; a program implements it with the library of its
// choice.
type Metrics interface {
	// RequestEnded is called at the end of each request, concurrently. code is
	// "" when it went well.
	RequestEnded(operation string, code Code, took time.Duration)
}

// Measure tells m of each request.
func Measure(m Metrics) Interceptor {
	return func(ctx context.Context, r *Request, next func(context.Context) error) error {
		start := time.Now()
		err := next(ctx)
		m.RequestEnded(r.Operation, codeOf(err), time.Since(start))
		return err
	}
}

// codeOf is the code that err has on the wire, as far as err itself tells.
func codeOf(err error) Code {
	e, ok := asError(err)
	switch {
	case err == nil:
		return ""
	case ok:
		return e.Code
	case errors.Is(err, context.DeadlineExceeded):
		return CodeTimeout
	}
	return CodeInternal
}

// maxLimiters bounds the table of LimitRate.
const maxLimiters = 4096

// LimitRate lets each identity begin so many requests a second, and burst at
// once; anonymous peers are told apart by their keys. What is over that fails
// as over any limit (CALL-26). Beyond 4,096 callers at a time, new ones share
// one allowance.
func LimitRate(perSecond float64, burst int) Interceptor {
	l := &limiters{limit: rate.Limit(perSecond), burst: burst, by: map[string]*rate.Limiter{}}
	return func(ctx context.Context, r *Request, next func(context.Context) error) error {
		key := "key " + r.Peer.Fingerprint
		if r.Identity != nil {
			key = "identity " + r.Identity.ID
		}
		if !l.of(key).Allow() {
			return overloaded("overloaded", "too many requests a second")
		}
		return next(ctx)
	}
}

type limiters struct {
	limit rate.Limit
	burst int

	mu    sync.Mutex
	by    map[string]*rate.Limiter
	swept time.Time
}

// of is the caller's limiter. One that nobody has used for a while is as good
// as a new one, so a full table drops those.
func (l *limiters) of(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.by[key]; known != nil {
		return known
	}
	if len(l.by) >= maxLimiters && time.Since(l.swept) > time.Second {
		l.swept = time.Now()
		for k, limiter := range l.by {
			if limiter.Tokens() >= float64(l.burst) {
				delete(l.by, k)
			}
		}
	}
	if len(l.by) >= maxLimiters {
		key = "" // shared
	}
	if l.by[key] == nil {
		l.by[key] = rate.NewLimiter(l.limit, l.burst)
	}
	return l.by[key]
}

// traceKey is where a context has its traceparent.
type traceKey struct{}

// ContextWithTraceparent returns a context whose calls carry a W3C trace
// context, where Trace is one of the interceptors.
func ContextWithTraceparent(ctx context.Context, value string) context.Context {
	return context.WithValue(ctx, traceKey{}, value)
}

// TraceparentFromContext is the traceparent of ctx; "" is none.
func TraceparentFromContext(ctx context.Context) string {
	value, _ := ctx.Value(traceKey{}).(string)
	return value
}

// Trace is an interceptor for both sides: it puts the traceparent of a request
// served into the handler's context, and that of a context into the requests
// sent under it, so that it goes on from node to node (CALL-12). What is no
// traceparent is dropped, as W3C Trace Context demands.
func Trace(ctx context.Context, r *Request, next func(context.Context) error) error {
	if r.Traceparent == "" {
		r.Traceparent = TraceparentFromContext(ctx)
	}
	if !validTraceparent(r.Traceparent) {
		r.Traceparent = ""
		return next(ctx)
	}
	return next(ContextWithTraceparent(ctx, r.Traceparent))
}

// validTraceparent checks version, trace, parent and flags in hexadecimal;
// later versions may go on after those.
func validTraceparent(value string) bool {
	const size = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(value) < size || len(value) > 2*size || len(value) > size && (value[:2] == "00" || value[size] != '-') {
		return false
	}
	version, trace, parent, flags := value[:2], value[3:35], value[36:52], value[53:55]
	if value[2] != '-' || value[35] != '-' || value[52] != '-' || strings.Trim(version+trace+parent+flags, "0123456789abcdef") != "" {
		return false
	}
	return version != "ff" && strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != ""
}
