package protocols

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// NewConnection makes a session of the streams that source gives. The caller
// runs the handler and closes the session.
func NewConnection(source StreamSource, alpn string) Connection {
	return newSession(source, alpn)
}

// endingSource is a source that can end by itself; it then calls end, once,
// from any goroutine.
type endingSource interface {
	onEnd(end func(code uint32))
}

// session is the one Connection of this package. It keeps the set of its open
// streams, so that closing it ends them all.
type session struct {
	source StreamSource
	alpn   string
	id     uint64
	done   chan struct{}
	// closing counts streams that finish in the background after their Close.
	closing sync.WaitGroup

	mu       sync.Mutex
	streams  map[*stream]struct{}
	closed   bool
	end      ending
	identity *auth.Identity
}

// ending is why a session ends.
type ending struct {
	code   uint32
	reason string
}

func newSession(source StreamSource, alpn string) *session {
	s := &session{
		source:  source,
		alpn:    alpn,
		id:      newSessionID(),
		done:    make(chan struct{}),
		streams: make(map[*stream]struct{}),
	}
	if e, ok := source.(endingSource); ok {
		e.onEnd(func(code uint32) { _ = s.Close(code, "ended by the peer") })
	}
	return s
}

// newSessionID draws from 64 bits at random: unique in the process, and
// between routers that know nothing of each other, without shared state.
func newSessionID() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails, says its documentation
	return binary.BigEndian.Uint64(b[:])
}

func (s *session) ALPN() string          { return s.alpn }
func (s *session) ID() uint64            { return s.id }
func (s *session) RemoteAddr() string    { return s.source.RemoteAddr() }
func (s *session) Done() <-chan struct{} { return s.done }

func (s *session) AcceptStream(ctx context.Context) (Stream, error) {
	if s.ended() {
		return nil, ErrConnectionClosed
	}
	inner, err := s.source.AcceptStream(ctx)
	if err != nil {
		return nil, s.sourceError(ctx, "accept stream", err)
	}
	return s.adopt(inner)
}

func (s *session) OpenStream(ctx context.Context) (Stream, error) {
	if s.ended() {
		return nil, ErrConnectionClosed
	}
	inner, err := s.source.OpenStream(ctx)
	if err != nil {
		return nil, s.sourceError(ctx, "open stream", err)
	}
	return s.adopt(inner)
}

func (s *session) SetIdentity(id auth.Identity) error {
	id = id.Clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.identity != nil {
		return ErrIdentityAlreadySet
	}
	s.identity = &id
	return nil
}

func (s *session) Identity() (auth.Identity, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.identity == nil {
		return auth.Identity{}, false
	}
	return s.identity.Clone(), true
}

// Close ends the session. With code 0 the streams that are being closed
// gracefully may still finish; a later Close with another code cuts them off.
func (s *session) Close(code uint32, reason string) error {
	s.mu.Lock()
	first := !s.closed
	if first {
		s.closed, s.end = true, ending{code, reason}
		close(s.done)
	}
	var cut []*stream
	for w := range s.streams {
		if w.cut(code) {
			cut = append(cut, w)
			delete(s.streams, w)
		}
	}
	s.mu.Unlock()

	var errs []error
	for _, w := range cut {
		errs = append(errs, w.inner.Reset(code))
	}
	if first {
		errs = append(errs, s.source.Close(code, reason))
	}
	return errors.Join(errs...)
}

// wait returns when no stream finishes in the background any more; the
// session has ended before.
func (s *session) wait() { s.closing.Wait() }

// ending is how the session ended.
func (s *session) ending() ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

func (s *session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// whileOpen runs f unless the session has ended, which it cannot meanwhile.
func (s *session) whileOpen(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	f()
	return true
}

// adopt makes a stream of the source one of the session's.
func (s *session) adopt(inner Stream) (Stream, error) {
	w := &stream{inner: inner, session: s}
	if !s.whileOpen(func() { s.streams[w] = struct{}{} }) {
		_ = inner.Reset(s.ending().code)
		return nil, ErrConnectionClosed
	}
	return w, nil
}

func (s *session) forget(w *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, w)
}

// sourceError says what kept the source from giving a stream. A source that
// is closed ends the session.
func (s *session) sourceError(ctx context.Context, action string, err error) error {
	if errors.Is(err, ErrConnectionClosed) {
		_ = s.Close(0, "the source has ended")
	}
	if s.ended() {
		return ErrConnectionClosed
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", action, context.Cause(ctx))
	}
	return fmt.Errorf("%s: %w", action, streamError(err))
}
