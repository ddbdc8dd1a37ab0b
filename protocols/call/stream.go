package call

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

// stream is one stream of a session with its reader and its writer. Any stream
// carries events of both directions, whoever opened it (CALL-21).
//
// The fields below the comment are guarded by the session's mutex.
type stream struct {
	s    *Session
	raw  protocols.Stream
	out  *outbox
	role role

	// guarded by s.mu
	serving   int  // unfinished requests of the peer that arrived here
	pending   int  // our requests that were sent here and await their end
	requests  int  // all requests of the peer that arrived here
	readEnded bool // the peer has ended its half
	finishing bool // our half ends with what is queued
	sent      bool // our half has ended
	dead      bool // no event can come or go any more
}

// role is what a stream is for.
type role uint8

const (
	inbound   role = iota // opened by the peer
	excess                // likewise, over the limit: its requests are refused
	shared                // opened by us for all small requests
	exclusive             // opened by us for one subscription
	reusable              // opened by us for one large request at a time
)

// own reports whether st was opened for a single request at a time.
func (st *stream) own() bool { return st.role == exclusive || st.role == reusable }

// grace is how long a peer may take to end a stream or a request that we have
// ended (CALL-47, NODE-64).
const grace = 5 * time.Second

// attach starts the goroutines of a stream. It fails, and resets the stream,
// when the session is over.
func (s *Session) attach(raw protocols.Stream, r role) (*stream, error) {
	st := &stream{s: s, raw: raw, role: r, out: newOutbox(raw, &s.p.buffers)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		_ = raw.Reset(protocols.CodeShutdown)
		return nil, s.err
	}
	s.streams[st] = struct{}{}
	s.wg.Go(st.write)
	s.wg.Go(st.read)
	return st, nil
}

// write runs the outbox and ends our half after it.
func (st *stream) write() {
	defer st.s.recovered("stream writer")
	if err := st.out.run(); err != nil {
		st.kill(protocols.CodeAborted, err)
		return
	}
	_ = st.raw.CloseWrite() // a stream that cannot half-close is closed as a whole, later
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	st.sent = true
	if s.draining {
		s.poked()
	}
	st.endLocked()
	if !st.dead {
		time.AfterFunc(grace, st.expire)
	}
}

// expire gives up a stream of which the peer does not end its half.
func (st *stream) expire() {
	s := st.s
	s.mu.Lock()
	idle := st.serving == 0
	s.mu.Unlock()
	if idle {
		st.kill(protocols.CodeAborted, protocols.ErrStreamTimeout)
	}
}

// excessFrame bounds what is read of a request that will be refused, so that
// streams over the limit hold little memory.
const excessFrame = 64 << 10

// read takes events off the stream until it ends.
func (st *stream) read() {
	defer st.s.recovered("stream reader")
	limit := st.s.limits.FrameSize
	if st.role == excess {
		limit = min(limit, excessFrame)
	}
	frames := wire.NewReader(st.raw, limit)
	for {
		body, shared, err := frames.Next()
		if err == nil {
			err = st.event(body, shared)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			st.ended()
			return
		case errors.Is(err, wire.ErrViolation):
			st.s.log.Warn("protocol violation", "peer", st.s.peer.PeerName, "err", err)
			st.kill(protocols.CodeProtocolViolation, err)
			return
		case errors.Is(err, errFlooded):
			st.s.log.Warn("stream overloaded", "peer", st.s.peer.PeerName, "err", err)
			st.kill(protocols.CodeOverloaded, err)
			return
		default:
			st.kill(protocols.CodeAborted, err)
			return
		}
	}
}

// event acts on one frame. An error ends the stream.
func (st *stream) event(body []byte, shared bool) error {
	env, err := wire.Scan(body)
	if err != nil {
		return err
	}
	switch env.Type {
	case wire.Requested:
		return st.requested(env, shared)
	case wire.Responded:
		output, err := wire.ParseOutput(env.Payload)
		if errors.Is(err, wire.ErrViolation) {
			return err
		}
		if shared {
			output = bytes.Clone(output)
		}
		return st.s.responded(st, string(env.ID), output, err)
	case wire.Failed:
		f, err := wire.ParseFailure(env.Payload)
		if errors.Is(err, wire.ErrViolation) {
			return err
		}
		st.s.settle(string(env.ID), remoteError(f, err))
	case wire.Completed:
		if err := wire.CheckObject(env.Payload); errors.Is(err, wire.ErrViolation) {
			return err
		}
		st.s.settle(string(env.ID), io.EOF)
	case wire.Aborted:
		if err := wire.CheckObject(env.Payload); errors.Is(err, wire.ErrViolation) {
			return err
		}
		st.aborted(string(env.ID))
	case wire.Credit:
		items, err := wire.ParseCredit(env.Payload)
		if errors.Is(err, wire.ErrViolation) {
			return err
		}
		if r := st.s.servedBy(string(env.ID)); r != nil && err == nil {
			r.addCredit(items)
		}
	default:
		st.s.log.Debug("unknown event ignored", "peer", st.s.peer.PeerName, "type", string(env.Type))
	}
	return nil
}

// aborted acts on call.aborted (CALL-48): the peer ends a request of its own,
// or one of ours; when both bear the id, the one whose home this stream is.
func (st *stream) aborted(id string) {
	s := st.s
	s.mu.Lock()
	r, p := s.serving[id], s.pending[id]
	if r != nil && p != nil && r.home != st && p.home == st {
		r = nil
	}
	s.mu.Unlock()
	switch {
	case r != nil:
		r.abort(ErrAborted, true)
	case p != nil:
		e := wrap(ErrAborted, nil)
		e.remote = true
		s.settle(id, e)
	}
}

// put sends a small event without waiting. A write half that has ended drops
// it: the peer learns that from the stream's end. The error is errFlooded.
func (st *stream) put(enc encoder) error {
	if err := st.out.put(enc); errors.Is(err, errFlooded) {
		return err
	}
	return nil
}

// ended acts on the end of the peer's half between two frames: no more
// requests come here, and none of ours that still wait will be answered
// (CALL-5, CALL-44).
func (st *stream) ended() {
	s := st.s
	s.mu.Lock()
	st.readEnded = true
	orphans := s.orphansLocked(st)
	s.forgetLocked(st)
	st.endLocked()
	s.mu.Unlock()
	s.failAll(orphans, wrap(ErrStreamClosed, nil))
}

// endLocked closes our half when nothing is left to do on the stream, and lets
// go of the stream when both halves have ended.
func (st *stream) endLocked() {
	if st.readEnded && st.serving == 0 && st.pending == 0 {
		st.finishLocked()
	}
	if st.readEnded && st.sent && !st.dead {
		st.dead = true
		st.s.detachLocked(st)
		_ = st.raw.Close()
	}
}

// finishLocked ends our half once all that is queued is written.
func (st *stream) finishLocked() {
	if !st.finishing {
		st.finishing = true
		st.out.finish()
	}
}

// kill ends the stream abruptly: what was sent or served on it fails.
func (st *stream) kill(code uint32, cause error) {
	s := st.s
	s.mu.Lock()
	if st.dead {
		s.mu.Unlock()
		return
	}
	st.dead = true
	orphans := s.orphansLocked(st)
	var served []*served
	for _, r := range s.serving {
		if r.home == st {
			served = append(served, r)
		}
	}
	s.detachLocked(st)
	s.mu.Unlock()

	st.out.fail(cause)
	_ = st.raw.Reset(code)
	lost, why := wrap(ErrStreamClosed, fmt.Errorf("%w: %w", protocols.ErrStreamClosed, unexpected(cause))), ErrStreamClosed
	if errors.Is(cause, protocols.ErrConnectionClosed) {
		lost, why = wrap(ErrSessionClosed, nil), ErrSessionClosed
	}
	s.failAll(orphans, lost)
	for _, r := range served {
		r.abort(why, false) // CALL-45
	}
}

// violated is the error of a request that ends its stream.
func violated(text string) error { return fmt.Errorf("%w: %s", wire.ErrViolation, text) }

// remoteError is the error of a call.error event; malformed tells that its
// payload was not one.
func remoteError(f wire.Failure, malformed error) *Error {
	code := Code(f.Code)
	switch {
	case malformed != nil:
		return &Error{Code: CodeInternal, Message: "malformed error from the peer", cause: malformed}
	case !code.wellFormed():
		e := Errorf(CodeInternal, "%s", f.Message).WithDetails(map[string]string{"code": f.Code})
		e.remote = true
		return e
	}
	return &Error{
		Code: code, Message: f.Message, Retryable: f.Retryable,
		Details: bytes.Clone(f.Details), remote: true,
	}
}
