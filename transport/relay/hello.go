package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json"
)

// Version is the version of the relay protocol spoken here.
const Version = 1

// Limits of the greeting.
const (
	maxGreeting = 4 << 10 // bytes of JSON in Hello and in Welcome
	maxRecords  = 8       // relay records in a Welcome
)

// Mode says what a client wants of a relay.
type Mode string

const (
	// ModeHome reserves a place: others find this client here.
	ModeHome Mode = "home"
	// ModeConnect only sends to keys that are homed here, and gets their
	// answers while the link is open.
	ModeConnect Mode = "connect"
)

// BootID names one run of a node: unix milliseconds, then random bytes, so
// that of two runs the later one compares higher.
type BootID [16]byte

// MarshalText implements encoding.TextMarshaler: 32 hex digits.
func (b BootID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it takes lower case only.
func (b *BootID) UnmarshalText(text []byte) error {
	var id BootID
	if len(text) != 2*len(id) {
		return errors.New("boot id is not 32 hex digits")
	}
	if _, err := hex.Decode(id[:], text); err != nil || !bytes.Equal(hex.AppendEncode(nil, id[:]), text) {
		return errors.New("boot id is not lower-case hex")
	}
	*b = id
	return nil
}

func (b BootID) compare(other BootID) int { return bytes.Compare(b[:], other[:]) }

// Hello is what a client says first.
type Hello struct {
	Version  int      `json:"version"`
	Features []string `json:"features,omitempty"`
	BootID   BootID   `json:"boot_id"`
	Mode     Mode     `json:"mode"`
}

// Welcome is what the relay answers. A relay that refuses the client sets
// Refused, leaves the rest as it likes and closes.
type Welcome struct {
	Version  int          `json:"version"`
	Features []string     `json:"features,omitempty"`
	Refused  GoAwayReason `json:"refused,omitzero"`
	// Observed is the address the client was seen at, as text; may be empty.
	Observed string `json:"observed,omitempty"`
	// Time is the relay's clock in unix milliseconds; see [Welcome.Clock].
	Time   int64  `json:"time"`
	Limits Limits `json:"limits,omitzero"`
	// Records are signed address records of relays, opaque here; at most 8, as
	// many as fit into the greeting.
	Records [][]byte `json:"records,omitempty"`
}

// Limits are the limits a relay tells its client. Zero means none.
type Limits struct {
	Rate  int64 `json:"rate,omitzero"`  // bytes per second this client may send
	Burst int64 `json:"burst,omitzero"` // bytes it may send at once
	Disco int   `json:"disco,omitzero"` // disco frames per second to one target
}

// Clock is what the relay's clock showed.
func (w Welcome) Clock() time.Time { return time.UnixMilli(w.Time) }

func (h Hello) validate() error {
	if h.Version < 1 {
		return fmt.Errorf("hello with version %d: %w", h.Version, ErrFrame)
	}
	if h.Mode != ModeHome && h.Mode != ModeConnect {
		return fmt.Errorf("hello with an unknown mode: %w", ErrFrame)
	}
	return nil
}

func (w Welcome) validate() error {
	if w.Version < 1 || w.Version > Version {
		return fmt.Errorf("welcome with version %d: %w", w.Version, ErrFrame)
	}
	if len(w.Records) > maxRecords {
		return fmt.Errorf("welcome with %d records: %w", len(w.Records), ErrFrame)
	}
	return nil
}

// AppendHello appends the length-prefixed JSON form of h to dst.
func AppendHello(dst []byte, h Hello) ([]byte, error) { return appendGreeting(dst, h) }

// ParseHello reads the JSON of a Hello, without its length.
func ParseHello(raw []byte) (Hello, error) {
	var h Hello
	if err := json.Unmarshal(raw, &h); err != nil {
		return Hello{}, fmt.Errorf("parse hello: %w", errors.Join(ErrFrame, err))
	}
	return h, h.validate()
}

// AppendWelcome appends the length-prefixed JSON form of w to dst. Records
// that do not fit are left out, from the end.
func AppendWelcome(dst []byte, w Welcome) ([]byte, error) {
	w.Records = w.Records[:min(len(w.Records), maxRecords)]
	for {
		out, err := appendGreeting(dst, w)
		if err == nil || len(w.Records) == 0 {
			return out, err
		}
		w.Records = w.Records[:len(w.Records)-1]
	}
}

// ParseWelcome reads the JSON of a Welcome, without its length.
func ParseWelcome(raw []byte) (Welcome, error) {
	var w Welcome
	if err := json.Unmarshal(raw, &w); err != nil {
		return Welcome{}, fmt.Errorf("parse welcome: %w", errors.Join(ErrFrame, err))
	}
	return w, w.validate()
}

func appendGreeting(dst []byte, v any) ([]byte, error) {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return dst, fmt.Errorf("encode greeting: %w", err)
	}
	if len(raw) > maxGreeting {
		return dst, fmt.Errorf("greeting of %d bytes, limit %d: %w", len(raw), maxGreeting, ErrFrame)
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(raw)))
	return append(dst, raw...), nil
}

// greeting reads one length-prefixed JSON text. It is valid until the next
// read.
func (r *frameReader) greeting() ([]byte, error) {
	head, err := r.br.Peek(lengthSize)
	if err != nil {
		return nil, unexpected(err, len(head))
	}
	n := int(binary.BigEndian.Uint16(head))
	if n == 0 || n > maxGreeting {
		return nil, fmt.Errorf("greeting of %d bytes, limit %d: %w", n, maxGreeting, ErrFrame)
	}
	raw, err := r.br.Peek(lengthSize + n)
	if err != nil {
		return nil, unexpected(err, len(raw))
	}
	if _, err := r.br.Discard(lengthSize + n); err != nil {
		return nil, fmt.Errorf("read greeting: %w", err)
	}
	return raw[lengthSize:], nil
}

// handshakeError wraps what ended a greeting; an end of the stream is never
// orderly there.
func handshakeError(action string, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: %w", action, err)
}
