package wire_test

import (
	"bytes"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

//go:embed testdata/*.txt
var testdata embed.FS

// lines returns the lines of a file of testdata that are not comments.
func lines(t testing.TB, name string) []string {
	t.Helper()
	text, err := testdata.ReadFile("testdata/" + name)
	require.NoError(t, err)
	var list []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); !strings.HasPrefix(line, "#") {
			list = append(list, line)
		}
	}
	require.NotEmpty(t, list)
	return list
}

// frame puts a prefix before a body.
func frame(body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	return append(b, body...)
}

// goldenFrames returns the frames of envelopes.txt.
func goldenFrames(t testing.TB) [][]byte {
	t.Helper()
	var frames [][]byte
	for _, line := range lines(t, "envelopes.txt") {
		prefix, body, _ := strings.Cut(line, " ")
		b, err := hex.DecodeString(prefix)
		require.NoError(t, err)
		require.Equal(t, uint32(len(body)), binary.BigEndian.Uint32(b), "prefix of %s", body)
		frames = append(frames, append(b, body...))
	}
	return frames
}

// again encodes what was decoded from a body.
func again(t testing.TB, body []byte) []byte {
	t.Helper()
	env, err := wire.Scan(body)
	require.NoError(t, err)
	id := string(env.ID)
	var out []byte
	switch env.Type {
	case wire.Requested:
		r, err := wire.ParseRequest(env.Payload)
		require.NoError(t, err)
		r.Operation = strings.TrimPrefix(r.Operation, "/")
		out, err = wire.AppendRequest(nil, id, &r)
		require.NoError(t, err)
	case wire.Responded:
		v, err := wire.ParseOutput(env.Payload)
		require.NoError(t, err)
		out, err = wire.AppendOutput(nil, id, v)
		require.NoError(t, err)
	case wire.Failed:
		f, err := wire.ParseFailure(env.Payload)
		require.NoError(t, err)
		out, err = wire.AppendFailure(nil, id, &f)
		require.NoError(t, err)
	case wire.Credit:
		n, err := wire.ParseCredit(env.Payload)
		require.NoError(t, err)
		out = wire.AppendCredit(nil, id, n)
	default:
		require.NoError(t, wire.CheckObject(env.Payload))
		out = wire.AppendEmpty(nil, env.Type, id)
	}
	return out
}

func TestCALL1GoldenFrames(t *testing.T) {
	var all []byte
	frames := goldenFrames(t)
	for _, want := range frames {
		require.Equal(t, string(want), string(again(t, want[wire.PrefixLen:])))
		all = append(all, want...)
	}
	// The same frames in one stream, however it is cut into reads.
	for name, src := range map[string]io.Reader{
		"whole":         bytes.NewReader(all),
		"bytes":         iotest.OneByteReader(bytes.NewReader(all)),
		"halves":        iotest.HalfReader(bytes.NewReader(all)),
		"data with EOF": iotest.DataErrReader(bytes.NewReader(all)),
	} {
		r := wire.NewReader(src, 0)
		for _, want := range frames {
			body, _, err := r.Next()
			require.NoError(t, err, name)
			require.Equal(t, string(want[wire.PrefixLen:]), string(body), name)
		}
		_, _, err := r.Next()
		require.Equal(t, io.EOF, err, name)
	}
}

func TestCALL8LenientBodies(t *testing.T) {
	for _, line := range lines(t, "lenient.txt") {
		f := strings.SplitN(line, "\t", 4)
		env, err := wire.Scan([]byte(f[3]))
		require.NoError(t, err, line)
		require.Equal(t, strings.Join(f[:3], "\t"), fmt.Sprintf("%s\t%s\t%s", env.Type, env.ID, env.Payload))
	}
}

func TestCALL6Violations(t *testing.T) {
	for _, body := range lines(t, "violations.txt") {
		_, err := wire.Scan([]byte(body))
		require.ErrorIs(t, err, wire.ErrViolation, body)
	}
	for _, body := range []string{
		"", "\xef\xbb\xbf" + `{"type":"t","id":"i"}`, // BOM
		`{"type":"t","id":"` + "\xff" + `"}`,
		`{"type":"t","id":"` + "a\x00b" + `"}`,
		`{"type":"t","id":"i","payload":` + strings.Repeat("[", 10001) + strings.Repeat("]", 10001) + `}`,
	} {
		_, err := wire.Scan([]byte(body))
		require.ErrorIs(t, err, wire.ErrViolation, "%.40q", body)
	}
}

func TestCALL17LongestID(t *testing.T) {
	_, err := wire.Scan([]byte(`{"type":"t","id":"` + strings.Repeat("i", wire.MaxID) + `"}`))
	require.NoError(t, err)
	_, err = wire.Scan([]byte(`{"type":"t","id":"` + strings.Repeat("i", wire.MaxID+1) + `"}`))
	require.ErrorIs(t, err, wire.ErrViolation)
}

func TestCALL2FrameSizes(t *testing.T) {
	for name, c := range map[string]struct {
		stream []byte
		want   error
	}{
		"empty":        {[]byte{0, 0, 0, 0}, wire.ErrViolation},
		"over 64 MiB":  {[]byte{4, 0, 0, 1}, wire.ErrFrameTooLarge},
		"largest size": {[]byte{0xff, 0xff, 0xff, 0xff}, wire.ErrFrameTooLarge},
	} {
		_, _, err := wire.NewReader(bytes.NewReader(c.stream), 0).Next()
		require.ErrorIs(t, err, wire.ErrViolation, name)
		require.ErrorIs(t, err, c.want, name)
	}
	// CALL-4: a limit of one's own.
	_, _, err := wire.NewReader(bytes.NewReader(frame("12345")), 4).Next()
	require.ErrorIs(t, err, wire.ErrFrameTooLarge)
	_, _, err = wire.NewReader(bytes.NewReader(frame("1234")), 4).Next()
	require.NoError(t, err)
}

func TestCALL5EndInsideFrame(t *testing.T) {
	large := frame(strings.Repeat("x", 100_000))
	small := frame("abcdef")
	for _, whole := range [][]byte{small, large} {
		for _, n := range []int{1, 3, 4, 5, len(whole) - 1} {
			r := wire.NewReader(bytes.NewReader(whole[:n]), 0)
			_, _, err := r.Next()
			require.Equal(t, io.ErrUnexpectedEOF, err, "%d of %d", n, len(whole))
		}
	}
	_, _, err := wire.NewReader(bytes.NewReader(nil), 0).Next()
	require.Equal(t, io.EOF, err)
}

// A prefix that promises 64 MiB must not cost 64 MiB (CALL-4).
func TestCALL4NoAllocationOnTrust(t *testing.T) {
	stream := append([]byte{4, 0, 0, 0}, "little"...)
	const rounds = 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		_, _, err := wire.NewReader(bytes.NewReader(stream), 0).Next()
		require.Equal(t, io.ErrUnexpectedEOF, err)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, (after.TotalAlloc-before.TotalAlloc)/rounds, uint64(200<<10))
}

func TestReaderKeepsOrderAcrossSizes(t *testing.T) {
	var all []byte
	var sizes []int
	for n := 1; n < 300_000; n = n*3/2 + 1 {
		sizes = append(sizes, n, 7)
		all = append(all, frame(strings.Repeat("a", n))...)
		all = append(all, frame("1234567")...)
	}
	r := wire.NewReader(bytes.NewReader(all), 0)
	for _, n := range sizes {
		body, shared, err := r.Next()
		require.NoError(t, err)
		require.Len(t, body, n)
		require.Equal(t, n+wire.PrefixLen <= 64<<10, shared)
	}
}

func TestCALL3TooLargeToSend(t *testing.T) {
	big := bytes.Repeat([]byte{' '}, wire.MaxFrame)
	dst := []byte("before")
	out, err := wire.AppendOutput(dst, "r1", big)
	require.ErrorIs(t, err, wire.ErrFrameTooLarge)
	require.Equal(t, "before", string(out))
	out, err = wire.AppendRequest(dst, "r1", &wire.Request{Operation: "a", Input: big})
	require.ErrorIs(t, err, wire.ErrFrameTooLarge)
	require.Equal(t, "before", string(out))
	out, err = wire.AppendFailure(dst, "r1", &wire.Failure{Code: "C", Details: big})
	require.ErrorIs(t, err, wire.ErrFrameTooLarge)
	require.Equal(t, "before", string(out))
}

func TestCALL12RequestPayloads(t *testing.T) {
	id := &wire.Identity{ID: "a", Scopes: []string{"s"}, Resources: map[string][]string{"t": {"r"}}}
	for payload, want := range map[string]wire.Request{
		`{"operationId":"/a/b"}`:                                    {Operation: "/a/b", Input: []byte("null")},
		`{"operationId":"a/b","input":[1]}`:                         {Operation: "a/b", Input: []byte("[1]")},
		`{"operationId":"a","auth_token":null,"timeout_ms":null}`:   {Operation: "a", Input: []byte("null")},
		`{"operationId":"a","timeout_ms":99999999999999999999}`:     {Operation: "a", Input: []byte("null"), TimeoutMS: 1<<63 - 1},
		`{"operationId":"a","traceparent":3,"later":{"a":1,"a":2}}`: {Operation: "a", Input: []byte("null")},
		`{"operationId":"a","forwarded_for":{"id":"a","scopes":["s"],"resources":{"t":["r"]},"x":1}}`: {
			Operation: "a", Input: []byte("null"), ForwardedFor: id,
		},
		// Malformed claims are dropped.
		`{"operationId":"a","forwarded_for":{"id":"a","scopes":["s"]}}`:                      {Operation: "a", Input: []byte("null")},
		`{"operationId":"a","forwarded_for":{"id":"a","scopes":[1],"resources":{}}}`:         {Operation: "a", Input: []byte("null")},
		`{"operationId":"a","forwarded_for":"a"}`:                                            {Operation: "a", Input: []byte("null")},
		`{"operationId":"a","forwarded_for":{"id":"a","id":"b","scopes":[],"resources":{}}}`: {Operation: "a", Input: []byte("null")},
	} {
		got, err := wire.ParseRequest([]byte(payload))
		require.NoError(t, err, payload)
		require.Equal(t, want, got, payload)
	}
	for payload, want := range map[string]string{
		`{}`:                                   "missing required field: operationId",
		`{"operationId":7}`:                    "missing required field: operationId",
		`[]`:                                   "payload is not an object",
		`null`:                                 "payload is not an object",
		`{"operationId":"a","timeout_ms":0}`:   "timeout_ms is not a positive integer",
		`{"operationId":"a","timeout_ms":-1}`:  "timeout_ms is not a positive integer",
		`{"operationId":"a","timeout_ms":1.5}`: "timeout_ms is not a positive integer",
		`{"operationId":"a","window":"1"}`:     "window is not a positive integer",
		`{"operationId":"a","auth_token":1}`:   "auth_token is not a string",
	} {
		_, err := wire.ParseRequest([]byte(payload))
		require.Equal(t, wire.PayloadError(want), err, payload)
	}
	for _, payload := range []string{
		`{"operationId":"a","operationId":"b"}`,
		`{"operationId":"a","x":1,"\u0078":2}`,
		`{"operationId":"a","a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"h":2}`,
		`{"operationId":"a","a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"i":2}`,
	} {
		_, err := wire.ParseRequest([]byte(payload))
		require.ErrorIs(t, err, wire.ErrViolation, payload)
	}
}

func TestCALL15Failures(t *testing.T) {
	f, err := wire.ParseFailure([]byte(`{"code":"C","message":"m","retryable":true,"details":[1],"x":0}`))
	require.NoError(t, err)
	require.Equal(t, wire.Failure{Code: "C", Message: "m", Retryable: true, Details: []byte("[1]")}, f)
	_, err = wire.ParseFailure([]byte(`{"message":"m"}`))
	require.Equal(t, wire.PayloadError("code is not a non-empty string"), err)
	_, err = wire.ParseCredit([]byte(`{"items":0}`))
	require.Equal(t, wire.PayloadError("items is not a positive integer"), err)
}

// Our scanner and the JSON package agree on what JSON is.
func FuzzValid(f *testing.F) {
	for _, name := range []string{"violations.txt", "lenient.txt"} {
		for _, line := range lines(f, name) {
			f.Add([]byte(line))
		}
	}
	for _, s := range []string{
		`-0.0e+10`, `1e`, `[1,]`, `"\u00e9\ud83d\ude00"`, `"\ud83d"`, `"\ude00"`, "\"\x7f\"", "\"\x1f\"", `{"a":{"b":[true,false,null]}}`,
		" [ ] ", `"` + strings.Repeat("a", 20) + `\n` + strings.Repeat("é", 10) + `"`, "1 2", `{"a" 1}`, "\"\xc0\x80\"", "\"\xed\xa0\x80\"",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := jsontext.Value(b).IsValid(jsontext.AllowDuplicateNames(true))
		require.Equal(t, want, wire.Valid(b), "%q", b)
	})
}

func FuzzReader(f *testing.F) {
	for _, b := range goldenFrames(f) {
		f.Add(b, byte(3))
		f.Add(append(bytes.Clone(b), b[:len(b)/2]...), byte(200))
	}
	f.Add(frame(strings.Repeat("x", 70_000)), byte(9))
	f.Add([]byte{0, 0, 0, 0, 1}, byte(0))
	f.Fuzz(func(t *testing.T, stream []byte, step byte) {
		const limit = 1 << 17
		r := wire.NewReader(&stepReader{stream, int(step) + 1}, limit)
		rest := stream
		for {
			body, _, err := r.Next()
			if err != nil {
				checkEnd(t, rest, limit, err)
				return
			}
			require.Equal(t, binary.BigEndian.Uint32(rest), uint32(len(body)))
			require.Equal(t, rest[4:4+len(body)], body)
			rest = rest[4+len(body):]
		}
	})
}

// checkEnd compares the error of a reader with what is left of its stream.
func checkEnd(t *testing.T, rest []byte, limit uint32, err error) {
	t.Helper()
	switch {
	case len(rest) == 0:
		require.Equal(t, io.EOF, err)
	case len(rest) >= 4 && binary.BigEndian.Uint32(rest) == 0:
		require.ErrorIs(t, err, wire.ErrViolation)
	case len(rest) >= 4 && binary.BigEndian.Uint32(rest) > limit:
		require.ErrorIs(t, err, wire.ErrFrameTooLarge)
	default:
		require.Equal(t, io.ErrUnexpectedEOF, err)
	}
}

// stepReader reads at most step bytes at a time.
type stepReader struct {
	b    []byte
	step int
}

func (r *stepReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b[:min(r.step, len(r.b))])
	r.b = r.b[n:]
	return n, nil
}

// Whatever is accepted survives encoding and scanning again, and nothing that
// is accepted has a member twice where that is forbidden.
func FuzzEnvelope(f *testing.F) {
	for _, b := range goldenFrames(f) {
		f.Add(b[wire.PrefixLen:])
	}
	for _, name := range []string{"violations.txt", "lenient.txt"} {
		for _, line := range lines(f, name) {
			f.Add([]byte(line[strings.LastIndex(line, "\t")+1:]))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		env, err := wire.Scan(body)
		if err != nil {
			require.ErrorIs(t, err, wire.ErrViolation)
			return
		}
		require.True(t, jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true)))
		require.True(t, wire.Valid(env.Payload))
		require.NotEmpty(t, env.ID)
		if r, err := wire.ParseRequest(env.Payload); err == nil {
			r.Operation = strings.TrimPrefix(r.Operation, "/")
			frame, err := wire.AppendRequest(nil, string(env.ID), &r)
			require.NoError(t, err)
			second, err := wire.Scan(frame[wire.PrefixLen:])
			require.NoError(t, err)
			require.Equal(t, env.ID, second.ID)
			back, err := wire.ParseRequest(second.Payload)
			require.NoError(t, err)
			back.Operation = strings.TrimPrefix(back.Operation, "/")
			require.Equal(t, r, back)
		}
		if v, err := wire.ParseOutput(env.Payload); err == nil {
			require.True(t, wire.Valid(v))
		}
		if fl, err := wire.ParseFailure(env.Payload); err == nil {
			require.True(t, len(fl.Details) == 0 || wire.Valid(fl.Details))
		}
		if n, err := wire.ParseCredit(env.Payload); err == nil {
			require.Positive(t, n)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	body := goldenBody(b, 64)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		env, err := wire.Scan(body)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := wire.ParseRequest(env.Payload); err != nil {
			b.Fatal(err)
		}
	}
}

func goldenBody(b *testing.B, input int) []byte {
	b.Helper()
	frame, err := wire.AppendRequest(nil, "7b0e5c1e-5a52-4c0b-9d3a-0f7f1f6f2a11", &wire.Request{
		Operation: "node/echo", Input: []byte(`"` + strings.Repeat("x", input-2) + `"`),
	})
	require.NoError(b, err)
	return frame[wire.PrefixLen:]
}
