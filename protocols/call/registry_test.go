package call_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	gojson "github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

var nothing = call.HandlerFunc(func(context.Context, *call.Request) (any, error) { return nil, nil })

func op(name string) call.Operation {
	return call.Operation{Spec: call.Spec{Name: name}, Handler: nothing}
}

func TestCALL64RegistrationIsAllOrNothing(t *testing.T) {
	stream := call.StreamHandlerFunc(func(context.Context, *call.Request, func(any) error) error { return nil })
	spec := func(f func(*call.Spec)) call.Operation {
		o := op("a/b")
		f(&o.Spec)
		return o
	}
	for want, bad := range map[string]call.Operation{
		"the name is taken":                   op("services/list"),
		"bad operation name":                  op("/a"),
		"a query needs a Handler":             {Spec: call.Spec{Name: "a/b"}, Stream: stream},
		"a mutation needs a Handler":          {Spec: call.Spec{Name: "a/b", Type: call.OpMutation}},
		"a subscription needs a Stream":       {Spec: call.Spec{Name: "a/b", Type: call.OpSubscription}, Handler: nothing},
		"has both Handler and Stream":         {Spec: call.Spec{Name: "a/b"}, Handler: nothing, Stream: stream},
		"negative timeout":                    {Spec: call.Spec{Name: "a/b"}, Handler: nothing, Timeout: -time.Second},
		`unknown operation type "command"`:    spec(func(s *call.Spec) { s.Type = "command" }),
		`unknown visibility "secret"`:         spec(func(s *call.Spec) { s.Visibility = "secret" }),
		"input schema: neither an object":     spec(func(s *call.Spec) { s.InputSchema = json.RawMessage(`3`) }),
		"output schema: /type: value must be": spec(func(s *call.Spec) { s.OutputSchema = json.RawMessage(`{"type":"text"}`) }),
		`"Not_Upper" is not upper snake case`: spec(func(s *call.Spec) { s.Errors = []call.ErrorSpec{{Code: "Not_Upper"}} }),
		"TIMEOUT belongs to the protocol":     spec(func(s *call.Spec) { s.Errors = []call.ErrorSpec{{Code: "TIMEOUT"}} }),
		"A is declared twice":                 spec(func(s *call.Spec) { s.Errors = []call.ErrorSpec{{Code: "A"}, {Code: "A"}} }),
		"schema of error A: neither":          spec(func(s *call.Spec) { s.Errors = []call.ErrorSpec{{Code: "A", Schema: json.RawMessage(`[]`)}} }),
	} {
		p := call.New(call.Config{})
		before := p.Operations()
		require.ErrorContains(t, p.Register(op("fine/one"), bad), want)
		require.Equal(t, before, p.Operations(), "something was registered in spite of: %s", want)
	}
	p := call.New(call.Config{})
	require.ErrorContains(t, p.Register(op("a/b"), op("a/b")), `"a/b": the name is taken`)
	require.NoError(t, p.Register(op("a/b")))
	p.Freeze()
	require.ErrorIs(t, p.Register(op("a/c")), call.ErrFrozen)
	var names []string
	for _, s := range p.Operations() {
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"a/b", "services/list", "services/schema"}, names)
}

func TestCALL57Names(t *testing.T) {
	for _, good := range []string{"a", "fs/readFile", "a/b/c/d", "A9/x-y_z.0", "0", strings.Repeat("n", 256)} {
		require.NoError(t, call.NewRegistry().Register(op(good)), good)
	}
	for _, bad := range []string{"", "/a", "a/", "a//b", "a/.b", "-a", "a b", "ä", "a\x00", "_a", strings.Repeat("n", 257)} {
		require.Error(t, call.NewRegistry().Register(op(bad)), "%q", bad)
	}
	s := call.Spec{Name: "fs/sub/read"}
	require.Equal(t, "fs", s.Namespace())
	require.Equal(t, "/fs/sub/read", s.Path())
}

func TestCALL59SpecJSON(t *testing.T) {
	status := 404
	full := call.Spec{
		Name: "fs/readFile", Type: call.OpMutation, Visibility: call.Internal,
		InputSchema: json.RawMessage(`{"b":1,"a":2}`), OutputSchema: json.RawMessage(`true`),
		Errors: []call.ErrorSpec{
			{Code: "FILE_NOT_FOUND", Description: "…", Schema: json.RawMessage(`{}`)},
			{Code: "HTTP_404", Schema: json.RawMessage(`{"type":"null"}`), HTTPStatus: &status},
		},
		Access: auth.Access{RequiredScopes: []string{"fs:read"}, RequiredScopesAny: []string{}},
	}
	text := `{"name":"fs/readFile","namespace":"fs","op_type":"mutation","visibility":"internal",` +
		`"input_schema":{"b":1,"a":2},"output_schema":true,"error_schemas":[` +
		`{"code":"FILE_NOT_FOUND","description":"…","schema":{},"http_status":null},` +
		`{"code":"HTTP_404","description":"","schema":{"type":"null"},"http_status":404}],` +
		`"access_control":{"required_scopes":["fs:read"],"required_scopes_any":[],"resource_type":null,"resource_action":null}}`
	b, err := gojson.Marshal(full)
	require.NoError(t, err)
	require.Equal(t, text, string(b))
	b, err = json.Marshal(full) // the control API of a node may use either package
	require.NoError(t, err)
	require.Equal(t, text, string(b))
	var back call.Spec
	require.NoError(t, gojson.Unmarshal([]byte(text), &back))
	require.Equal(t, full, back)

	// CALL-94: what a peer may leave out.
	require.NoError(t, gojson.Unmarshal([]byte(`{"name":"a","op_type":"query","error_schemas":[{"description":"no code"}],"later":1}`), &back))
	require.Equal(t, call.Spec{
		Name: "a", Type: call.OpQuery, Visibility: call.External,
		InputSchema: json.RawMessage(`{}`), OutputSchema: json.RawMessage(`{}`),
	}, back)
	for _, bad := range []string{
		`{}`, `{"name":"a"}`, `{"name":"/a","op_type":"query"}`, `{"name":"a","op_type":"x"}`,
		`{"name":"a","name":"a","op_type":"query"}`, `{"name":"a","op_type":"query","visibility":"?"}`, `[]`,
	} {
		require.Error(t, gojson.Unmarshal([]byte(bad), &back), bad)
	}
}

func register(schema string) error {
	o := op("a/b")
	o.Spec.InputSchema = json.RawMessage(schema)
	return call.NewRegistry().Register(o)
}

// doubling is a chain of definitions, each of which refers to the next twice.
func doubling(keyword string, n int) string {
	var b strings.Builder
	b.WriteString(`{"$ref":"#/$defs/d0","$defs":{`)
	for i := range n {
		fmt.Fprintf(&b, `"d%d":{"%s":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]},`, i, keyword, i+1, i+1)
	}
	fmt.Fprintf(&b, `"d%d":{"type":"object"}}}`, n)
	return b.String()
}

func TestSchemasFromStrangersAreBounded(t *testing.T) {
	for name, good := range map[string]string{
		"null": `null`, "true": `true`, "false": `false`, "empty": `{}`,
		"tree":              `{"type":"object","properties":{"left":{"$ref":"#"},"right":{"$ref":"#"},"v":{"type":"integer"}}}`,
		"expressions":       `{"oneOf":[{"properties":{"and":{"type":"array","items":{"$ref":"#"}}}},{"properties":{"not":{"$ref":"#"}}},{"type":"string"}]}`,
		"definitions":       `{"$defs":{"a/b":{"type":"string"},"c~d":{"$ref":"#/$defs/a~1b"}},"items":{"$ref":"#/$defs/c~0d"}}`,
		"few references":    doubling("allOf", 8),
		"names like words":  `{"properties":{"$ref":{"type":"string"},"$id":{},"$dynamicRef":{}}}`,
		"data like schemas": `{"enum":[{"$ref":"http://example.com"}],"default":{"$dynamicRef":"#x"}}`,
		"draft 7":           `{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"a":{}},"items":[{"$ref":"#/definitions/a"}]}`,
		"long chain":        strings.Replace(doubling("x", 200), `{"$ref":"#/$defs/d0"`, `{"allOf":[{"$ref":"#/$defs/d0"}]`, 1),
	} {
		require.NoError(t, register(good), name)
	}
	for want, bad := range map[string]string{
		"too many references":           doubling("allOf", 30),
		"too many references to expand": doubling("anyOf", 20),
		"refers to itself":              `{"$ref":"#"}`,
		"#/allOf/0: refers to itself":   `{"properties":{"a":{"$ref":"#/allOf/0"}},"allOf":[{"allOf":[{"$ref":"#/allOf/0"}]}]}`,
		"recursion branches":            `{"allOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}`,
		"branches on the same":          `{"properties":{"a":{"$ref":"#"}},"additionalProperties":{"$ref":"#"},"patternProperties":{"^b":{"$ref":"#"}}}`,
		"same value":                    `{"anyOf":[{"items":{"$ref":"#"}},{"contains":{"$ref":"#"}}]}`,
		"does not point into":           `{"$ref":"file:///etc/passwd"}`,
		"(#/…)":                         `{"items":{"$ref":"https://example.com/schema.json"}}`,
		`"other.json#/a"`:               `{"$ref":"other.json#/a"}`,
		`"#name"`:                       `{"$ref":"#name","$defs":{"a":{"$anchor":"name"}}}`,
		"points to nothing":             `{"$ref":"#/$defs/none"}`,
		"$dynamicRef is not supported":  `{"$dynamicRef":"#x"}`,
		"$id is supported at the root":  `{"properties":{"a":{"$id":"http://example.com/x"}}}`,
		"nested too deep":               strings.Repeat(`{"not":`, 200) + "{}" + strings.Repeat("}", 200),
		"larger than":                   `{"description":"` + strings.Repeat("x", 300_000) + `"}`,
		"duplicate member":              `{"type":"object","type":"string"}`,
		"example.com":                   `{"$schema":"https://example.com/meta"}`,
		"pattern":                       `{"pattern":"("}`,
		"number out of range":           `{"maximum":1e999999999}`,
	} {
		begin := time.Now()
		require.ErrorContains(t, register(bad), want, "%.100s", bad)
		require.Less(t, time.Since(begin), 10*time.Second, want)
	}
}

func TestInputsAgainstSchemas(t *testing.T) {
	schema := `{"type":"object","required":["path"],"additionalProperties":false,"properties":{
		"path":{"type":"string","minLength":1},"n":{"type":"integer","maximum":9007199254740993},
		"list":{"type":"array","items":{"type":"object","required":["a","b"]}},"mode":{"enum":["r","w"]}}}`
	session := pair(t, known(), call.Operation{
		Spec:    call.Spec{Name: "a/b", InputSchema: json.RawMessage(schema)},
		Handler: nothing,
	})
	for input, want := range map[string]string{
		`{"path":"x","n":9007199254740993}`:      "",
		`{"path":"x","n":1.0}`:                   "",
		`{"path":"x","n":9007199254740994}`:      "/n: maximum: got 9007199254740994, want 9007199254740993",
		`{}`:                                     `missing property "path"`,
		`null`:                                   "got null, want object",
		`{"path":3}`:                             "/path: got number, want string",
		`{"path":""}`:                            "/path: minLength: got 0, want 1",
		`{"path":"x","list":[{"a":1,"b":2},{}]}`: `/list/1: missing property "a"`,
		`{"path":"x","mode":"x"}`:                "/mode: value must be one of 'r', 'w'",
		`{"path":"x","a/~b":1}`:                  `unknown property "a/~b"`,
	} {
		_, err := session.Call(t.Context(), "a/b", json.RawMessage(input))
		if want == "" {
			require.NoError(t, err, input)
			continue
		}
		var e *call.Error
		require.ErrorAs(t, err, &e, input)
		require.Equal(t, call.CodeInvalidInput, e.Code)
		require.Equal(t, "input does not match the schema: "+want, e.Message, input)
		var details []struct{ Pointer, Message string }
		require.NoError(t, json.Unmarshal(e.Details, &details))
		require.NotEmpty(t, details)
	}
	// Numbers that exact arithmetic would choke on.
	for _, n := range []string{"1e999999999", "1e-999999999", "1" + strings.Repeat("0", 5000)} {
		_, err := session.Call(t.Context(), "a/b", json.RawMessage(`{"path":"x","n":`+n+`}`))
		require.ErrorIs(t, err, call.ErrInvalidInput)
		require.ErrorContains(t, err, "/n: number out of range")
	}
	// Many violations are reported as some.
	_, err := session.Call(t.Context(), "a/b", json.RawMessage(`{"path":"x","list":[`+strings.Repeat("{},", 1000)+`{}]}`))
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.Less(t, len(e.Details), 8<<10)
}

// Whatever schema is accepted checks any input in reasonable time.
func FuzzSchema(f *testing.F) {
	for _, s := range []string{
		`{"type":"object","properties":{"left":{"$ref":"#"},"right":{"$ref":"#"}}}`, doubling("allOf", 5), doubling("oneOf", 30),
		`{"allOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}`,
		`{"$defs":{"a":{"items":{"$ref":"#/$defs/a"}}},"$ref":"#/$defs/a","unevaluatedItems":false}`,
		`{"if":{"required":["a"]},"then":{"dependentSchemas":{"a":{"$ref":"#"}}}}`,
	} {
		f.Add([]byte(s), []byte(`{"a":{"a":{"a":{"a":{"a":{"a":{}}}}}},"left":{"left":{}}}`))
	}
	f.Fuzz(func(t *testing.T, schema, input []byte) {
		begin := time.Now()
		o := op("a/b")
		o.Spec.InputSchema = schema
		registry := call.NewRegistry()
		if registry.Register(o) == nil {
			call.CheckInput(registry, "a/b", input)
		}
		require.Less(t, time.Since(begin), 5*time.Second)
	})
}
