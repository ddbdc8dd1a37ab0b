package magic

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/quic-go/quic-go"
)

// stream is a QUIC stream as libp2p wants it.
type stream struct {
	*quic.Stream
	load load
}

var _ network.MuxedStream = (*stream)(nil)

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	return n, parseError(err)
}

// Write implements io.Writer. While the stream carries little, what it sends, and
// what of it was lost, goes before that of busy streams (PATH-18).
func (s *stream) Write(b []byte) (int, error) {
	if urgency, changed := s.load.add(len(b), time.Now()); changed {
		s.SetPriority(urgency, true)
	}
	n, err := s.Stream.Write(b)
	return n, parseError(err)
}

// Reset ends both halves abruptly.
func (s *stream) Reset() error { return s.ResetWithError(0) }

// ResetWithError ends both halves abruptly and tells the peer why.
func (s *stream) ResetWithError(code network.StreamErrorCode) error {
	s.CancelRead(quic.StreamErrorCode(code))
	s.CancelWrite(quic.StreamErrorCode(code))
	return nil
}

// Close ends the write half gracefully and stops reading.
func (s *stream) Close() error {
	s.CancelRead(0)
	return s.Stream.Close()
}

// CloseRead stops reading.
func (s *stream) CloseRead() error {
	s.CancelRead(0)
	return nil
}

// CloseWrite ends the write half: the peer reads EOF.
func (s *stream) CloseWrite() error { return s.Stream.Close() }
