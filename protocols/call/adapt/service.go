package adapt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// Defaults of [ExecConfig] and [JSONSchemaConfig].
const (
	DefaultTimeout       = 30 * time.Second
	DefaultMaxOutput     = 1 << 20
	DefaultMaxConcurrent = 4
)

// Input says what a program or an HTTP service gets of a call's input.
type Input string

const (
	// InputJSON gives it the input: one JSON value.
	InputJSON Input = "json"
	// InputNone gives it nothing.
	InputNone Input = "none"
)

// Output says how what a program or an HTTP service writes becomes the result.
type Output string

const (
	// OutputJSON takes the whole output as one JSON value.
	OutputJSON Output = "json"
	// OutputJSONL takes every line as one item of a subscription.
	OutputJSONL Output = "jsonl"
	// OutputText gives {"text": "…"}; what is not UTF-8 is replaced.
	OutputText Output = "text"
)

// FieldError says which field of a configuration cannot stand.
type FieldError struct {
	// Field is its name in Go, such as "Argv".
	Field string
	// Err is what is wrong.
	Err error
}

// Error implements error; it is the text of Err, which names the value.
func (e *FieldError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *FieldError) Unwrap() error { return e.Err }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{field, fmt.Errorf(format, args...)}
}

// service is what serves one operation from outside this program: a program, or
// an HTTP service. The fields are those of their configurations.
type service struct {
	name       string
	typ        call.OpType
	visibility call.Visibility
	provenance call.Provenance
	input      Input
	output     Output
	scopes     []string
	errors     []call.ErrorSpec

	timeout       time.Duration
	maxOutput     int
	maxConcurrent int
	credential    string

	inputSchema, outputSchema json.RawMessage

	log   *slog.Logger
	slots chan struct{} // one for each run

	// run serves one request and gives consume what comes of it. r.Input is nil
	// when there is none; secret is the credential, which run clears.
	run func(ctx context.Context, r *call.Request, secret []byte, consume func(io.Reader) error) error
}

// setDefaults fills what is not set and refuses what does not fit together.
func (s *service) setDefaults() error {
	if s.typ == "" {
		s.typ = call.OpQuery
	}
	if s.visibility == "" {
		s.visibility = call.External
	}
	if s.input == "" {
		s.input = InputJSON
	}
	stream := s.typ == call.OpSubscription
	if s.output == "" {
		s.output = OutputJSON
		if stream {
			s.output = OutputJSONL
		}
	}
	if s.timeout == 0 && !stream {
		s.timeout = DefaultTimeout
	}
	if s.maxOutput == 0 {
		s.maxOutput = DefaultMaxOutput
	}
	if s.maxConcurrent == 0 {
		s.maxConcurrent = DefaultMaxConcurrent
	}
	if s.scopes == nil {
		s.scopes = []string{"call:" + s.name}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	switch s.typ {
	case call.OpQuery, call.OpMutation, call.OpSubscription:
	default:
		return fieldErrorf("Type", "type %q is not query, mutation or subscription", s.typ)
	}
	switch s.input {
	case InputJSON, InputNone:
	default:
		return fieldErrorf("Input", "input %q is not json or none", s.input)
	}
	switch s.output {
	case OutputJSON, OutputText, OutputJSONL:
	default:
		return fieldErrorf("Output", "output %q is not json, jsonl or text", s.output)
	}
	switch {
	case stream && s.output != OutputJSONL:
		return fieldErrorf("Output", "output %q: a subscription gives jsonl", s.output)
	case !stream && s.output == OutputJSONL:
		return fieldErrorf("Output", "output jsonl: only a subscription gives that")
	case s.timeout < 0:
		return fieldErrorf("Timeout", "timeout %v is negative", s.timeout)
	case s.maxOutput < 0:
		return fieldErrorf("MaxOutput", "max output %d is negative", s.maxOutput)
	case s.maxConcurrent < 0:
		return fieldErrorf("MaxConcurrent", "max concurrent %d is negative", s.maxConcurrent)
	}
	if s.inputSchema == nil {
		s.inputSchema = json.RawMessage(`{}`)
		if s.input == InputNone {
			s.inputSchema = json.RawMessage(`{"type":["object","null"],"additionalProperties":false}`)
		}
	}
	if s.outputSchema == nil {
		s.outputSchema = json.RawMessage(`{}`)
		if s.output == OutputText {
			s.outputSchema = json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}`)
		}
	}
	s.slots = make(chan struct{}, s.maxConcurrent)
	return nil
}

// operation is the operation that s serves.
func (s *service) operation() call.Operation {
	op := call.Operation{
		Spec: call.Spec{
			Name: s.name, Type: s.typ, Visibility: s.visibility,
			InputSchema: s.inputSchema, OutputSchema: s.outputSchema,
			Errors: s.errors, Access: auth.Access{RequiredScopes: s.scopes},
		},
		Timeout: s.timeout, Provenance: s.provenance,
	}
	switch {
	case s.run == nil: // a schema alone
	case s.output == OutputJSONL:
		op.Stream = call.StreamHandlerFunc(s.lines)
	case s.output == OutputText:
		op.Handler = call.HandlerFunc(s.text)
	default:
		op.Handler = call.HandlerFunc(s.value)
	}
	return op
}

// value takes the output as one JSON value.
func (s *service) value(ctx context.Context, r *call.Request) (any, error) {
	out, err := s.whole(ctx, r)
	if err != nil {
		return nil, err
	}
	value := jsontext.Value(bytes.TrimSpace(out))
	switch {
	case len(value) == 0 && s.provenance == call.FromJSONSchema:
		return nil, nil // an answer without a body
	case !value.IsValid():
		return nil, errNotJSON()
	}
	return json.RawMessage(value), nil
}

// text takes the output as text.
func (s *service) text(ctx context.Context, r *call.Request) (any, error) {
	out, err := s.whole(ctx, r)
	if err != nil {
		return nil, err
	}
	return struct {
		Text string `json:"text"`
	}{strings.ToValidUTF8(string(out), "\ufffd")}, nil
}

// lines emits every line of the output.
func (s *service) lines(ctx context.Context, r *call.Request, emit func(any) error) error {
	return s.serve(ctx, r, func(out io.Reader) error {
		lines := bufio.NewScanner(out)
		lines.Buffer(make([]byte, 0, min(4096, s.maxOutput)), s.maxOutput)
		for lines.Scan() {
			line := bytes.TrimSpace(lines.Bytes())
			if len(line) == 0 {
				continue
			}
			if !jsontext.Value(line).IsValid() {
				return errNotJSON()
			}
			if err := emit(json.RawMessage(bytes.Clone(line))); err != nil {
				return err
			}
		}
		if errors.Is(lines.Err(), bufio.ErrTooLong) {
			return s.errTooLarge("a line of the output")
		}
		return lines.Err()
	})
}

func (s *service) whole(ctx context.Context, r *call.Request) ([]byte, error) {
	var all bytes.Buffer
	err := s.serve(ctx, r, func(out io.Reader) error {
		n, err := all.ReadFrom(io.LimitReader(out, int64(s.maxOutput)+1))
		if err == nil && n > int64(s.maxOutput) {
			err = s.errTooLarge("the output")
		}
		return err
	})
	return all.Bytes(), err
}

// serve runs the service if there is room for one more.
func (s *service) serve(ctx context.Context, r *call.Request, consume func(io.Reader) error) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return &call.Error{
			Code:      call.CodeInternal,
			Message:   "too many runs at the same time",
			Retryable: true,
			Details:   json.RawMessage(`{"reason":"overloaded"}`),
		}
	}
	given := *r
	switch {
	case s.input == InputNone:
		given.Input = nil
	case len(given.Input) == 0:
		given.Input = json.RawMessage("null")
	}
	var secret []byte
	if s.credential != "" {
		var ok bool
		if secret, ok = r.Capabilities.Get(s.credential); !ok {
			return fmt.Errorf("the credential %q is not there", s.credential)
		}
	}
	return s.run(ctx, &given, secret, consume)
}

func errNotJSON() error {
	return call.Errorf(call.CodeInternal, "the output is not JSON")
}

func (s *service) errTooLarge(what string) error {
	return call.Errorf(call.CodeInternal, "%s exceeds %d bytes", what, s.maxOutput)
}
