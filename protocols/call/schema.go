package call

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	gojson "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

const (
	maxSchema      = 256 << 10 // bytes
	maxSchemaDepth = 128       // steps of a JSON pointer to a subschema
	maxViolations  = 16        // reported of one input
	maxViolation   = 256       // bytes of the text of each
	maxExponent    = 400       // of a number that is compared with a schema
	maxDigits      = 1000
)

// schema is a compiled JSON Schema; nil accepts anything.
type schema struct{ compiled *jsonschema.Schema }

// violation is one place where a value does not match, as it stands in the
// details of INVALID_INPUT.
type violation struct {
	Pointer string `json:"pointer"`
	Message string `json:"message"`
}

// compileSchema compiles text, which may come from a stranger: it loads
// nothing, and refuses schemas whose evaluation could take long (bounds.go).
func compileSchema(text json.RawMessage) (*schema, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if len(text) > maxSchema {
		return nil, fmt.Errorf("larger than %d bytes", maxSchema)
	}
	doc, err := decodeValue(text)
	if err != nil {
		return nil, err
	}
	switch d := doc.(type) {
	case nil:
		return nil, nil
	case bool:
		if d {
			return nil, nil
		}
	case map[string]any:
		if len(d) == 0 {
			return nil, nil
		}
	default:
		return nil, errors.New("neither an object nor a boolean")
	}
	if err := checkBounds(doc); err != nil {
		return nil, err
	}
	const place = "urn:alknet:schema"
	c := jsonschema.NewCompiler()
	c.UseLoader(jsonschema.SchemeURLLoader{})
	if err := c.AddResource(place, doc); err != nil {
		return nil, schemaError(err)
	}
	compiled, err := c.Compile(place)
	if err != nil {
		return nil, schemaError(err)
	}
	return &schema{compiled}, nil
}

// schemaError takes the most telling line of the compiler's error.
func schemaError(err error) error {
	var invalid *jsonschema.SchemaValidationError
	var at *jsonschema.ValidationError
	if errors.As(err, &invalid) && errors.As(invalid.Err, &at) {
		if list := violations(at); len(list) > 0 {
			return errors.New(list[0].text())
		}
	}
	return err
}

// validate checks value, one JSON value. violations lists what does not match;
// err is a value that cannot be decoded, such as one with duplicate members.
func (s *schema) validate(value json.RawMessage) (list []violation, err error) {
	if s == nil {
		if !jsontext.Value(value).IsValid() {
			_, err = decodeValue(value)
		}
		return nil, err
	}
	doc, err := decodeValue(value)
	if err != nil {
		return nil, err
	}
	err = s.compiled.Validate(doc)
	var at *jsonschema.ValidationError
	switch {
	case err == nil:
		return nil, nil
	case errors.As(err, &at):
		return violations(at), nil
	}
	return nil, err
}

// number is a JSON number that is kept as text, so that large integers stay
// exact, and small enough for exact arithmetic.
func number(d *jsontext.Decoder, v *any) error {
	if d.PeekKind() != '0' {
		return errors.ErrUnsupported
	}
	text, err := d.ReadValue()
	if err != nil {
		return err
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(string(text)), "e")
	e := 0
	if exponent != "" {
		if e, err = strconv.Atoi(exponent); err != nil {
			e = maxExponent + 1
		}
	}
	if len(mantissa) > maxDigits || e > maxExponent || e < -maxExponent {
		return errors.New("number out of range")
	}
	*v = json.Number(text)
	return nil
}

// decodeValue decodes one JSON value as the validator wants it.
func decodeValue(text []byte) (any, error) {
	var v any
	err := gojson.Unmarshal(text, &v, gojson.WithUnmarshalers(gojson.UnmarshalFromFunc(number)))
	if err != nil {
		return nil, decodeError(err)
	}
	return v, nil
}

// decodeError keeps of a decoder's error where and what, for a peer to read.
func decodeError(err error) error {
	var syntactic *jsontext.SyntacticError
	var semantic *gojson.SemanticError
	switch {
	case errors.As(err, &syntactic):
		text := strings.TrimPrefix(syntactic.Err.Error(), "jsontext: ")
		if errors.Is(err, jsontext.ErrDuplicateName) {
			text = "duplicate member"
		}
		return errors.New(violation{string(syntactic.JSONPointer), text}.text())
	case errors.As(err, &semantic) && semantic.Err != nil:
		return errors.New(violation{string(semantic.JSONPointer), semantic.Err.Error()}.text())
	}
	return err
}

// text is the violation in one line.
func (v violation) text() string {
	if v.Pointer == "" {
		return v.Message
	}
	return v.Pointer + ": " + v.Message
}

// violations lists the leaves of a validation error, in the order of their
// pointers, each once.
func violations(err *jsonschema.ValidationError) []violation {
	var list []violation
	printer := message.NewPrinter(language.English)
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		for _, cause := range e.Causes {
			walk(cause)
		}
		if len(e.Causes) > 0 || len(list) >= 4*maxViolations {
			return
		}
		at := pointer(e.InstanceLocation)
		switch k := e.ErrorKind.(type) {
		case *kind.Required:
			for _, name := range k.Missing {
				list = append(list, violation{at, "missing property " + strconv.Quote(name)})
			}
		case *kind.AdditionalProperties:
			for _, name := range k.Properties {
				list = append(list, violation{at, "unknown property " + strconv.Quote(name)})
			}
		case *kind.Minimum:
			list = append(list, violation{at, bound("minimum", k.Got, k.Want)})
		case *kind.Maximum:
			list = append(list, violation{at, bound("maximum", k.Got, k.Want)})
		case *kind.ExclusiveMinimum:
			list = append(list, violation{at, bound("exclusiveMinimum", k.Got, k.Want)})
		case *kind.ExclusiveMaximum:
			list = append(list, violation{at, bound("exclusiveMaximum", k.Got, k.Want)})
		case *kind.FalseSchema:
			list = append(list, violation{at, "not allowed"})
		default:
			list = append(list, violation{at, k.LocalizedString(printer)})
		}
	}
	walk(err)
	slices.SortStableFunc(list, func(a, b violation) int { return strings.Compare(a.Pointer, b.Pointer) })
	list = slices.Compact(list)
	list = list[:min(len(list), maxViolations)]
	for i := range list {
		list[i].Pointer = clip(list[i].Pointer)
		list[i].Message = clip(list[i].Message)
	}
	return list
}

// bound writes exactly what the validator's own text rounds.
func bound(keyword string, got, want *big.Rat) string {
	text := func(r *big.Rat) string {
		if r.IsInt() {
			return r.Num().String()
		}
		f, _ := r.Float64()
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return keyword + ": got " + text(got) + ", want " + text(want)
}

func clip(s string) string {
	if len(s) > maxViolation {
		return strings.ToValidUTF8(s[:maxViolation], "") + "…"
	}
	return s
}

// pointer writes a JSON pointer (RFC 6901); "" is the whole value.
func pointer(tokens []string) string {
	var p jsontext.Pointer
	for _, t := range tokens {
		p = p.AppendToken(t)
	}
	return string(p)
}

// checkInput is the INVALID_INPUT of an input, or nil.
func (e *entry) checkInput(input json.RawMessage) *Error {
	list, err := e.input.validate(input)
	if err != nil {
		return Errorf(CodeInvalidInput, "input: %s", clip(err.Error()))
	}
	if len(list) == 0 {
		return nil
	}
	return Errorf(CodeInvalidInput, "input does not match the schema: %s", list[0].text()).WithDetails(list)
}

// encode turns a Go value into JSON. Raw values go through byte for byte once
// they are known to be JSON; bytes of a string that are not UTF-8 become
// U+FFFD.
func encode(v any) (json.RawMessage, error) {
	switch raw := v.(type) {
	case json.RawMessage:
		return checkRaw(raw)
	case jsontext.Value:
		return checkRaw(json.RawMessage(raw))
	}
	return gojson.Marshal(v, jsontext.AllowInvalidUTF8(true))
}

func checkRaw(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return json.RawMessage("null"), nil
	}
	if !wire.Valid(raw) {
		return nil, errors.New("raw value is not JSON")
	}
	return raw, nil
}
