package call

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

// execution is a request being executed, off the wire or composed: a node of
// the call tree (CALL-79). Its parent's end reaches it through its context. It
// is the Env of its handler.
type execution struct {
	p      *Protocol
	op     *entry
	req    Request
	parent *execution // nil off the wire
	layers layers
	state  atomic.Uint32
	ctx    context.Context
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // releases the timer of the deadline
}

// The states of an execution.
const (
	statePending uint32 = iota
	stateRunning
	stateTerminal
)

// begin marks the execution as started: its handler is entered, or the frame of
// a forwarded request written (CALL-82). It is false, and the context ended,
// when a request above it has been aborted before.
func (x *execution) begin() bool {
	if x == nil {
		return true
	}
	if x.parent != nil {
		if e := x.parent.over(); e != nil {
			x.state.CompareAndSwap(statePending, stateTerminal)
			x.cancel(e)
		}
	}
	return x.state.CompareAndSwap(statePending, stateRunning)
}

// maxDepth bounds operations that invoke each other.
const maxDepth = 64

// over is why nothing new starts below x: it is finished, or it or a request
// above it has been aborted, or there are too many of those.
func (x *execution) over() *Error {
	depth := 0
	for n := x; n != nil; n = n.parent {
		if depth++; depth > maxDepth {
			return Errorf(CodeInternal, "more than %d operations invoke each other", maxDepth)
		}
		cause := context.Cause(n.ctx)
		if cause != nil && (n == x || !errors.Is(cause, errFinished)) {
			return wrap(ErrParentAborted, cause)
		}
	}
	return nil
}

// outcome takes what came of a request: it is called once.
type outcome interface {
	ended(output json.RawMessage, failure *Error)
}

// run checks the input, runs the handler and gives to what comes of it, in any
// case. emit is nil but for subscriptions.
func (x *execution) run(emit func(any) error, to outcome) {
	returned := false
	defer func() {
		if returned {
			return
		}
		// A panic, or a handler that ended its goroutine (CALL-35).
		if v := recover(); v != nil {
			x.p.log.Error("handler panicked", "op", x.req.Operation, "peer", x.req.Peer.PeerName,
				"err", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		to.ended(nil, Errorf(CodeInternal, "internal error"))
	}()
	output, err := x.handle(emit)
	returned = true
	if err != nil {
		to.ended(nil, x.mapError(err))
		return
	}
	to.ended(output, nil)
}

// handle runs the handler within the interceptors.
func (x *execution) handle(emit func(any) error) (json.RawMessage, error) {
	if len(x.p.cfg.Interceptors) == 0 {
		return x.serve(x.ctx, emit)
	}
	var output json.RawMessage
	err := intercept(x.ctx, x.p.cfg.Interceptors, &x.req, func(ctx context.Context) (err error) {
		output, err = x.serve(ctx, emit)
		return err
	})
	return output, err
}

// serve checks the input and runs the handler. What is good for one use is
// used up in between, before any effect.
func (x *execution) serve(ctx context.Context, emit func(any) error) (json.RawMessage, error) {
	if e := x.op.checkInput(x.req.Input); e != nil {
		return nil, e
	}
	if id := x.req.Identity; id != nil && id.Spend != nil {
		if err := id.Spend(ctx); err != nil {
			x.p.log.Warn("ticket not accepted", "op", x.req.Operation, "peer", x.req.Peer.PeerName, "err", err)
			return nil, Errorf(CodeForbidden, "the ticket is not accepted")
		}
	}
	if x.parent == nil && x.p.cfg.Overlays != nil {
		x.layers.session = x.p.cfg.Overlays.OverlayFor(&x.req)
	}
	if x.op.Stream != nil {
		return nil, x.op.Stream.Stream(ctx, &x.req, emit)
	}
	v, err := x.op.Handler.Call(ctx, &x.req)
	if err != nil {
		return nil, err
	}
	output, err := encode(v)
	if err != nil {
		return nil, fmt.Errorf("encode output: %w", err)
	}
	return output, nil
}

// mapError makes of a handler's error what its caller may see (CALL-54).
func (x *execution) mapError(err error) *Error {
	if x.ctx.Err() != nil && errors.Is(context.Cause(x.ctx), ErrTimeout) {
		return timedOut(nil)
	}
	e, ok := asError(err)
	if !ok {
		x.p.log.Warn("handler failed", "op", x.req.Operation, "peer", x.req.Peer.PeerName, "err", err)
		return Errorf(CodeInternal, "internal error")
	}
	if len(e.Details) > 0 && !wire.Valid(e.Details) {
		x.p.log.Warn("handler's error details are not JSON", "op", x.req.Operation, "err", err)
		return Errorf(CodeInternal, "%s", e.Message)
	}
	declared, known := x.op.errors[e.Code]
	switch {
	case e.Code.protocol(), e.remote && x.op.Provenance == FromCall: // CALL-55
		return e
	case !known:
		mapped := Errorf(CodeInternal, "%s", e.Message).WithDetails(map[string]Code{"code": e.Code})
		if len(e.Details) > 0 { // kept byte for byte
			open := mapped.Details[:len(mapped.Details)-1]
			mapped.Details = slices.Concat(open, json.RawMessage(`,"details":`), e.Details, json.RawMessage("}"))
		}
		return mapped
	}
	details := e.Details
	if len(details) == 0 {
		details = json.RawMessage("null")
	}
	if list, err := declared.validate(details); err != nil || len(list) > 0 {
		x.p.log.Warn("handler's error details do not match their schema", "op", x.req.Operation, "code", string(e.Code))
		return Errorf(CodeInternal, "%s", e.Message).WithDetails(map[string]Code{"code": e.Code})
	}
	return e
}

// errFinished is the cause with which the context of a request ends that was
// answered.
var errFinished = errors.New("request finished")

// composed is a request that a handler made of another operation.
type composed struct {
	execution
	done    chan struct{} // closed when output and failure stand
	output  json.RawMessage
	failure *Error
}

// compose runs an operation for x's handler and waits for what comes of it. op
// is nil when there is none within reach; emit is nil but for subscriptions.
func (x *execution) compose(ctx context.Context, op *entry, name string, input any, o invokeOptions, emit func(any) error) (json.RawMessage, *Error) {
	if !op.runs() {
		return nil, notFound(name)
	}
	if err := x.op.identity.May(op.Spec.Name, op.Spec.Access); err != nil { // CALL-61
		return nil, Errorf(CodeForbidden, "%v", err)
	}
	if (op.Stream != nil) != (emit != nil) {
		return nil, Errorf(CodeInvalidOperationType, "%s is a %s", name, op.Spec.Type)
	}
	raw, err := encode(input)
	if err != nil {
		return nil, &Error{Code: CodeInvalidInput, Message: fmt.Sprintf("encode input: %v", err), cause: err}
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	c := x.child(ctx, op, bytes.Clone(raw), o)
	if failure := c.start(ctx, emit); failure != nil {
		return nil, failure
	}
	select {
	case <-c.done:
		return c.output, c.failure
	case <-ctx.Done():
		return nil, contextError(ctx)
	case <-x.ctx.Done():
		return nil, causeError(x.ctx)
	case <-c.ctx.Done():
	}
	select {
	case <-c.done: // which ends the context
		return c.output, c.failure
	default:
		return nil, causeError(c.ctx)
	}
}

// child makes the request of a composed operation (CALL-101).
func (x *execution) child(ctx context.Context, op *entry, input json.RawMessage, o invokeOptions) *composed {
	c := &composed{done: make(chan struct{})}
	c.execution = execution{p: x.p, op: op, parent: x, layers: x.layers, stop: func() {}, req: Request{
		ID: uuid.NewString(), ParentID: x.req.ID, Operation: op.Spec.Name, Input: input,
		Identity: x.op.identity, Origin: x.req.Origin, Deadline: x.req.Deadline,
		Authority: op.Authority, ScopedEnv: op.ScopedEnv, AbortPolicy: o.policy,
		Metadata: map[string]any{}, Traceparent: x.req.Traceparent, internal: true,
	}}
	c.req.Env, c.req.execution = &c.execution, &c.execution
	if op.Provenance != FromCall { // CALL-68
		c.req.Capabilities = op.Capabilities.filledBy(x.req.Capabilities)
	}
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if !c.req.Deadline.IsZero() {
		c.ctx, c.stop = context.WithDeadlineCause(c.ctx, c.req.Deadline, ErrTimeout)
	}
	return c
}

// start runs c in a goroutine of its own, unless a request above it has been
// aborted.
func (c *composed) start(ctx context.Context, emit func(any) error) *Error {
	x := c.parent
	abort := func(cause error) {
		if c.req.AbortPolicy == ContinueRunning && !c.state.CompareAndSwap(statePending, stateTerminal) {
			return // it has started, or ended
		}
		c.cancel(cause)
	}
	byParent := context.AfterFunc(x.ctx, func() {
		if end := c.req.Deadline; !end.IsZero() && !time.Now().Before(end) {
			return // c's own deadline too: it ends by that, whichever came first
		}
		abort(wrap(ErrParentAborted, context.Cause(x.ctx)))
	})
	byInvoker := context.AfterFunc(ctx, func() {
		if x.ctx.Err() == nil { // else ctx ends because of the parent
			abort(contextError(ctx))
		}
	})
	byNode := func() bool { return true }
	if c.req.AbortPolicy == ContinueRunning {
		byNode = context.AfterFunc(c.p.base, func() { c.cancel(ErrSessionClosed) })
	}
	free := func() {
		byParent()
		byInvoker()
		byNode()
		c.stop()
	}
	failure := x.over()
	if failure == nil && !c.p.spawn(func() {
		defer free()
		if c.op.Provenance != FromCall && !c.begin() {
			c.ended(nil, causeError(c.ctx))
			return
		}
		c.run(emit, c)
	}) {
		failure = wrap(ErrSessionClosed, nil)
	}
	if failure != nil {
		free()
		c.cancel(failure)
	}
	return failure
}

// ended records what came of c.
func (c *composed) ended(output json.RawMessage, failure *Error) {
	c.output, c.failure = output, failure
	c.state.Store(stateTerminal)
	close(c.done)
	c.cancel(errFinished)
}

// causeError is how a request fails whose context has ended.
func causeError(ctx context.Context) *Error {
	cause := context.Cause(ctx)
	e, ok := asError(cause)
	switch {
	case errors.Is(cause, ErrTimeout):
		return timedOut(cause)
	case !ok:
		return wrap(ErrAborted, cause)
	case e.as == nil: // a sentinel
		return wrap(e, nil)
	}
	return e
}
