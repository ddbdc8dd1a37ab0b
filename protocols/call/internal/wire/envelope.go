package wire

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// Type is the kind of an event, the member "type" of an envelope.
type Type string

// The events of the protocol. Receivers ignore any other type (CALL-11).
const (
	Requested Type = "call.requested"
	Responded Type = "call.responded"
	Completed Type = "call.completed"
	Aborted   Type = "call.aborted"
	Failed    Type = "call.error"
	Credit    Type = "call.credit"
)

// Envelope is the outer form of every event. ID and Payload may share memory
// with the body they were scanned from.
type Envelope struct {
	Type    Type
	ID      []byte // decoded, 1 to MaxID bytes
	Payload []byte // valid JSON, "{}" when it was absent
}

// Scan takes the envelope of a frame's body apart. The whole body is checked
// to be JSON, and names on the level of the envelope to occur once; the
// payload stays as it is. Every error is ErrViolation (CALL-6, CALL-8,
// CALL-17).
func Scan(body []byte) (Envelope, error) {
	var (
		e     Envelope
		seen  names
		typ   []byte
		found string
	)
	start := space(body, 0)
	if start >= len(body) || body[start] != '{' {
		return e, violation("body is not a JSON object")
	}
	end := object(body, start, 1, value, func(name, value []byte) bool {
		key := unquote(name)
		if !seen.add(key) {
			found = "duplicate member in envelope"
			return false
		}
		switch string(key) {
		case "type":
			typ = text(value)
		case "id":
			e.ID = text(value)
		case "payload":
			e.Payload = value
		}
		return true
	})
	switch {
	case found != "":
		return e, violation("%s", found)
	case end < 0 || space(body, end) != len(body):
		return e, violation("body is not a JSON object")
	case len(typ) == 0:
		return e, violation("type is not a non-empty string")
	case len(e.ID) == 0:
		return e, violation("id is not a non-empty string")
	case len(e.ID) > MaxID:
		return e, violation("id is longer than %d bytes", MaxID)
	}
	if e.Payload == nil {
		e.Payload = []byte("{}")
	}
	e.Type = known(typ)
	return e, nil
}

// known avoids an allocation for the types of the protocol.
func known(typ []byte) Type {
	for _, t := range [...]Type{Requested, Responded, Completed, Aborted, Failed, Credit} {
		if string(typ) == string(t) {
			return t
		}
	}
	return Type(typ)
}

// text decodes a JSON string; nil when value is not one.
func text(value []byte) []byte {
	if value[0] != '"' {
		return nil
	}
	return unquote(value)
}

// unquote decodes a valid JSON string, without copying when it has no escapes.
func unquote(quoted []byte) []byte {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner
	}
	plain, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil {
		return nil // the scanner has accepted it, so this does not happen
	}
	return plain
}

// names remembers the member names of one object. Few are compared one by one;
// many go into a map, so that a long object costs no more than its length.
type names struct {
	few  [8][]byte
	n    int
	many map[string]struct{}
}

// add reports whether name is new.
func (s *names) add(name []byte) bool {
	for _, have := range s.few[:s.n] {
		if bytes.Equal(have, name) {
			return false
		}
	}
	if s.n < len(s.few) {
		s.few[s.n] = name
		s.n++
		return true
	}
	if s.many == nil {
		s.many = make(map[string]struct{})
	}
	if _, dup := s.many[string(name)]; dup {
		return false
	}
	s.many[string(name)] = struct{}{}
	return true
}
