package call

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	gojson "github.com/go-json-experiment/json"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// OpType is the kind of an operation.
type OpType string

// The kinds of operations. The zero value of a Spec's Type is OpQuery.
const (
	// OpQuery reads only and may be repeated.
	OpQuery OpType = "query"
	// OpMutation changes something.
	OpMutation OpType = "mutation"
	// OpSubscription answers with any number of values.
	OpSubscription OpType = "subscription"
)

// Visibility says from where an operation can be called.
type Visibility string

// The visibilities. The zero value of a Spec's Visibility is External.
const (
	// External operations are offered to peers.
	External Visibility = "external"
	// Internal ones are for other operations of this node; to a peer they do
	// not exist.
	Internal Visibility = "internal"
)

// MaxName is the longest name of an operation in bytes (CALL-57).
const MaxName = 256

// Spec describes an operation (CALL-58). Its JSON is the one of CALL-59.
type Spec struct {
	// Name is a slash path such as "fs/readFile": segments of
	// [A-Za-z0-9][A-Za-z0-9._-]*, no leading slash (CALL-57).
	Name string
	// Type is OpQuery when empty.
	Type OpType
	// Visibility is External when empty.
	Visibility Visibility
	// InputSchema is a JSON Schema that every input must match; nil, null,
	// true and {} accept anything. Only references within the schema ("#/…")
	// are followed.
	InputSchema json.RawMessage
	// OutputSchema describes the output, or each value of a subscription. It
	// is documentation: outputs are not checked against it.
	OutputSchema json.RawMessage
	// Errors are the domain errors the operation may answer with.
	Errors []ErrorSpec
	// Access is what a caller must hold; the zero value lets anyone in.
	Access auth.Access
}

// ErrorSpec declares a domain error of an operation (CALL-53).
type ErrorSpec struct {
	// Code is upper snake case and none of the protocol's six.
	Code Code `json:"code"`
	// Description is for people.
	Description string `json:"description"`
	// Schema is the JSON Schema of the error's details.
	Schema json.RawMessage `json:"schema"`
	// HTTPStatus is the status the code was made from, nil for most.
	HTTPStatus *int `json:"http_status"`
}

// Namespace is the first segment of the name.
func (s *Spec) Namespace() string { return namespace(s.Name) }

// Path is the name with its leading slash, as it stands on the wire.
func (s *Spec) Path() string { return "/" + s.Name }

func namespace(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

// specJSON is the wire form; all members are written.
type specJSON struct {
	Name         string          `json:"name"`
	Namespace    string          `json:"namespace"`
	OpType       OpType          `json:"op_type"`
	Visibility   Visibility      `json:"visibility"`
	InputSchema  json.RawMessage `json:"input_schema"`
	OutputSchema json.RawMessage `json:"output_schema"`
	ErrorSchemas []ErrorSpec     `json:"error_schemas"`
	Access       auth.Access     `json:"access_control"`
}

// MarshalJSON writes the form of CALL-59 whichever JSON package calls it.
func (s Spec) MarshalJSON() ([]byte, error) {
	s.defaults()
	return gojson.Marshal(specJSON{
		Name: s.Name, Namespace: s.Namespace(), OpType: s.Type, Visibility: s.Visibility,
		InputSchema: orEmpty(s.InputSchema), OutputSchema: orEmpty(s.OutputSchema),
		ErrorSchemas: s.Errors, Access: s.Access,
	})
}

// UnmarshalJSON reads the form of CALL-59 strictly as JSON and leniently as to
// absent members: type and name must be there, a missing visibility is
// external, missing access is unrestricted, an error without a code is left
// out (CALL-94).
func (s *Spec) UnmarshalJSON(b []byte) error {
	var j specJSON
	if err := gojson.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("decode spec: %w", err)
	}
	read := Spec{
		Name: j.Name, Type: j.OpType, Visibility: j.Visibility,
		InputSchema: orEmpty(j.InputSchema), OutputSchema: orEmpty(j.OutputSchema), Access: j.Access,
	}
	for _, e := range j.ErrorSchemas {
		if e.Code != "" {
			e.Schema = orEmpty(e.Schema)
			read.Errors = append(read.Errors, e)
		}
	}
	if read.Visibility == "" {
		read.Visibility = External
	}
	if read.Type == "" {
		return errors.New("decode spec: op_type is missing")
	}
	if err := read.check(); err != nil {
		return fmt.Errorf("decode spec: %w", err)
	}
	*s = read
	return nil
}

// orEmpty makes an absent schema the one that accepts anything.
func orEmpty(schema json.RawMessage) json.RawMessage {
	if len(schema) == 0 || string(schema) == "null" {
		return json.RawMessage("{}")
	}
	return schema
}

func (s *Spec) defaults() {
	if s.Type == "" {
		s.Type = OpQuery
	}
	if s.Visibility == "" {
		s.Visibility = External
	}
	if s.Errors == nil {
		s.Errors = []ErrorSpec{}
	}
	for i := range s.Errors {
		s.Errors[i].Schema = orEmpty(s.Errors[i].Schema)
	}
}

// check reports what of the spec breaks a rule; schemas are compiled
// elsewhere.
func (s *Spec) check() error {
	if err := checkName(s.Name); err != nil {
		return err
	}
	switch s.Type {
	case OpQuery, OpMutation, OpSubscription:
	default:
		return fmt.Errorf("unknown operation type %q", s.Type)
	}
	switch s.Visibility {
	case External, Internal:
	default:
		return fmt.Errorf("unknown visibility %q", s.Visibility)
	}
	return nil
}

func checkName(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("operation name is longer than %d bytes", MaxName)
	}
	for segment := range strings.SplitSeq(name, "/") {
		if !validSegment(segment) {
			return fmt.Errorf("bad operation name %q: segments are [A-Za-z0-9][A-Za-z0-9._-]*", name)
		}
	}
	return nil
}

func validSegment(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return s != ""
}

// OperationInfo is one row of services/list (CALL-87).
type OperationInfo struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Type      OpType `json:"op_type"`
}
