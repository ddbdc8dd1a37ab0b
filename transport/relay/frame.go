package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// FrameType says what a frame carries (PATH-25). Values that are not named
// here are skipped by whoever receives them.
type FrameType byte

// The frame types. Key names the target on the way to the relay and the
// source on the way from it; frames between client and relay alone leave it
// zero.
const (
	FrameData     FrameType = 1 // a sealed packet for, or from, the named key
	FrameDisco    FrameType = 2 // a probe for, or from, the named key
	FramePeerGone FrameType = 3 // the named key is not connected to this relay
	FramePing     FrameType = 4 // eight bytes, returned by a Pong
	FramePong     FrameType = 5 // the eight bytes of a Ping
	FrameHealth   FrameType = 6 // what is wrong with the relay, UTF-8; empty: nothing
	FrameGoAway   FrameType = 7 // one byte, a GoAwayReason
	FrameRateHint FrameType = 8 // bytes per second that get through, 64 bits
	FrameAttest   FrameType = 9 // tell the named key my IP; or: the IP, 16 bytes, of the named key
)

// Sizes of frames, in bytes.
const (
	// MaxPayload bounds the payload of every frame type named here.
	MaxPayload = 1600

	lengthSize = 2
	headerSize = 1 + len(Key{}) + 1                   // what the length counts besides the payload
	maxWire    = lengthSize + headerSize + MaxPayload // a whole frame
	echoSize   = 8                                    // payload of Ping and Pong
	hintSize   = 8                                    // payload of RateHint
	ipSize     = 16                                   // payload of Attest, from the relay
	maxHealth  = 256                                  // payload of Health
)

// ECNMask are the bits of Frame.Flags that carry the packet's ECN mark.
const ECNMask = 0b11

// ErrFrame says that the other side broke the frame format.
var ErrFrame = errors.New("malformed relay frame")

// Frame is one message of an open link.
type Frame struct {
	Type    FrameType
	Key     Key
	Flags   byte // ECN in the low two bits; the others are sent as zero and ignored
	Payload []byte
}

// known says whether this version gives the type a meaning.
func (t FrameType) known() bool { return t >= FrameData && t <= FrameAttest }

// AppendFrame appends the frame to dst. The payload must not be longer than
// MaxPayload.
func AppendFrame(dst []byte, f Frame) ([]byte, error) {
	if len(f.Payload) > MaxPayload {
		return dst, fmt.Errorf("frame payload of %d bytes, limit %d: %w", len(f.Payload), MaxPayload, ErrFrame)
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(headerSize+len(f.Payload)))
	dst = append(dst, byte(f.Type))
	dst = append(dst, f.Key[:]...)
	dst = append(dst, f.Flags)
	return append(dst, f.Payload...), nil
}

// ParseFrame reads the frame at the start of b and says how many bytes it
// took. The payload aliases b. It fails with [io.ErrUnexpectedEOF] when b ends
// too early and with [ErrFrame] when no continuation could be valid. A frame
// of an unknown type may be as long as the length field allows.
func ParseFrame(b []byte) (Frame, int, error) {
	if len(b) < lengthSize+1 {
		return Frame{}, 0, io.ErrUnexpectedEOF
	}
	n, typ := int(binary.BigEndian.Uint16(b)), FrameType(b[lengthSize])
	if err := checkLength(n, typ); err != nil {
		return Frame{}, 0, err
	}
	b = b[lengthSize:]
	if len(b) < n {
		return Frame{}, 0, io.ErrUnexpectedEOF
	}
	f := Frame{Type: typ, Flags: b[headerSize-1], Payload: b[headerSize:n:n]}
	copy(f.Key[:], b[1:])
	return f, lengthSize + n, nil
}

func checkLength(n int, typ FrameType) error {
	if n < headerSize || typ.known() && n > headerSize+MaxPayload {
		return fmt.Errorf("frame type %d with length %d: %w", typ, n, ErrFrame)
	}
	return nil
}

// readBuffer is how much of a stream is read at once.
const readBuffer = 16 << 10

// frameReader takes frames off a stream.
type frameReader struct {
	br      *bufio.Reader
	skipped func() // called for each frame of an unknown type; may be nil
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{br: bufio.NewReaderSize(r, readBuffer)}
}

// next returns the next frame of a known type. Its payload is valid until the
// next call.
func (r *frameReader) next() (Frame, error) {
	for {
		head, err := r.br.Peek(lengthSize + 1)
		if err != nil {
			return Frame{}, unexpected(err, len(head))
		}
		n, typ := int(binary.BigEndian.Uint16(head)), FrameType(head[lengthSize])
		if err := checkLength(n, typ); err != nil {
			return Frame{}, err
		}
		if typ.known() {
			raw, err := r.br.Peek(lengthSize + n)
			if err != nil {
				return Frame{}, unexpected(err, len(raw))
			}
			f, size, err := ParseFrame(raw)
			if err != nil {
				return Frame{}, err
			}
			// The bytes stay in the buffer until the next read.
			_, err = r.br.Discard(size)
			return f, err
		}
		if _, err := r.br.Discard(lengthSize + n); err != nil {
			return Frame{}, unexpected(err, 1)
		}
		if r.skipped != nil {
			r.skipped()
		}
	}
}

// unexpected turns an end of stream inside a frame into its own error; between
// frames io.EOF is the orderly end.
func unexpected(err error, have int) error {
	if errors.Is(err, io.EOF) && have > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}
