package protocols

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	pipeBacklog = 64       // streams opened and not yet accepted
	pipeWindow  = 64 << 10 // bytes written and not yet read, each way
)

// Pipe returns the two ends of a session in memory. Either end opens streams
// and the other accepts them; a stream holds back its writer after 64 KiB.
// Streams and codes behave as over QUIC, and closing one end ends the other,
// after the streams that were being closed gracefully. It is meant for tests
// and for peers within one process.
func Pipe(alpn string) (a, b Connection) {
	p := &pipe{
		backlog: [2]chan *pipeStream{make(chan *pipeStream, pipeBacklog), make(chan *pipeStream, pipeBacklog)},
		done:    make(chan struct{}),
	}
	return newSession(&pipeEnd{p, 0}, alpn), newSession(&pipeEnd{p, 1}, alpn)
}

// pipe is what two pipeEnds share; arrays are indexed by end.
type pipe struct {
	backlog [2]chan *pipeStream
	done    chan struct{}

	mu      sync.Mutex
	open    [2]int // streams the end still holds
	closing [2]bool
	code    uint32
	ended   bool
	end     [2]func(code uint32)
}

// pipeEnd is the StreamSource of one end.
type pipeEnd struct {
	*pipe
	side int
}

func (e *pipeEnd) AcceptStream(ctx context.Context) (Stream, error) {
	select {
	case s := <-e.backlog[e.side]:
		return s, nil
	case <-e.done:
		return nil, ErrConnectionClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *pipeEnd) OpenStream(ctx context.Context) (Stream, error) {
	if !e.hold() {
		return nil, ErrConnectionClosed
	}
	x := newExchange()
	mine := &pipeStream{exchange: x, side: e.side, released: func() { e.release(e.side) }}
	theirs := &pipeStream{exchange: x, side: 1 - e.side, released: func() { e.release(1 - e.side) }}
	select {
	case e.backlog[1-e.side] <- theirs:
		e.refuse(1 - e.side) // it may have closed meanwhile
		return mine, nil
	case <-e.done:
		mine.drop()
		theirs.drop()
		return nil, ErrConnectionClosed
	case <-ctx.Done():
		mine.drop()
		theirs.drop()
		return nil, ctx.Err()
	}
}

func (e *pipeEnd) RemoteAddr() string { return "pipe" }

func (e *pipeEnd) Close(code uint32, _ string) error {
	e.mu.Lock()
	e.closing[e.side] = true
	if code != 0 {
		e.code = code
	}
	e.mu.Unlock()
	e.refuse(e.side)
	e.finish()
	return nil
}

func (e *pipeEnd) onEnd(end func(code uint32)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end[e.side] = end
}

// hold counts a new stream at both ends.
func (p *pipe) hold() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing[0] || p.closing[1] {
		return false
	}
	p.open[0]++
	p.open[1]++
	return true
}

// refuse resets the streams that an end which is closing will not accept.
func (p *pipe) refuse(side int) {
	p.mu.Lock()
	closing, code := p.closing[side], p.code
	p.mu.Unlock()
	for closing {
		select {
		case s := <-p.backlog[side]:
			_ = s.Reset(code)
		default:
			return
		}
	}
}

func (p *pipe) release(side int) {
	p.mu.Lock()
	p.open[side]--
	p.mu.Unlock()
	p.finish()
}

// finish ends the pipe once an end that is closing holds no stream.
func (p *pipe) finish() {
	p.mu.Lock()
	over := !p.ended && (p.closing[0] && p.open[0] == 0 || p.closing[1] && p.open[1] == 0)
	if !over {
		p.mu.Unlock()
		return
	}
	p.ended = true
	code, ends := p.code, p.end
	close(p.done)
	p.mu.Unlock()
	for _, end := range ends {
		end(code)
	}
}

// exchange is one stream of a pipe, both ways: flow[i] is what side i reads.
type exchange struct {
	mu       sync.Mutex
	changed  *sync.Cond
	flow     [2]flow
	deadline [2]time.Time
	timer    [2]*time.Timer
	reset    [2]*StreamResetError // what the side's calls fail with
	shut     [2]bool              // the side has called Close
}

type flow struct {
	buf     []byte
	eof     bool // the writer has closed its half
	stopped bool // the reader has gone
}

func newExchange() *exchange {
	x := new(exchange)
	x.changed = sync.NewCond(&x.mu)
	return x
}

// pipeStream is one side of an exchange.
type pipeStream struct {
	*exchange
	side     int
	dropped  atomic.Bool
	released func()
}

func (s *pipeStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.flow[s.side]
	for {
		switch {
		case s.reset[s.side] != nil:
			return 0, s.reset[s.side]
		case s.shut[s.side]:
			return 0, ErrStreamClosed
		case s.expired():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case len(in.buf) > 0:
			n := copy(p, in.buf)
			in.buf = append(in.buf[:0], in.buf[n:]...)
			s.changed.Broadcast()
			return n, nil
		case in.eof:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *pipeStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &s.flow[1-s.side]
	written := 0
	for {
		switch {
		case s.reset[s.side] != nil:
			return written, s.reset[s.side]
		case s.shut[s.side] || out.eof:
			return written, ErrStreamClosed
		case out.stopped:
			return written, &StreamResetError{Remote: true}
		case s.expired():
			return written, os.ErrDeadlineExceeded
		case written == len(p):
			return written, nil
		case len(out.buf) < pipeWindow:
			n := min(len(p)-written, pipeWindow-len(out.buf))
			out.buf = append(out.buf, p[written:written+n]...)
			written += n
			s.changed.Broadcast()
			continue
		}
		s.changed.Wait()
	}
}

func (s *pipeStream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reset[s.side] != nil {
		return s.reset[s.side]
	}
	s.flow[1-s.side].eof = true
	s.changed.Broadcast()
	return nil
}

// Close ends our half and stops reading, as a bare Close over QUIC does.
func (s *pipeStream) Close() error {
	s.mu.Lock()
	s.flow[1-s.side].eof = true
	s.flow[s.side] = flow{eof: s.flow[s.side].eof, stopped: true}
	s.shut[s.side] = true
	s.disarm()
	s.changed.Broadcast()
	s.mu.Unlock()
	s.drop()
	return nil
}

func (s *pipeStream) Reset(code uint32) error {
	s.mu.Lock()
	for side := range s.reset {
		if s.reset[side] == nil && !s.shut[side] {
			s.reset[side] = &StreamResetError{Code: code, Remote: side != s.side}
		}
	}
	s.disarm()
	s.changed.Broadcast()
	s.mu.Unlock()
	s.drop()
	return nil
}

func (s *pipeStream) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disarm()
	s.deadline[s.side] = t
	if !t.IsZero() {
		s.timer[s.side] = time.AfterFunc(time.Until(t), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changed.Broadcast()
		})
	}
	s.changed.Broadcast()
	return nil
}

func (s *pipeStream) expired() bool {
	d := s.deadline[s.side]
	return !d.IsZero() && !time.Now().Before(d)
}

func (s *pipeStream) disarm() {
	if t := s.timer[s.side]; t != nil {
		t.Stop()
	}
}

// drop tells the pipe that this side holds the stream no more; the end of the
// pipe may bring it back here.
func (s *pipeStream) drop() {
	if !s.dropped.Swap(true) {
		s.released()
	}
}
