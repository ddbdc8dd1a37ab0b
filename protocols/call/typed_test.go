package call_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

type readFile struct {
	Path  string `json:"path" jsonschema:"where it is"`
	Limit int    `json:"limit,omitempty"`
}

type fileText struct {
	Text string    `json:"text"`
	Data []byte    `json:"data"`
	At   time.Time `json:"at"`
}

// fileNotFoundError is the Go type of FILE_NOT_FOUND.
type fileNotFoundError struct {
	Path string `json:"path"`
}

func (e fileNotFoundError) Error() string      { return "no such file: " + e.Path }
func (fileNotFoundError) ErrorCode() call.Code { return "FILE_NOT_FOUND" }

// diskFullError is one whose methods have pointer receivers.
type diskFullError struct {
	Free uint64 `json:"free"`
}

func (e *diskFullError) Error() string      { return fmt.Sprintf("%d bytes free", e.Free) }
func (*diskFullError) ErrorCode() call.Code { return "DISK_FULL" }

// typed connects to a node on which register has registered.
func typed(t testing.TB, register func(call.Registrar) error) *call.Session {
	t.Helper()
	server := call.New(call.Config{})
	require.NoError(t, register(server))
	return connect(t, server, known("fs"))
}

func TestTypedCalls(t *testing.T) {
	s := typed(t, func(reg call.Registrar) error {
		return errors.Join(
			call.Query(reg, "fs/readFile", func(_ context.Context, r *call.Request, in readFile) (fileText, error) {
				return fileText{Text: r.Identity.ID + in.Path, Data: []byte{1, 2}, At: time.Unix(0, 0).UTC()}, nil
			}, call.RequireScopes("fs")),
			call.Mutation(reg, "fs/count", func(_ context.Context, _ *call.Request, in *readFile) (int, error) {
				if in == nil {
					return -1, nil
				}
				return in.Limit, nil
			}),
		)
	})
	file, err := call.Invoke[fileText](t.Context(), s, "fs/readFile", readFile{Path: "/x"})
	require.NoError(t, err)
	require.Equal(t, fileText{Text: "peer/x", Data: []byte{1, 2}, At: time.Unix(0, 0).UTC()}, file)

	n, err := call.Invoke[int](t.Context(), s, "fs/count", nil)
	require.NoError(t, err)
	require.Equal(t, -1, n)

	// What the function takes decides what it is given.
	for input, message := range map[string]string{
		`{}`:                                  `missing property "path"`,
		`{"path":1}`:                          `/path: got number, want string`,
		`{"path":"/x","Limit":1}`:             `unknown property "Limit"`, // the case counts
		`{"path":"/x","path":"/y"}`:           `duplicate member`,
		`{"path":"/x","limit":1e400}`:         `/limit`,
		`{"path":"/x","limit":9999999999e99}`: `decode input`,
		`null`:                                `got null, want object`,
	} {
		_, err := call.Invoke[fileText](t.Context(), s, "fs/readFile", json.RawMessage(input))
		require.ErrorIs(t, err, call.ErrInvalidInput, input)
		require.ErrorContains(t, err, message, input)
	}

	spec, err := s.Schema(t.Context(), "fs/readFile")
	require.NoError(t, err)
	require.Equal(t, call.OpQuery, spec.Type)
	require.Equal(t, auth.Access{RequiredScopes: []string{"fs"}}, spec.Access)
	require.JSONEq(t, `{"type":"object","required":["path"],"additionalProperties":false,"properties":{
		"path":{"type":"string","description":"where it is"},"limit":{"type":"integer"}}}`, string(spec.InputSchema))
	require.JSONEq(t, `{"type":"object","required":["text","data","at"],"additionalProperties":false,"properties":{
		"text":{"type":"string"},"data":{"type":["null","string"],"contentEncoding":"base64"},"at":{"type":"string"}}}`, string(spec.OutputSchema))
	spec, err = s.Schema(t.Context(), "fs/count")
	require.NoError(t, err)
	require.Equal(t, call.OpMutation, spec.Type)

	// An answer that is not of the type asked for is an error like any other.
	_, err = call.Invoke[string](t.Context(), s, "fs/count", nil)
	require.ErrorIs(t, err, call.ErrInternal)
	require.ErrorContains(t, err, "decode output")
}

func TestTypedSubscriptions(t *testing.T) {
	left := make(chan error, 1)
	s := typed(t, func(reg call.Registrar) error {
		return call.Stream(reg, "fs/lines", func(ctx context.Context, _ *call.Request, in readFile, emit func(fileText) error) error {
			for i := range in.Limit {
				if err := emit(fileText{Text: fmt.Sprint(in.Path, i)}); err != nil {
					left <- err
					return err
				}
			}
			return fileNotFoundError{in.Path}
		}, call.Declare[fileNotFoundError]("no such file"))
	})
	var got []string
	var last error
	for line, err := range call.Subscribe[fileText](t.Context(), s, "fs/lines", readFile{Path: "l", Limit: 3}) {
		if last = err; err == nil {
			got = append(got, line.Text)
		}
	}
	require.Equal(t, []string{"l0", "l1", "l2"}, got)
	var missing fileNotFoundError
	require.ErrorAs(t, last, &missing)
	require.Equal(t, "l", missing.Path)

	for range call.Subscribe[fileText](t.Context(), s, "fs/lines", readFile{Path: "l", Limit: 1 << 30}) {
		break
	}
	require.ErrorIs(t, <-left, call.ErrAborted)

	// A value of another type ends the loop, and with it the subscription.
	n := 0
	for _, err := range call.Subscribe[int](t.Context(), s, "fs/lines", readFile{Path: "l", Limit: 1 << 30}) {
		require.ErrorContains(t, err, "decode output")
		n++
	}
	require.Equal(t, 1, n)
	require.ErrorIs(t, <-left, call.ErrAborted)

	for _, err := range call.Subscribe[fileText](t.Context(), s, "no/such", nil) {
		require.ErrorIs(t, err, call.ErrNotFound)
	}
	for _, err := range call.Subscribe[fileText](t.Context(), s, "no name", nil) {
		require.ErrorIs(t, err, call.ErrInvalidInput)
	}
}

// CALL-53, CALL-54: a Go type of error for each declared code, found again on
// the other side.
func TestCALL53TypedErrors(t *testing.T) {
	s := typed(t, func(reg call.Registrar) error {
		return call.Query(reg, "fs/fail", func(_ context.Context, _ *call.Request, how string) (any, error) {
			switch how {
			case "value":
				return nil, fmt.Errorf("a secret: %w", fileNotFoundError{"/x"})
			case "pointer":
				return nil, &diskFullError{7}
			case "untyped":
				return nil, call.Errorf("FILE_NOT_FOUND", "by hand").WithDetails(map[string]string{"path": "/y"})
			}
			return nil, errors.New("a secret")
		}, call.Declare[fileNotFoundError]("no such file"))
	})
	_, err := call.Invoke[any](t.Context(), s, "fs/fail", "value")
	var missing fileNotFoundError
	require.ErrorAs(t, err, &missing)
	require.Equal(t, fileNotFoundError{"/x"}, missing)
	require.EqualError(t, err, "FILE_NOT_FOUND: no such file: /x", "what wraps it stays here")
	var pointer *fileNotFoundError
	require.ErrorAs(t, err, &pointer)
	require.Equal(t, "/x", pointer.Path)
	var full *diskFullError
	require.NotErrorAs(t, err, &full)

	_, err = call.Invoke[any](t.Context(), s, "fs/fail", "untyped")
	require.ErrorAs(t, err, &missing)
	require.Equal(t, fileNotFoundError{"/y"}, missing)

	// An undeclared one is INTERNAL, as CALL-54 says.
	_, err = call.Invoke[any](t.Context(), s, "fs/fail", "pointer")
	require.NotErrorAs(t, err, &full)
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, call.CodeInternal, e.Code)
	require.JSONEq(t, `{"code":"DISK_FULL","details":{"free":7}}`, string(e.Details))

	_, err = call.Invoke[any](t.Context(), s, "fs/fail", "other")
	require.EqualError(t, err, "INTERNAL: internal error")

	spec, err := s.Schema(t.Context(), "fs/fail")
	require.NoError(t, err)
	require.Equal(t, "no such file", spec.Errors[0].Description)
	require.JSONEq(t, `{"type":"object","required":["path"],"additionalProperties":false,"properties":{"path":{"type":"string"}}}`, string(spec.Errors[0].Schema))

	// Details of another form are not taken for the type's.
	odd := &call.Error{Code: "FILE_NOT_FOUND", Details: json.RawMessage(`{"path":1}`)}
	require.NotErrorAs(t, error(odd), &missing)
	twice := &call.Error{Code: "FILE_NOT_FOUND", Details: json.RawMessage(`{"path":"a","path":"b"}`)}
	require.NotErrorAs(t, error(twice), &missing)
}

// What the schema of a type takes is what the encoder writes.
func TestTypedSchemas(t *testing.T) {
	type everything struct {
		UUID    uuid.UUID
		Addr    netip.Addr
		Raw     json.RawMessage
		Pointer *json.RawMessage
		Hash    [4]byte
		Bytes   []byte
		List    []string
		Map     map[string]int
		Any     any
		At      *time.Time
		Inner   struct {
			N uint8 `json:"n,omitempty"`
		}
	}
	s := typed(t, func(reg call.Registrar) error {
		return call.Query(reg, "test/same", func(_ context.Context, _ *call.Request, in everything) (everything, error) { return in, nil })
	})
	now := time.Now().UTC()
	raw := json.RawMessage(`[1]`)
	for _, in := range []everything{
		{Raw: json.RawMessage("null")},
		{
			UUID: uuid.New(), Addr: netip.MustParseAddr("::1"), Raw: raw, Pointer: &raw, Hash: [4]byte{1}, Bytes: []byte{0xff},
			List: []string{"a"}, Map: map[string]int{"b": 1}, Any: "c", At: &now, Inner: struct {
				N uint8 `json:"n,omitempty"`
			}{255},
		},
	} {
		out, err := call.Invoke[everything](t.Context(), s, "test/same", in)
		require.NoError(t, err)
		require.Equal(t, in.UUID, out.UUID)
		require.Equal(t, in.Inner, out.Inner)
	}
	_, err := s.Call(t.Context(), "test/same", json.RawMessage(`{"Hash":[1,2,3,4]}`))
	require.ErrorIs(t, err, call.ErrInvalidInput)
}

func TestTypedRegistrationFails(t *testing.T) {
	type tree struct{ Left, Right *tree }
	nothing := func(context.Context, *call.Request, struct{}) (int, error) { return 0, nil }
	reg := call.NewRegistry()
	for message, err := range map[string]error{
		"give one: ForType":                        call.Query(reg, "a/tree", func(context.Context, *call.Request, tree) (int, error) { return 0, nil }),
		"output: no schema from func()":            call.Query(reg, "a/func", func(context.Context, *call.Request, int) (func(), error) { return nil, nil }),
		"no default representation":                call.Query(reg, "a/wait", func(context.Context, *call.Request, time.Duration) (int, error) { return 0, nil }),
		`bad operation name "no name"`:             call.Query(reg, "no name", nothing),
		"error code FILE_NOT_FOUND is declared tw": call.Query(reg, "a/b", nothing, call.Declare[fileNotFoundError](""), call.Declare[fileNotFoundError]("")),
		"input schema: neither":                    call.Query(reg, "a/b", nothing, func(op *call.Operation) error { op.Spec.InputSchema = json.RawMessage(`1`); return nil }),
		"EOF":                                      call.Query(reg, "a/b", nothing, func(*call.Operation) error { return io.EOF }),
	} {
		require.ErrorContains(t, err, message)
	}
	require.Empty(t, reg.Specs())
	given := func(op *call.Operation) error {
		op.Spec.InputSchema = json.RawMessage(`{}`)
		return nil
	}
	require.NoError(t, call.Query(reg, "a/tree", func(context.Context, *call.Request, tree) (int, error) { return 0, nil }, given))
	require.ErrorContains(t, call.Query(reg, "a/tree", nothing), "the name is taken")
}
