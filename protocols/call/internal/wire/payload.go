package wire

import (
	"errors"
	"math"
	"strconv"

	"github.com/go-json-experiment/json"
)

// PayloadError is a payload that is JSON without duplicate members but not
// what its event asks for; the text names the member and may go to the peer.
type PayloadError string

// Error implements error.
func (e PayloadError) Error() string { return string(e) }

// Identity is the claim of a forwarder, the member "forwarded_for".
type Identity struct {
	ID        string
	Scopes    []string
	Resources map[string][]string
}

// Request is the payload of call.requested (CALL-12). Zero values of optional
// members stand for absent ones.
type Request struct {
	// Operation is the name as sent: with its leading slash when decoded from
	// a peer that writes it; encoders add the slash themselves.
	Operation    string
	Input        []byte // JSON; nil is null
	Token        string
	ForwardedFor *Identity
	TimeoutMS    int64
	Window       int64
	Traceparent  string
}

// Failure is the payload of call.error (CALL-15).
type Failure struct {
	Code      string
	Message   string
	Retryable bool
	Details   []byte // JSON; nil is absent
}

// members calls member for each member of a payload, which must be an object
// without duplicates.
func members(payload []byte, member func(name, value []byte)) error {
	if payload[0] != '{' {
		return PayloadError("payload is not an object")
	}
	var seen names
	duplicate := false
	object(payload, 0, 1, skip, func(name, value []byte) bool {
		key := unquote(name)
		if duplicate = !seen.add(key); duplicate {
			return false
		}
		member(key, value)
		return true
	})
	if duplicate {
		return violation("duplicate member in payload")
	}
	return nil
}

// ParseRequest decodes the payload of call.requested. The error is a
// PayloadError or ErrViolation. Input shares memory with payload.
func ParseRequest(payload []byte) (Request, error) {
	var (
		r     Request
		wrong error
	)
	fail := func(text string) {
		if wrong == nil {
			wrong = PayloadError(text)
		}
	}
	named := false
	err := members(payload, func(name, value []byte) {
		switch string(name) {
		case "operationId":
			if op := text(value); op != nil {
				r.Operation, named = string(op), true
			}
		case "input":
			r.Input = value
		case "auth_token":
			if token := text(value); token != nil {
				r.Token = string(token)
			} else if !null(value) {
				fail("auth_token is not a string")
			}
		case "forwarded_for":
			r.ForwardedFor = parseIdentity(value)
		case "timeout_ms":
			if n, ok := positive(value); ok {
				r.TimeoutMS = n
			} else if !null(value) {
				fail("timeout_ms is not a positive integer")
			}
		case "window":
			if n, ok := positive(value); ok {
				r.Window = n
			} else if !null(value) {
				fail("window is not a positive integer")
			}
		case "traceparent":
			r.Traceparent = string(text(value))
		}
	})
	switch {
	case err != nil:
		return r, err
	case !named:
		return r, PayloadError("missing required field: operationId")
	}
	if r.Input == nil {
		r.Input = []byte("null")
	}
	return r, wrong
}

// parseIdentity returns nil unless all three members are there and well
// formed.
func parseIdentity(value []byte) *Identity {
	var id struct {
		ID        *string              `json:"id"`
		Scopes    *[]string            `json:"scopes"`
		Resources *map[string][]string `json:"resources"`
	}
	if json.Unmarshal(value, &id) != nil || id.ID == nil || id.Scopes == nil || id.Resources == nil {
		return nil
	}
	return &Identity{ID: *id.ID, Scopes: *id.Scopes, Resources: *id.Resources}
}

// ParseOutput decodes the payload of call.responded; an absent output is null.
// The result shares memory with payload.
func ParseOutput(payload []byte) ([]byte, error) {
	output := []byte("null")
	err := members(payload, func(name, value []byte) {
		if string(name) == "output" {
			output = value
		}
	})
	return output, err
}

// ParseFailure decodes the payload of call.error. Details shares memory with
// payload.
func ParseFailure(payload []byte) (Failure, error) {
	var f Failure
	err := members(payload, func(name, value []byte) {
		switch string(name) {
		case "code":
			f.Code = string(text(value))
		case "message":
			f.Message = string(text(value))
		case "retryable":
			f.Retryable = string(value) == "true"
		case "details":
			f.Details = value
		}
	})
	if err == nil && f.Code == "" {
		err = PayloadError("code is not a non-empty string")
	}
	return f, err
}

// ParseCredit decodes the payload of call.credit.
func ParseCredit(payload []byte) (items int64, err error) {
	err = members(payload, func(name, value []byte) {
		if string(name) == "items" {
			items, _ = positive(value)
		}
	})
	if err == nil && items == 0 {
		err = PayloadError("items is not a positive integer")
	}
	return items, err
}

// CheckObject reports a duplicate member or another kind of value in a payload
// without members of its own (call.aborted, call.completed).
func CheckObject(payload []byte) error {
	return members(payload, func(_, _ []byte) {})
}

func null(value []byte) bool { return string(value) == "null" }

// positive decodes an integer above zero; one too large counts as the largest.
func positive(value []byte) (int64, bool) {
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxInt64, true
	}
	return n, err == nil && n > 0
}
