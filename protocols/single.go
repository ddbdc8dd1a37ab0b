package protocols

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// ConnectionFromStream makes a session of one byte stream, such as a TLS or
// WebSocket connection, for handlers that do not care (NODE-5). AcceptStream
// gives that stream once; the next call waits until it has ended and returns
// ErrConnectionClosed, and the session ends with it. OpenStream always fails
// with ErrStreamClosed.
//
// The session owns rwc and closes it. CloseWrite and SetDeadline work where
// rwc has them, as a net.TCPConn or tls.Conn has; where it has not, they fail
// with errors.ErrUnsupported, and Close takes the place of a half-close. No
// code of Reset or Close reaches the peer.
func ConnectionFromStream(rwc io.ReadWriteCloser, alpn, addr string) Connection {
	return newSession(&singleSource{
		addr:   addr,
		stream: &singleStream{rwc: rwc, ended: make(chan struct{})},
	}, alpn)
}

// singleSource gives its one stream once.
type singleSource struct {
	addr   string
	stream *singleStream

	mu    sync.Mutex
	taken bool
}

func (s *singleSource) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken {
		return false
	}
	s.taken = true
	return true
}

func (s *singleSource) AcceptStream(ctx context.Context) (Stream, error) {
	if s.take() {
		return s.stream, nil
	}
	select {
	case <-s.stream.ended:
		return nil, ErrConnectionClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *singleSource) OpenStream(context.Context) (Stream, error) { return nil, ErrStreamClosed }

func (s *singleSource) RemoteAddr() string { return s.addr }

// Close leaves a stream that was given away to its session.
func (s *singleSource) Close(uint32, string) error {
	if s.take() {
		return s.stream.Close()
	}
	return nil
}

func (s *singleSource) onEnd(end func(code uint32)) { s.stream.end = end }

// singleStream gives a byte stream the methods of a Stream.
type singleStream struct {
	rwc   io.ReadWriteCloser
	end   func(code uint32)
	over  atomic.Bool
	ended chan struct{}
}

func (s *singleStream) Read(p []byte) (int, error)  { return s.rwc.Read(p) }
func (s *singleStream) Write(p []byte) (int, error) { return s.rwc.Write(p) }

func (s *singleStream) CloseWrite() error {
	if c, ok := s.rwc.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("half-close: %w", errors.ErrUnsupported)
}

func (s *singleStream) SetDeadline(t time.Time) error {
	if c, ok := s.rwc.(interface{ SetDeadline(time.Time) error }); ok {
		return c.SetDeadline(t)
	}
	return fmt.Errorf("deadline: %w", errors.ErrUnsupported)
}

func (s *singleStream) Close() error { return s.finish(0) }

func (s *singleStream) Reset(code uint32) error { return s.finish(code) }

// finish may come back to itself through end.
func (s *singleStream) finish(code uint32) error {
	if s.over.Swap(true) {
		return nil
	}
	err := s.rwc.Close()
	close(s.ended)
	s.end(code)
	return err
}
