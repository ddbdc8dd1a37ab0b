package wire

import (
	"encoding/binary"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The Append functions append one whole frame, prefix included. They fail with
// ErrFrameTooLarge before anything is appended (CALL-3). Input, output and
// details must be valid JSON; they are copied byte for byte.

// AppendRequest appends a call.requested frame.
func AppendRequest(dst []byte, id string, r *Request) ([]byte, error) {
	if len(r.Input) > MaxFrame {
		return dst, ErrFrameTooLarge
	}
	start := len(dst)
	dst = open(dst, Requested, id)
	dst = append(dst, `{"operationId":`...)
	dst = quote(dst, "/"+r.Operation)
	dst = append(dst, `,"input":`...)
	dst = raw(dst, r.Input)
	if r.Token != "" {
		dst = append(dst, `,"auth_token":`...)
		dst = quote(dst, r.Token)
	}
	if r.ForwardedFor != nil {
		dst = append(dst, `,"forwarded_for":`...)
		dst = appendIdentity(dst, r.ForwardedFor)
	}
	if r.TimeoutMS > 0 {
		dst = append(dst, `,"timeout_ms":`...)
		dst = strconv.AppendInt(dst, r.TimeoutMS, 10)
	}
	if r.Window > 0 {
		dst = append(dst, `,"window":`...)
		dst = strconv.AppendInt(dst, r.Window, 10)
	}
	if r.Traceparent != "" {
		dst = append(dst, `,"traceparent":`...)
		dst = quote(dst, r.Traceparent)
	}
	dst = append(dst, '}')
	return shut(dst, start)
}

func appendIdentity(dst []byte, id *Identity) []byte {
	dst = append(dst, `{"id":`...)
	dst = quote(dst, id.ID)
	dst = append(dst, `,"scopes":`...)
	dst = appendStrings(dst, id.Scopes)
	dst = append(dst, `,"resources":`...)
	resources, err := json.Marshal(id.Resources, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		resources = []byte("{}") // a map of strings to strings always encodes
	}
	dst = append(dst, resources...)
	return append(dst, '}')
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = quote(dst, s)
	}
	return append(dst, ']')
}

// AppendOutput appends a call.responded frame.
func AppendOutput(dst []byte, id string, output []byte) ([]byte, error) {
	if len(output) > MaxFrame {
		return dst, ErrFrameTooLarge
	}
	start := len(dst)
	dst = open(dst, Responded, id)
	dst = append(dst, `{"output":`...)
	dst = raw(dst, output)
	dst = append(dst, '}')
	return shut(dst, start)
}

// AppendFailure appends a call.error frame.
func AppendFailure(dst []byte, id string, f *Failure) ([]byte, error) {
	if len(f.Details)+len(f.Message) > MaxFrame {
		return dst, ErrFrameTooLarge
	}
	start := len(dst)
	dst = open(dst, Failed, id)
	dst = append(dst, `{"code":`...)
	dst = quote(dst, f.Code)
	dst = append(dst, `,"message":`...)
	dst = quote(dst, f.Message)
	dst = append(dst, `,"retryable":`...)
	dst = strconv.AppendBool(dst, f.Retryable)
	if len(f.Details) > 0 {
		dst = append(dst, `,"details":`...)
		dst = append(dst, f.Details...)
	}
	dst = append(dst, '}')
	return shut(dst, start)
}

// AppendCredit appends a call.credit frame.
func AppendCredit(dst []byte, id string, items int64) []byte {
	start := len(dst)
	dst = open(dst, Credit, id)
	dst = append(dst, `{"items":`...)
	dst = strconv.AppendInt(dst, items, 10)
	dst = append(dst, '}')
	dst, _ = shut(dst, start)
	return dst
}

// AppendEmpty appends a frame of an event without members: call.aborted or
// call.completed.
func AppendEmpty(dst []byte, t Type, id string) []byte {
	start := len(dst)
	dst = open(dst, t, id)
	dst = append(dst, "{}"...)
	dst, _ = shut(dst, start)
	return dst
}

func open(dst []byte, t Type, id string) []byte {
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, `{"type":"`...)
	dst = append(dst, t...)
	dst = append(dst, `","id":`...)
	dst = quote(dst, id)
	return append(dst, `,"payload":`...)
}

func shut(dst []byte, start int) ([]byte, error) {
	dst = append(dst, '}')
	size := len(dst) - start - PrefixLen
	if size > MaxFrame {
		return dst[:start], ErrFrameTooLarge
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(size))
	return dst, nil
}

func raw(dst, value []byte) []byte {
	if len(value) == 0 {
		return append(dst, "null"...)
	}
	return append(dst, value...)
}

// quote appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func quote(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}
