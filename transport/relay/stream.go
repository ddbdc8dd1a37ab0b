package relay

import (
	"io"
	"time"
)

// Stream is the ordered byte stream a link runs on: a libp2p stream or any
// net.Conn. The stream has proved the keys of both ends; the relay protocol
// itself proves none. If it has a method Reset() error, links end through it;
// if it has CloseWrite() error, a relay's last words are followed by that.
type Stream interface {
	io.Reader
	io.Writer
	// Close ends both directions and wakes pending reads and writes.
	Close() error
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// abort ends the stream at once, whoever reads or writes. It may be called
// more than once.
func abort(s Stream) {
	// A deadline in the past wakes readers and writers even where closing
	// waits for data in flight.
	_ = s.SetDeadline(time.Unix(1, 0))
	if r, ok := s.(interface{ Reset() error }); ok {
		_ = r.Reset()
		return
	}
	_ = s.Close()
}

// closeWrite says that nothing more will be written, where the stream can say
// so without giving up what is still on its way, and whether it did.
func closeWrite(s Stream) bool {
	c, ok := s.(interface{ CloseWrite() error })
	return ok && c.CloseWrite() == nil
}
