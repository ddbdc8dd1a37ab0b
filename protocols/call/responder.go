package call

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

// served is a request of the peer that is under way.
type served struct {
	execution
	s      *Session
	home   *stream
	load   *load       // guarded by the session's mutex
	window bool        // the caller gives credit
	timer  *time.Timer // nil without deadline
	token  auth.Token  // that the identity was resolved from; zero for the session's own

	emitting sync.Mutex // one emit at a time

	mu       sync.Mutex
	done     bool // the terminal event is sent, or nothing is to be sent any more
	credit   int64
	credited chan struct{} // capacity 1; of a subscription
}

// requested acts on call.requested, in the order of CALL-31. An error ends the
// stream.
func (st *stream) requested(env wire.Envelope, sharedBody bool) error {
	s := st.s
	id := string(env.ID)
	w, err := wire.ParseRequest(env.Payload)
	if errors.Is(err, wire.ErrViolation) {
		return err
	}
	if s.servedBy(id) != nil {
		return violated("request id is in flight") // CALL-18
	}
	if err != nil {
		return st.refuse(id, Errorf(CodeInvalidInput, "%v", err))
	}
	name := strings.TrimPrefix(w.Operation, "/")
	identity, err := s.identify(w.Token)
	if err != nil {
		s.end(err)
		return nil
	}
	op, denied := s.p.find(name, identity)
	if denied != nil {
		return st.refuse(id, denied)
	}
	if sharedBody {
		w.Input = bytes.Clone(w.Input)
	}
	r := &served{s: s, home: st, window: w.Window > 0, credit: w.Window, token: s.tokenOf(w.Token, identity)}
	r.p, r.op, r.layers = s.p, op, layers{own: s.imported.Load(), peers: s.p.peers.Load()}
	r.state.Store(stateRunning)
	r.req = Request{
		ID: id, Operation: name, Input: w.Input,
		Identity: identity, ForwardedFor: claimed(w.ForwardedFor), Origin: identity,
		Authority: op.Authority, Capabilities: op.Capabilities, ScopedEnv: op.ScopedEnv, Env: &r.execution,
		Peer: s.peer, Metadata: map[string]any{}, Traceparent: w.Traceparent,
		execution: &r.execution,
	}
	if op.Stream != nil {
		r.credited = make(chan struct{}, 1)
	}
	limit := s.p.limit(op, w.TimeoutMS)
	if limit > 0 {
		r.req.Deadline = time.Now().Add(limit)
	}
	r.ctx, r.cancel = context.WithCancelCause(s.base)
	r.stop = func() {}
	if limit > 0 {
		r.ctx, r.stop = context.WithDeadlineCause(r.ctx, r.req.Deadline, ErrTimeout)
	}
	refused, err := r.start()
	if refused == nil && err == nil {
		r.recheck() // what its token was good for may have ended before Recheck could find it
		return nil
	}
	r.cancel(nil)
	r.stop()
	if err != nil {
		return err
	}
	return st.refuse(id, refused)
}

// start enters r into the table and runs its handler, unless a limit or
// draining is in the way; an error ends the stream.
func (r *served) start() (refused *Error, err error) {
	s, st := r.s, r.home
	s.mu.Lock()
	defer s.mu.Unlock()
	st.requests++
	r.load = &s.calls
	limit := s.limits.Requests
	if r.op.Stream != nil {
		r.load = &s.subscriptions
		limit = s.limits.Subscriptions
	}
	switch {
	case s.draining || s.err != nil:
		return overloaded("draining", "shutting down"), nil
	case s.serving[r.req.ID] != nil: // it came by two streams at once
		return nil, violated("request id is in flight")
	case st.role == excess:
		return overloaded("overloaded", "too many streams"), nil
	case r.load.full(limit):
		return overloaded("overloaded", "too many requests"), nil
	}
	r.load.open++
	r.load.running++
	st.serving++
	s.serving[r.req.ID] = r
	if !r.req.Deadline.IsZero() {
		r.timer = time.AfterFunc(time.Until(r.req.Deadline), r.timeout)
	}
	s.wg.Go(func() {
		defer r.returned()
		r.run()
	})
	return nil, nil
}

// returned counts a handler out.
func (r *served) returned() {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	r.load.running--
	if s.draining {
		s.poked()
	}
}

// refuse answers a request that was never under way.
func (st *stream) refuse(id string, e *Error) error {
	return st.put(failure(id, e))
}

// failure encodes an error; details that make it too large are left out.
func failure(id string, e *Error) encoder {
	f := &wire.Failure{Code: string(e.Code), Message: e.Message, Retryable: e.Retryable, Details: e.Details}
	return func(dst []byte) ([]byte, error) {
		dst, err := wire.AppendFailure(dst, id, f)
		if err != nil {
			dst, err = wire.AppendFailure(dst, id, &wire.Failure{Code: f.Code, Message: "error too large"})
		}
		return dst, err
	}
}

// identify resolves whose request it is (CALL-36). The error ends the session:
// too many tokens have failed (NODE-34).
func (s *Session) identify(text string) (*auth.Identity, error) {
	if text == "" {
		return s.peer.Caller(), nil
	}
	if s.tokenFailures.Load() >= int64(s.p.cfg.MaxTokenFailures()) {
		return nil, protocols.ErrAuthRequired
	}
	if id, ok := s.resolve(auth.TokenFromText(text)); ok {
		return &id, nil
	}
	s.tokenFailures.Add(1)
	s.log.Warn("token not recognised", "peer", s.peer.PeerName)
	return s.peer.Caller(), nil
}

// resolve finds what a token stands for at this moment.
func (s *Session) resolve(token auth.Token) (id auth.Identity, ok bool) {
	if s.p.cfg.Provider != nil {
		id, ok = s.p.cfg.Provider.ResolveFromToken(token)
	}
	if !ok && s.p.cfg.Tickets != nil {
		id, ok = s.p.cfg.Tickets.ResolveTicket(token, s.peer.Fingerprint)
	}
	return id, ok
}

// claimed is for whom a forwarder says that it calls (CALL-63).
func claimed(id *wire.Identity) *auth.Identity {
	if id == nil {
		return nil
	}
	return &auth.Identity{ID: id.ID, Scopes: id.Scopes, Resources: id.Resources}
}

// find is what of a request's fate does not depend on its input: NOT_FOUND for
// names that are not there or not offered, in the same words, then FORBIDDEN.
func (p *Protocol) find(name string, identity *auth.Identity) (*entry, *Error) {
	op := p.registry.lookup(name)
	if op == nil || op.Spec.Visibility == Internal {
		return nil, notFound(name)
	}
	if err := identity.May(op.Spec.Name, op.Spec.Access); err != nil {
		return nil, Errorf(CodeForbidden, "%v", err)
	}
	return op, nil
}

func notFound(name string) *Error {
	return Errorf(CodeNotFound, "operation not found: %s", clip(name))
}

// limit is how long a request may take; 0 is no limit (CALL-39, CALL-40).
func (p *Protocol) limit(op *entry, askedMS int64) time.Duration {
	most := p.cfg.MaxTimeout
	if op.Timeout > 0 {
		most = op.Timeout
	}
	switch {
	case askedMS > 0:
		if askedMS > int64(math.MaxInt64/time.Millisecond) {
			return most
		}
		return min(most, time.Duration(askedMS)*time.Millisecond)
	case op.Timeout > 0:
		return op.Timeout
	case op.Stream != nil:
		return 0
	}
	return p.cfg.Timeout
}

// run calls the handler and sends what comes of it.
func (r *served) run() {
	if r.op.Stream == nil {
		r.execution.run(nil, r)
	} else {
		r.execution.run(r.emit, r)
	}
}

// ended sends what came of the handler.
func (r *served) ended(output json.RawMessage, failure *Error) {
	switch {
	case failure != nil:
		r.fail(failure)
	case r.op.Stream != nil:
		r.finish(0, func(dst []byte) ([]byte, error) {
			return wire.AppendEmpty(dst, wire.Completed, r.req.ID), nil
		})
	default:
		r.finish(len(output), func(dst []byte) ([]byte, error) {
			return wire.AppendOutput(dst, r.req.ID, output)
		})
	}
}

// emit sends one value of a subscription.
func (r *served) emit(v any) error {
	output, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode value: %w", err)
	}
	r.emitting.Lock()
	defer r.emitting.Unlock()
	if err := r.awaitCredit(); err != nil {
		return err
	}
	enc := func(dst []byte) ([]byte, error) { return wire.AppendOutput(dst, r.req.ID, output) }
	for {
		if err := r.awaitRoom(); err != nil {
			return err
		}
		r.mu.Lock()
		if r.done {
			r.mu.Unlock()
			return r.over()
		}
		err := r.home.out.offer(len(output), enc)
		r.mu.Unlock()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, wire.ErrFrameTooLarge):
			e := Errorf(CodeInternal, "response too large")
			r.fail(e)
			return e
		case !errors.Is(err, errNoRoom):
			return r.over()
		}
	}
}

// over is why a subscription takes no more values.
func (r *served) over() error {
	if cause := context.Cause(r.ctx); cause != nil {
		return cause
	}
	return ErrAborted
}

// awaitCredit takes one value's credit, waiting for it (CALL-28).
func (r *served) awaitCredit() error {
	for {
		r.mu.Lock()
		over, free := r.done, !r.window
		if !over && !free && r.credit > 0 {
			r.credit--
			free = true
		}
		r.mu.Unlock()
		switch {
		case over:
			return r.over()
		case free:
			return nil
		}
		select {
		case <-r.credited:
		case <-r.ctx.Done():
			return r.over()
		}
	}
}

// awaitRoom waits until the home stream has room. A caller that gives no
// credit must make some within overrunTime (CALL-29).
func (r *served) awaitRoom() error {
	ctx := r.ctx
	if !r.window {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, overrunTime)
		defer cancel()
	}
	err := r.home.out.wait(ctx)
	if err != nil && r.ctx.Err() == nil {
		r.abort(ErrSubscriptionOverflow, true)
	}
	if err != nil {
		return r.over()
	}
	return nil
}

// addCredit lets a subscription emit more values.
func (r *served) addCredit(items int64) {
	if r.op.Stream == nil {
		return
	}
	r.mu.Lock()
	if r.credit > math.MaxInt64-items {
		r.credit = math.MaxInt64
	} else {
		r.credit += items
	}
	r.mu.Unlock()
	select {
	case r.credited <- struct{}{}:
	default:
	}
}

// finish sends the terminal event of a handler that returned, of about size
// bytes, once there is room for it.
func (r *served) finish(size int, enc encoder) {
	for {
		if r.home.out.wait(r.ctx) != nil {
			return // ended otherwise (CALL-30)
		}
		err := r.terminal(func() error { return r.home.out.offer(size, enc) }, nil)
		switch {
		case errors.Is(err, wire.ErrFrameTooLarge):
			r.fail(Errorf(CodeInternal, "response too large")) // CALL-3
			return
		case !errors.Is(err, errNoRoom):
			return
		}
	}
}

// fail sends call.error as the terminal event, now.
func (r *served) fail(e *Error) {
	enc := failure(r.req.ID, e)
	if len(e.Details) > largeFrame {
		r.finish(len(e.Details), enc)
		return
	}
	r.urgent(enc, e)
}

// timeout ends the request at its deadline (CALL-42).
func (r *served) timeout() {
	r.urgent(failure(r.req.ID, timedOut(nil)), ErrTimeout)
}

// abort ends the request for the given cause, telling the peer when tell is
// set (CALL-49). A request that has ended is left alone.
func (r *served) abort(cause error, tell bool) {
	if !tell {
		_ = r.terminal(func() error { return nil }, cause)
		return
	}
	r.urgent(func(dst []byte) ([]byte, error) { return wire.AppendEmpty(dst, wire.Aborted, r.req.ID), nil }, cause)
}

// urgent sends a small terminal event without waiting for room.
func (r *served) urgent(enc encoder, cause error) {
	err := r.terminal(func() error { return r.home.out.put(enc) }, cause)
	if errors.Is(err, errFlooded) {
		r.home.kill(protocols.CodeOverloaded, err)
	}
}

// terminal ends the request: exactly one of all that try gets to run send,
// and nothing is sent after it (CALL-14). When send has no room the request
// goes on. cause is what the handler's context then reports.
func (r *served) terminal(send func() error, cause error) error {
	s := r.s
	r.mu.Lock()
	if r.done {
		r.mu.Unlock()
		return nil
	}
	// Id and place are free as soon as the peer can have read the event.
	s.mu.Lock()
	if s.serving[r.req.ID] == r {
		delete(s.serving, r.req.ID)
	}
	r.load.open--
	s.mu.Unlock()
	err := send()
	if errors.Is(err, errNoRoom) || errors.Is(err, wire.ErrFrameTooLarge) {
		s.mu.Lock()
		if s.serving[r.req.ID] == nil {
			s.serving[r.req.ID] = r
		}
		r.load.open++
		s.mu.Unlock()
		r.mu.Unlock()
		return err
	}
	r.done = true
	r.mu.Unlock()
	r.state.Store(stateTerminal)

	if cause == nil {
		cause = errFinished
	}
	if !errors.Is(cause, ErrTimeout) { // the context ends at its deadline by itself
		r.cancel(cause)
		r.stop()
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	s.mu.Lock()
	st := r.home
	st.serving--
	// A subscription to what is none ends with its stream (CALL-50).
	if r.window && r.op.Stream == nil && st.role == inbound && st.requests == 1 {
		st.finishLocked()
	}
	st.endLocked()
	s.mu.Unlock()
	return err
}
