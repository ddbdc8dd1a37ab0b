package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
	"unicode/utf8"

	gojson "github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

const (
	defaultWindow = 32
	batchWidth    = 32 // requests of a Batch under way at a time
	answeredSlots = 256
)

// pending is a request of ours that awaits its end.
type pending struct {
	id       string
	deadline time.Time     // zero: none
	reply    chan reply    // capacity 1; of a call
	sub      *Subscription // of a subscription

	// guarded by the session's mutex
	home      *stream
	abandoned bool // we have aborted it and keep its stream until the peer has too
}

// reply is how a call ended.
type reply struct {
	output json.RawMessage
	err    *Error
}

// Call calls an operation of the peer and returns its output. input is encoded
// as JSON; nil is null, and a json.RawMessage is sent byte for byte.
//
// It returns when the answer is there, the deadline has passed or ctx ends,
// whichever is first; in the latter cases the peer is told to abort. Every
// failure is an *Error. Called on a subscription, it takes the first value.
func (s *Session) Call(ctx context.Context, name string, input any, opts ...CallOption) (json.RawMessage, error) {
	output, err := s.call(ctx, name, input, opts)
	if err != nil {
		return nil, err
	}
	return output, nil
}

func (s *Session) call(ctx context.Context, name string, input any, opts []CallOption) (json.RawMessage, *Error) {
	req, o, err := s.prepare(name, input, opts)
	if err != nil {
		return nil, err
	}
	if len(s.p.cfg.CallInterceptors) == 0 {
		return s.exchange(ctx, req, o)
	}
	var output json.RawMessage
	err = s.intercepted(ctx, o.id, req, func(ctx context.Context) (err *Error) {
		output, err = s.exchange(ctx, req, o)
		return err
	})
	return output, err
}

// exchange sends a prepared request and waits for its end.
func (s *Session) exchange(ctx context.Context, req *wire.Request, o callOptions) (json.RawMessage, *Error) {
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	start := time.Now()
	limit := s.p.cfg.Timeout
	if o.timeout > 0 {
		limit = o.timeout
		req.TimeoutMS = milliseconds(limit)
	}
	if d, ok := ctx.Deadline(); ok && d.Sub(start) < limit {
		limit = d.Sub(start)
		req.TimeoutMS = milliseconds(limit)
	}
	p := &pending{id: o.id, deadline: start.Add(limit), reply: make(chan reply, 1)}
	if err := s.send(ctx, p, req); err != nil {
		return nil, err
	}
	o.forwards.begin()
	timer := time.NewTimer(time.Until(p.deadline))
	defer timer.Stop()
	var err *Error
	select {
	case r := <-p.reply:
		return r.output, r.err
	case <-ctx.Done():
		err = contextError(ctx)
	case <-timer.C:
		err = timedOut(context.DeadlineExceeded)
	}
	s.abandon(p, err)
	r := <-p.reply // ours, or the answer that came first
	return r.output, r.err
}

// milliseconds is a deadline as the wire has it, at least 1.
func milliseconds(d time.Duration) int64 { return max(1, d.Milliseconds()) }

// prepare checks and encodes what all kinds of requests share.
func (s *Session) prepare(name string, input any, opts []CallOption) (*wire.Request, callOptions, *Error) {
	var o callOptions
	for _, opt := range opts {
		opt(&o)
	}
	if name != "" && name[0] == '/' {
		name = name[1:]
	}
	if err := checkName(name); err != nil {
		return nil, o, Errorf(CodeInvalidInput, "%v", err)
	}
	raw, err := encode(input)
	if err != nil {
		return nil, o, &Error{Code: CodeInvalidInput, Message: fmt.Sprintf("encode input: %v", err), cause: err}
	}
	if o.id == "" {
		o.id = uuid.NewString()
	} else if len(o.id) > wire.MaxID || !utf8.ValidString(o.id) {
		return nil, o, Errorf(CodeInvalidInput, "request id is not 1 to %d bytes of UTF-8", wire.MaxID)
	}
	req := &wire.Request{Operation: name, Input: raw, Traceparent: o.traceparent}
	if o.token != nil {
		req.Token = o.token.Reveal()
	} else if t := s.token.Load(); t != nil {
		req.Token = t.Reveal()
	}
	if o.forwardedFor != nil {
		id := o.forwardedFor.Clone()
		req.ForwardedFor = &wire.Identity{ID: id.ID, Scopes: id.Scopes, Resources: id.Resources}
	}
	return req, o, nil
}

// send enters p into the table and writes its request. The write is tried anew
// on another stream while nothing of it can have left.
func (s *Session) send(ctx context.Context, p *pending, req *wire.Request) *Error {
	enc := func(dst []byte) ([]byte, error) { return wire.AppendRequest(dst, p.id, req) }
	size := len(req.Input)
	if p.sub == nil && size < largeFrame {
		// The usual case, without making a context: the shared stream has room.
		s.mu.Lock()
		st := s.shared
		s.mu.Unlock()
		if st != nil {
			if done, failure := s.offer(p, st, size, enc); done {
				return failure
			}
		}
	}
	if !p.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, p.deadline)
		defer cancel()
	}
	for {
		st, err := s.pick(ctx, p.sub != nil, size)
		if err != nil {
			return s.sendError(ctx, err)
		}
		if done, failure := s.offer(p, st, size, enc); done {
			return failure
		}
		if err := st.out.wait(ctx); err != nil {
			s.mu.Lock()
			s.spareLocked(st)
			s.mu.Unlock()
			return s.sendError(ctx, err)
		}
	}
}

// offer is one attempt to send p on st; done is false when there was no room
// or st has ended.
func (s *Session) offer(p *pending, st *stream, size int, enc encoder) (done bool, failure *Error) {
	ok, failure := s.enter(p, st)
	if failure != nil || !ok {
		return failure != nil, failure
	}
	err := st.out.offer(size, enc)
	if err == nil || !s.leave(p) {
		return true, nil // sent, or settled meanwhile: the reply tells
	}
	if errors.Is(err, errNoRoom) || errors.Is(err, errWriteClosed) {
		return false, nil
	}
	return true, s.sendError(s.base, err)
}

func (s *Session) sendError(ctx context.Context, err error) *Error {
	if e, ok := asError(err); ok {
		return e
	}
	switch {
	case errors.Is(err, wire.ErrFrameTooLarge):
		return wrap(ErrFrameTooLarge, err)
	case ctx.Err() != nil:
		return contextError(ctx)
	case errors.Is(err, protocols.ErrConnectionClosed):
		return wrap(ErrSessionClosed, err)
	}
	return &Error{Code: CodeInternal, Message: fmt.Sprintf("open stream: %v", err), cause: err}
}

// enter puts p into the table with st as its home; false: st has ended.
func (s *Session) enter(p *pending, st *stream) (bool, *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false, s.err
	}
	if s.pending[p.id] != nil {
		s.spareLocked(st)
		return false, Errorf(CodeInvalidInput, "request id is in use: %s", p.id)
	}
	if st.dead || st.finishing || st.readEnded {
		return false, nil
	}
	p.home = st
	st.pending++
	s.pending[p.id] = p
	return true, nil
}

// leave takes p out of the table; false: it is not there any more.
func (s *Session) leave(p *pending) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[p.id] != p {
		return false
	}
	s.removeLocked(p)
	return true
}

// removeLocked takes p out of the table and gives its stream back.
func (s *Session) removeLocked(p *pending) {
	delete(s.pending, p.id)
	st := p.home
	st.pending--
	if s.draining {
		s.poked()
	}
	s.spareLocked(st)
	st.endLocked()
}

// spareLocked ends a stream of ours that has no request any more, or keeps it
// for the next large one.
func (s *Session) spareLocked(st *stream) {
	switch {
	case st.pending > 0 || st.dead || st.finishing:
	case st.role == exclusive, st.role == reusable && (len(s.idle) >= maxIdle || st.readEnded):
		st.finishLocked() // CALL-23
	case st.role == reusable:
		s.idle = append(s.idle, st)
	}
}

// orphansLocked takes out all requests whose home st is.
func (s *Session) orphansLocked(st *stream) []*pending {
	if st.pending == 0 {
		return nil
	}
	var orphans []*pending
	for _, p := range s.pending {
		if p.home == st {
			orphans = append(orphans, p)
		}
	}
	for _, p := range orphans {
		s.removeLocked(p)
	}
	return orphans
}

func (s *Session) failAll(orphans []*pending, e *Error) {
	for _, p := range orphans {
		if !p.abandoned {
			p.end(e)
		}
	}
}

// end tells whoever waits that the request failed, or for io.EOF that a
// subscription is complete. It is called once, after p left the table or was
// abandoned.
func (p *pending) end(err error) {
	if p.sub != nil {
		p.sub.end(err)
		return
	}
	e, ok := asError(err)
	if !ok {
		e = Errorf(CodeInternal, "completed without a value")
	}
	p.reply <- reply{err: e}
}

// settle ends the request id with a terminal event other than an answer.
func (s *Session) settle(id string, err error) {
	s.mu.Lock()
	p := s.pending[id]
	if p == nil {
		s.mu.Unlock()
		return // CALL-16
	}
	if e, ok := asError(err); ok && p.home.own() && overloadedBy(e) {
		s.poolLimit = min(s.poolLimit, anonymousPool) // more streams than the peer likes
	}
	s.removeLocked(p)
	abandoned := p.abandoned
	s.mu.Unlock()
	if !abandoned {
		p.end(err)
	}
}

func overloadedBy(e *Error) bool {
	var d struct {
		Reason string `json:"reason"`
	}
	return e.Code == CodeInternal && e.Retryable && gojson.Unmarshal(e.Details, &d) == nil && d.Reason == "overloaded"
}

// responded acts on a value: the answer to a call, or one of a subscription's
// many. malformed tells that the payload was not one.
func (s *Session) responded(st *stream, id string, output json.RawMessage, malformed error) error {
	s.mu.Lock()
	p := s.pending[id]
	if p == nil {
		h := s.hash(id)
		again := s.answered[h%answeredSlots] == h
		s.answered[h%answeredSlots] = 0
		s.mu.Unlock()
		if again { // a Call of a subscription: CALL-50
			return st.put(func(dst []byte) ([]byte, error) { return wire.AppendEmpty(dst, wire.Aborted, id), nil })
		}
		return nil
	}
	if p.sub == nil {
		s.removeLocked(p)
		h := s.hash(id)
		s.answered[h%answeredSlots] = h
	}
	abandoned := p.abandoned
	s.mu.Unlock()
	switch {
	case abandoned:
	case malformed != nil:
		e := &Error{Code: CodeInternal, Message: "malformed response from the peer", cause: malformed}
		if p.sub == nil {
			p.end(e)
		} else {
			s.abandon(p, e)
		}
	case p.sub == nil:
		p.reply <- reply{output: output}
	default:
		if e := p.sub.push(output); e != nil {
			s.abandon(p, e)
		}
	}
	return nil
}

// hash is the form of an id in the table of answered calls, which may forget
// but hardly ever errs; never 0.
func (s *Session) hash(id string) uint64 { return maphash.String(s.p.seed, id) | 1<<63 }

// abandon ends p on our side with err, tells the peer, and holds on to a stream
// of p's own until the peer has ended p too (CALL-47). It does nothing when p
// has ended before.
func (s *Session) abandon(p *pending, err *Error) {
	s.mu.Lock()
	if s.pending[p.id] != p || p.abandoned {
		s.mu.Unlock()
		return
	}
	p.abandoned = true
	home := p.home
	own := home.own()
	if !own {
		s.removeLocked(p)
	}
	if s.draining {
		s.poked()
	}
	s.mu.Unlock()

	p.end(err)
	abort := func(dst []byte) ([]byte, error) { return wire.AppendEmpty(dst, wire.Aborted, p.id), nil }
	switch sent := home.out.put(abort); {
	case errors.Is(sent, errFlooded):
		home.kill(protocols.CodeOverloaded, sent)
	case sent != nil && !own:
		s.abortElsewhere(abort)
	}
	if own {
		time.AfterFunc(grace, func() {
			s.mu.Lock()
			waiting := s.pending[p.id] == p
			s.mu.Unlock()
			if waiting {
				home.kill(protocols.CodeAborted, errors.New("the peer does not end an aborted request"))
			}
		})
	}
}

// abortElsewhere sends an abort whose home stream can take none.
func (s *Session) abortElsewhere(abort encoder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.wg.Go(func() {
		defer s.recovered("abort")
		ctx, cancel := context.WithTimeout(s.base, grace)
		defer cancel()
		if st, err := s.pick(ctx, false, 0); err == nil {
			_ = st.out.put(abort)
		}
	})
}

// Abort ends a request of ours by its id, as when its context were cancelled:
// it fails with ErrAborted. An unknown id is nothing to abort.
func (s *Session) Abort(id string) {
	s.mu.Lock()
	p := s.pending[id]
	s.mu.Unlock()
	if p != nil {
		s.abandon(p, wrap(ErrAborted, nil))
	}
}

// pick chooses the stream of a request (CALL-22). The shared stream is opened
// before any other, so that it is never the one too many.
func (s *Session) pick(ctx context.Context, subscription bool, size int) (*stream, error) {
	common, err := s.share(ctx)
	if err != nil || !subscription && size < largeFrame {
		return common, err
	}
	r := reusable
	if subscription {
		r = exclusive
	}
	if st, err := s.own(ctx, r); st != nil || err != nil {
		return st, err
	}
	return common, nil
}

// own returns a stream for one request alone; nil when there are to be no more.
func (s *Session) own(ctx context.Context, r role) (*stream, error) {
	s.mu.Lock()
	if n := len(s.idle); r == reusable && n > 0 {
		st := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return st, nil
	}
	if s.single || s.pooled >= s.poolLimit || s.err != nil {
		s.mu.Unlock()
		return nil, nil
	}
	s.pooled++
	s.mu.Unlock()
	raw, err := s.conn.OpenStream(ctx)
	if err == nil {
		return s.attach(raw, r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pooled--
	if errors.Is(err, protocols.ErrStreamClosed) {
		s.single = true
		return nil, nil
	}
	return nil, err
}

// share returns the stream of small requests, opening it when there is none;
// on a connection of one stream, that one.
func (s *Session) share(ctx context.Context) (*stream, error) {
	for {
		s.mu.Lock()
		st, single, e := s.shared, s.single, s.err
		if single && s.only != nil && !s.only.dead {
			st = s.only
		}
		s.mu.Unlock()
		switch {
		case e != nil:
			return nil, e
		case st != nil:
			return st, nil
		case single:
			select {
			case <-s.first:
				s.mu.Lock()
				gone := s.only.dead
				s.mu.Unlock()
				if gone {
					return nil, wrap(ErrSessionClosed, nil)
				}
				continue
			case <-s.done:
				return nil, wrap(ErrSessionClosed, nil)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		select {
		case s.opening <- struct{}{}:
		case <-s.done:
			return nil, wrap(ErrSessionClosed, nil)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		err := s.openShared(ctx)
		<-s.opening
		if err != nil {
			return nil, err
		}
	}
}

// openShared makes s.shared unless it is there; s.opening is held.
func (s *Session) openShared(ctx context.Context) error {
	s.mu.Lock()
	ready := s.shared != nil || s.single
	s.mu.Unlock()
	if ready {
		return nil
	}
	raw, err := s.conn.OpenStream(ctx)
	if errors.Is(err, protocols.ErrStreamClosed) {
		s.mu.Lock()
		s.single = true
		s.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	st, err := s.attach(raw, shared)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !st.dead && !st.readEnded {
		s.shared = st
	}
	return nil
}

// BatchCall is one item of a Batch.
type BatchCall struct {
	Name    string
	Input   any
	Options []CallOption
}

// Result is how one item of a Batch ended: Output, or Err, an *Error.
type Result struct {
	Output json.RawMessage
	Err    error
}

// Batch makes calls side by side, up to 32 at a time, and returns when all
// have ended. Results stand in the order of the calls; each fails on its own
// (CALL-27).
func (s *Session) Batch(ctx context.Context, calls []BatchCall) []Result {
	results := make([]Result, len(calls))
	var wg sync.WaitGroup
	slots := make(chan struct{}, batchWidth)
	for i, c := range calls {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i].Output, results[i].Err = s.Call(ctx, c.Name, c.Input, c.Options...)
		})
	}
	wg.Wait()
	return results
}

// List returns the peer's operations that this node may call (CALL-87).
func (s *Session) List(ctx context.Context) ([]OperationInfo, error) {
	output, err := s.Call(ctx, servicesList, struct{}{})
	if err != nil {
		return nil, err
	}
	var list struct {
		Operations *[]OperationInfo `json:"operations"`
	}
	if err := gojson.Unmarshal(output, &list); err != nil || list.Operations == nil {
		return nil, &Error{Code: CodeInternal, Message: "malformed list of operations from the peer", cause: err}
	}
	return *list.Operations, nil
}

// Schema returns the spec of one of the peer's operations (CALL-88).
func (s *Session) Schema(ctx context.Context, name string) (*Spec, error) {
	output, err := s.Call(ctx, servicesSchema, map[string]string{"name": name})
	if err != nil {
		return nil, err
	}
	spec := new(Spec)
	if err := gojson.Unmarshal(output, spec); err != nil {
		return nil, &Error{Code: CodeInternal, Message: "malformed spec from the peer", cause: err}
	}
	return spec, nil
}
