package adapt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

// JSONSchemaConfig describes an operation by its schemas: one that an HTTP
// service serves where there is a URL, else one that cannot be called.
type JSONSchemaConfig struct {
	// Name of the operation, CALL-57.
	Name string
	// Type of the operation; "" is a query.
	Type call.OpType
	// Visibility of the operation; "" is internal. Without URL it is nothing
	// else.
	Visibility call.Visibility
	// InputSchema and OutputSchema are JSON Schemas; nil takes what Input and
	// Output imply.
	InputSchema, OutputSchema json.RawMessage
	// Scopes the caller needs, all of them; nil is "call:<Name>", empty but
	// not nil lets anyone call.
	Scopes []string

	// URL is where requests go: http or https, without user and fragment. In its
	// path {member} stands for a member of the input, escaped. "" makes a schema
	// alone: Internal, never listed, and NOT_FOUND to whoever calls it (CALL-98).
	URL string
	// Method is GET, POST, PUT, PATCH or DELETE; "" is POST for a mutation, GET
	// for the rest.
	Method string
	// Input is what is sent; "" is InputJSON. What of it does not stand in the
	// path is the query of GET and DELETE, where an array is its items, one after
	// the other; of the other methods it is the body.
	Input Input
	// Output is what the body of the answer is; "" is OutputJSONL for a
	// subscription, which takes no other, and OutputJSON for the rest, where no
	// body at all is null.
	Output Output
	// Timeout of a call, which callers may shorten; 0 is DefaultTimeout.
	// Subscriptions have none unless it is set.
	Timeout time.Duration
	// MaxOutput is the largest body in bytes, of a subscription the longest
	// line; 0 is DefaultMaxOutput.
	MaxOutput int
	// MaxConcurrent requests at the same time; 0 is DefaultMaxConcurrent. One
	// more fails at once, and may be tried again.
	MaxConcurrent int
	// Credential names the service whose secret, of the operation's
	// Capabilities (CALL-67), is the bearer token of each request; "" is none. A
	// call fails when there is no such secret. It goes over https or to this
	// machine only.
	Credential string
	// Logger gets why a service could not be reached; nil is silent.
	Logger *slog.Logger
}

// FromJSONSchema makes an operation of its description.
//
// An answer with another status than 2xx is the error HTTP_<status> (CALL-53),
// with the details {"status", "body"}, where the body is JSON, or text, or left
// out when it is long; the usual ones are declared. Redirects are followed on
// the same host only, and no proxy is used.
//
// FromJSONSchema fails with a *FieldError.
func FromJSONSchema(cfg JSONSchemaConfig) (call.Operation, error) {
	op, err := newJSONSchema(cfg)
	if err != nil {
		return call.Operation{}, fmt.Errorf("operation %s: %w", cfg.Name, err)
	}
	return op, nil
}

func newJSONSchema(cfg JSONSchemaConfig) (call.Operation, error) {
	s := service{
		name: cfg.Name, typ: cfg.Type, visibility: cfg.Visibility, provenance: call.FromJSONSchema,
		input: cfg.Input, output: cfg.Output, scopes: cfg.Scopes,
		timeout: cfg.Timeout, maxOutput: cfg.MaxOutput, maxConcurrent: cfg.MaxConcurrent, credential: cfg.Credential,
		inputSchema: cfg.InputSchema, outputSchema: cfg.OutputSchema, log: cfg.Logger,
	}
	if s.visibility == "" {
		s.visibility = call.Internal
	}
	if err := s.setDefaults(); err != nil {
		return call.Operation{}, err
	}
	if cfg.URL == "" {
		switch {
		case s.visibility != call.Internal:
			return call.Operation{}, fieldErrorf("Visibility", "a schema alone is internal")
		case cfg.Credential != "" || cfg.Method != "":
			return call.Operation{}, &FieldError{"URL", errors.New("no URL to send requests to")}
		}
		return s.operation(), nil
	}
	h, err := newHTTP(cfg.URL, cfg.Method, &s)
	if err != nil {
		return call.Operation{}, err
	}
	s.run, s.errors = h.serve, statusErrors()
	return s.operation(), nil
}

// JSONSchemas is the [OperationAdapter] of [FromJSONSchema].
type JSONSchemas []JSONSchemaConfig

var _ OperationAdapter = JSONSchemas{}

// Import implements OperationAdapter.
func (s JSONSchemas) Import(context.Context) ([]call.Operation, error) {
	ops := make([]call.Operation, len(s))
	for i, cfg := range s {
		var err error
		if ops[i], err = FromJSONSchema(cfg); err != nil {
			return nil, &AdapterError{Kind: SchemaParse, Message: cfg.Name, Err: err}
		}
	}
	return ops, nil
}

// Peer is the [OperationAdapter] of [FromCall].
type Peer struct {
	// Session is that with the peer.
	Session *call.Session
	// Config says what to import.
	Config FromCallConfig
}

var _ OperationAdapter = Peer{}

// Import implements OperationAdapter.
func (p Peer) Import(ctx context.Context) ([]call.Operation, error) {
	return FromCall(ctx, p.Session, p.Config)
}
