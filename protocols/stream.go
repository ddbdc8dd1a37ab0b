package protocols

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// closeTimeout bounds how long a closed stream waits for the peer's end
// (NODE-64).
const closeTimeout = 5 * time.Second

type streamState = uint32

const (
	streamOpen    streamState = iota
	streamClosing             // Close was called, it finishes in the background
	streamEnded               // reset, or finished
)

// stream is a source's stream inside a session: it ends with the session,
// closes gracefully and speaks the errors of NODE-7. Its state changes under
// the session's mutex.
type stream struct {
	inner   Stream
	session *session
	state   atomic.Uint32
	code    atomic.Uint32 // of the reset on our side

	read  sync.Mutex // held by Read, and by the end of a graceful close
	write sync.Mutex // likewise for Write
	// Guarded by read and write.
	readEnded  bool // EOF was read
	writeEnded bool // CloseWrite was called
	truncated  bool // a Write has failed, what stands before it may be half a message

	arm      sync.Mutex // one setter of the deadline at a time
	deadline atomic.Int64
}

func (w *stream) Read(p []byte) (int, error) {
	if err := w.enter(&w.read); err != nil {
		return 0, err
	}
	defer w.read.Unlock()
	n, err := w.inner.Read(p)
	if err == nil {
		return n, nil
	}
	if err == io.EOF { //nolint:errorlint // io.Reader's contract is the bare value
		w.readEnded = true
		return n, err
	}
	return n, w.failed("read", err)
}

func (w *stream) Write(p []byte) (int, error) {
	if err := w.enter(&w.write); err != nil {
		return 0, err
	}
	defer w.write.Unlock()
	if w.writeEnded {
		return 0, ErrStreamClosed
	}
	n, err := w.inner.Write(p)
	if err == nil {
		return n, nil
	}
	w.truncated = true
	return n, w.failed("write", err)
}

func (w *stream) CloseWrite() error {
	if err := w.enter(&w.write); err != nil {
		return err
	}
	defer w.write.Unlock()
	if w.writeEnded {
		return nil
	}
	if err := w.inner.CloseWrite(); err != nil {
		return w.failed("close write half", err)
	}
	w.writeEnded = true
	return nil
}

// Close returns at once. Reads and writes that are under way end with
// ErrStreamClosed; a write cut short this way resets the stream, so that the
// peer never takes half a message for a whole one.
func (w *stream) Close() error {
	w.arm.Lock()
	defer w.arm.Unlock()
	s := w.session
	s.mu.Lock()
	if w.state.Load() != streamOpen {
		s.mu.Unlock()
		return nil
	}
	w.state.Store(streamClosing)
	s.closing.Add(1)
	s.mu.Unlock()

	// The deadline wakes what is under way. It is left alone otherwise: the
	// negotiation beneath may still be running on the first bytes.
	if busy(&w.read) || busy(&w.write) {
		if err := w.inner.SetDeadline(time.Unix(1, 0)); err != nil {
			_ = w.inner.Reset(CodeAborted)
		}
	}
	go w.finish()
	return nil
}

// finish is the rest of Close: end our half, read on to the peer's end, let go.
func (w *stream) finish() {
	defer w.session.closing.Done()
	defer w.session.forget(w)
	w.read.Lock()
	defer w.read.Unlock()
	w.write.Lock()
	defer w.write.Unlock()

	if w.truncated {
		_ = w.inner.Reset(CodeAborted)
		return
	}
	if err := w.inner.SetDeadline(time.Now().Add(closeTimeout)); err != nil {
		late := time.AfterFunc(closeTimeout, func() { _ = w.inner.Reset(CodeAborted) })
		defer late.Stop()
	}
	if !w.writeEnded {
		if err := w.inner.CloseWrite(); err != nil {
			_ = w.inner.Reset(CodeAborted)
			return
		}
	}
	if !w.readEnded {
		_, _ = io.Copy(io.Discard, w.inner)
	}
	_ = w.inner.Close()
}

func (w *stream) Reset(code uint32) error {
	s := w.session
	s.mu.Lock()
	if w.state.Load() == streamEnded {
		s.mu.Unlock()
		return nil
	}
	w.code.Store(code)
	w.state.Store(streamEnded)
	delete(s.streams, w)
	s.mu.Unlock()
	if err := w.inner.Reset(code); err != nil {
		return fmt.Errorf("reset stream: %w", err)
	}
	return nil
}

func (w *stream) SetDeadline(t time.Time) error {
	w.arm.Lock()
	defer w.arm.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	var at int64
	if !t.IsZero() {
		at = t.UnixNano()
	}
	w.deadline.Store(at)
	if err := w.inner.SetDeadline(t); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	return nil
}

// enter locks m for a call of the stream's user, unless the stream has ended
// on our side: a graceful close holds m for as long as it takes.
func (w *stream) enter(m *sync.Mutex) error {
	if err := w.usable(); err != nil {
		return err
	}
	m.Lock()
	if err := w.usable(); err != nil {
		m.Unlock()
		return err
	}
	return nil
}

// cut ends the stream for a session that closes with code, and reports
// whether the caller, who holds the session's mutex, is to reset it.
func (w *stream) cut(code uint32) bool {
	if w.state.Load() == streamClosing && code == 0 {
		return false
	}
	w.code.Store(code)
	w.state.Store(streamEnded)
	return true
}

// usable returns the error of a stream that has ended on our side.
func (w *stream) usable() error {
	state := w.state.Load()
	switch {
	case state == streamOpen:
		return nil
	case w.session.ended():
		return ErrConnectionClosed
	case state == streamClosing:
		return ErrStreamClosed
	default:
		return &StreamResetError{Code: w.code.Load()}
	}
}

// failed maps an error of the stream beneath to those of NODE-7.
func (w *stream) failed(action string, err error) error {
	if ended := w.usable(); ended != nil {
		return ended
	}
	if w.session.ended() {
		return fmt.Errorf("%w: %w", ErrConnectionClosed, streamError(err))
	}
	// Not every transport's deadline error is os.ErrDeadlineExceeded, and not
	// every timeout is our deadline: a connection may time out as well.
	var timeout net.Error
	if at := w.deadline.Load(); at != 0 && time.Now().UnixNano() >= at && errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: %w", ErrStreamTimeout, err)
	}
	return fmt.Errorf("%s: %w", action, streamError(err))
}

// streamError maps what libp2p and net streams fail with to the errors of
// NODE-7 and NODE-48.
func streamError(err error) error {
	var (
		reset   *network.StreamError
		lost    *network.ConnError
		refused multistream.ErrNotSupported[protocol.ID]
		ours    *StreamResetError
	)
	switch {
	case errors.As(err, &ours), errors.Is(err, ErrStreamClosed), errors.Is(err, ErrStreamTimeout),
		errors.Is(err, ErrConnectionClosed), errors.Is(err, ErrProtocolNotSupported):
		return err
	case errors.As(err, &refused):
		return fmt.Errorf("%w: %w", ErrProtocolNotSupported, err)
	case errors.As(err, &reset):
		// The refusal and the reset after it race: the reset may discard the
		// refusal before it is read.
		if reset.Remote && reset.ErrorCode == network.StreamProtocolNegotiationFailed {
			return fmt.Errorf("%w: %w", ErrProtocolNotSupported, err)
		}
		return &StreamResetError{Code: uint32(reset.ErrorCode), Remote: reset.Remote}
	case errors.As(err, &lost): // and most likely the session with it, which may not know yet
		return fmt.Errorf("%w: %w", ErrConnectionClosed, &StreamResetError{Code: uint32(lost.ErrorCode), Remote: lost.Remote})
	case errors.Is(err, network.ErrReset):
		return &StreamResetError{Remote: true}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrStreamTimeout, err)
	case errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return fmt.Errorf("%w: %w", ErrStreamClosed, err)
	}
	return err
}

// busy reports whether somebody holds m.
func busy(m *sync.Mutex) bool {
	if m.TryLock() {
		m.Unlock()
		return false
	}
	return true
}
