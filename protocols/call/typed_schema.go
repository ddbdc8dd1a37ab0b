package call

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	gojson "github.com/go-json-experiment/json"
	"github.com/google/jsonschema-go/jsonschema"
)

// infer writes the JSON Schema of what this package encodes a value of type t
// as. The schema of an input accepts null where an object needs no members
// (CALL-12: absent input is null).
func infer(t reflect.Type, input bool) (json.RawMessage, error) {
	known := map[reflect.Type]*jsonschema.Schema{}
	learn(known, map[reflect.Type]bool{}, t)
	s, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: known})
	if err != nil {
		return nil, fmt.Errorf("no schema from %v, give one: %w", t, err)
	}
	if input && s.Type == "object" && len(s.Required) == 0 {
		s.Type, s.Types = "", []string{"object", "null"}
	}
	text, err := s.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("write the schema of %v: %w", t, err)
	}
	return text, matches(t, text)
}

// matches holds the inferred schema against the one value of t that there is
// for sure.
func matches(t reflect.Type, text json.RawMessage) error {
	s, err := compileSchema(text)
	if err != nil {
		return fmt.Errorf("no schema from %v, give one: %w", t, err)
	}
	zero, err := encode(reflect.Zero(t).Interface())
	if err != nil {
		return fmt.Errorf("encode %v: %w", t, err)
	}
	list, err := s.validate(zero)
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("%s: %s", zero, list[0].text())
	}
	if err != nil {
		return fmt.Errorf("no schema from %v, give one: its zero value does not match: %w", t, err)
	}
	return nil
}

// learn finds the types below t that are not encoded as their kind tells:
// those that write themselves, and bytes.
func learn(known map[reflect.Type]*jsonschema.Schema, seen map[reflect.Type]bool, t reflect.Type) {
	if seen[t] || t == reflect.TypeFor[time.Time]() {
		return
	}
	seen[t] = true
	own := reflect.PointerTo(t) // has the methods of t too
	switch {
	case t.Kind() == reflect.Pointer:
		learn(known, seen, t.Elem())
	case t.Kind() == reflect.Interface:
	case own.Implements(reflect.TypeFor[gojson.MarshalerTo]()), own.Implements(reflect.TypeFor[json.Marshaler]()):
		// All types there are, because "anything" or null would become null.
		known[t] = &jsonschema.Schema{Types: []string{"null", "boolean", "object", "array", "number", "string"}}
	case own.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		known[t] = &jsonschema.Schema{Type: "string"}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		known[t] = &jsonschema.Schema{Types: []string{"null", "string"}, ContentEncoding: "base64"} // CALL-10
	case t.Kind() == reflect.Array && t.Elem().Kind() == reflect.Uint8:
		known[t] = &jsonschema.Schema{Type: "string", ContentEncoding: "base64"}
	case t.Kind() == reflect.Slice, t.Kind() == reflect.Array, t.Kind() == reflect.Map:
		learn(known, seen, t.Elem())
	case t.Kind() == reflect.Struct:
		for field := range t.Fields() {
			learn(known, seen, field.Type)
		}
	}
}
