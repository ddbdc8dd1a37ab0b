// Package wire holds the bytes of the call protocol: frames, envelopes and
// payloads. It is pure: it starts nothing, keeps no state and decides nothing
// about calls. Values that belong to operations (input, output, details) pass
// through it untouched, byte for byte (CALL-9).
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// PrefixLen is the length of the size prefix of a frame in bytes (CALL-1).
	PrefixLen = 4
	// MaxFrame is the largest body of a frame in bytes (CALL-2).
	MaxFrame = 64 << 20
	// MaxID is the longest request id in bytes (CALL-17).
	MaxID = 128

	minBuffer   = 2 << 10  // of an idle reader
	maxBuffer   = 64 << 10 // shared by small frames; larger frames get their own
	firstGrowth = 64 << 10 // allocated for a large frame before its bytes arrive

	maxIdleReads = 100 // reads without bytes or error before giving up
)

// ErrFrameTooLarge is a body over the limit: of the format when encoding, of
// the reader when decoding.
var ErrFrameTooLarge = errors.New("frame too large")

// ErrViolation is matched by every error of this package that is the sender's
// fault and ends the stream (CALL-2, CALL-6, CALL-8).
var ErrViolation = errors.New("protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrViolation, fmt.Errorf(format, args...))
}

// Reader takes frames off a byte stream. It reads ahead, so nothing else may
// read from the stream. It is not safe for concurrent use.
//
// Its buffer grows with the bytes that arrive, never with the size a prefix
// claims (CALL-4), and shrinks again when traffic does.
type Reader struct {
	src        io.Reader
	limit      int
	buf        []byte
	start, end int // unread bytes: buf[start:end]
}

// NewReader returns a Reader of src that accepts bodies of at most limit
// bytes; limit is bounded by MaxFrame, and 0 means MaxFrame.
func NewReader(src io.Reader, limit int) *Reader {
	if limit <= 0 || limit > MaxFrame {
		limit = MaxFrame
	}
	return &Reader{src: src, limit: limit}
}

// Next returns the body of the next frame. shared tells that it lives in the
// reader's buffer and is valid until the next call only; otherwise it belongs
// to the caller.
//
// The end of the stream between two frames is io.EOF; inside a frame it is
// io.ErrUnexpectedEOF (CALL-5). A size of zero or over the limit is
// ErrViolation, the latter also ErrFrameTooLarge.
func (r *Reader) Next() (body []byte, shared bool, err error) {
	if err := r.fill(PrefixLen); err != nil {
		return nil, false, err
	}
	n := binary.BigEndian.Uint32(r.buf[r.start:])
	if n == 0 {
		return nil, false, violation("empty frame")
	}
	if uint64(n) > uint64(r.limit) {
		return nil, false, violation("%w: %d bytes, limit %d", ErrFrameTooLarge, n, r.limit)
	}
	size := int(n)
	if PrefixLen+size > maxBuffer {
		body, err = r.large(size)
		return body, false, err
	}
	if err := r.fill(PrefixLen + size); err != nil {
		return nil, false, err
	}
	body = r.buf[r.start+PrefixLen : r.start+PrefixLen+size : r.start+PrefixLen+size]
	r.start += PrefixLen + size
	return body, true, nil
}

// fill reads until n bytes are unread in the buffer, n <= maxBuffer.
func (r *Reader) fill(n int) error {
	for idle := 0; r.end-r.start < n; {
		r.makeRoom()
		m, err := r.src.Read(r.buf[r.end:])
		r.end += m
		switch {
		case m > 0:
			idle = 0 // an error that came along comes again
		case err == nil:
			if idle++; idle == maxIdleReads {
				return io.ErrNoProgress
			}
		case errors.Is(err, io.EOF) && r.end > r.start:
			return io.ErrUnexpectedEOF
		default:
			return err
		}
	}
	return nil
}

// makeRoom leaves free space after end. It doubles a buffer that was read
// full, and halves an empty one of which the last frames used little.
func (r *Reader) makeRoom() {
	size := len(r.buf)
	switch {
	case size == 0:
		size = minBuffer
	case r.end == size && size < maxBuffer:
		size *= 2
	case r.end == r.start && r.end < size/8 && size > minBuffer:
		size /= 2
	}
	from := r.buf[r.start:r.end]
	switch {
	case size != len(r.buf):
		r.buf = make([]byte, size)
	case r.end < size && r.end > r.start:
		return // room enough behind a partial frame
	}
	r.start, r.end = 0, copy(r.buf, from)
}

// large reads a body of its own, growing it as bytes arrive.
func (r *Reader) large(size int) ([]byte, error) {
	r.start += PrefixLen
	have := min(r.end-r.start, size)
	body := make([]byte, have, min(size, max(firstGrowth, 2*have)))
	copy(body, r.buf[r.start:r.start+have])
	r.start += have
	for idle := 0; len(body) < size; {
		if len(body) == cap(body) {
			grown := make([]byte, len(body), min(size, 2*cap(body)))
			copy(grown, body)
			body = grown
		}
		n, err := r.src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case n > 0:
			idle = 0
		case err == nil:
			if idle++; idle == maxIdleReads {
				return nil, io.ErrNoProgress
			}
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
	return body, nil
}
