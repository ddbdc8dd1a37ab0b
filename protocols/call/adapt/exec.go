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
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// CodeExecFailed is the declared error of every operation made by [Exec]: the
// program ended with an exit code other than 0. Its details are
// {"exit_code": n}; n is 128 + s when signal s ended the program.
const CodeExecFailed call.Code = "EXEC_FAILED"

// ExecPath is where [Exec] looks for programs named without a slash. It is
// fixed: no environment decides what runs.
const ExecPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Defaults of [ExecConfig].
const (
	DefaultExecTimeout       = 30 * time.Second
	DefaultExecMaxOutput     = 1 << 20
	DefaultExecMaxConcurrent = 4
)

// ExecInput says what a program gets on its standard input.
type ExecInput string

const (
	// ExecInputJSON gives it the call's input, one JSON value.
	ExecInputJSON ExecInput = "json"
	// ExecInputNone gives it nothing: its standard input is empty.
	ExecInputNone ExecInput = "none"
)

// ExecOutput says how a program's standard output becomes the result.
type ExecOutput string

const (
	// ExecOutputJSON takes the whole output as one JSON value.
	ExecOutputJSON ExecOutput = "json"
	// ExecOutputJSONL takes every line as one item of a subscription.
	ExecOutputJSONL ExecOutput = "jsonl"
	// ExecOutputText gives {"text": "…"}; what is not UTF-8 is replaced.
	ExecOutputText ExecOutput = "text"
)

// ExecConfig describes an operation that runs a program.
type ExecConfig struct {
	// Name of the operation, CALL-57.
	Name string
	// Argv is the program and its arguments, always the same. Argv[0] is an
	// absolute path, or a name that is looked up in ExecPath by Exec.
	Argv []string
	// Type of the operation; "" is a query.
	Type call.OpType
	// Input is what the program reads; "" is ExecInputJSON.
	Input ExecInput
	// Output is what it writes; "" is ExecOutputJSONL for a subscription,
	// which takes no other, and ExecOutputJSON for the rest.
	Output ExecOutput
	// Scopes the caller needs, all of them; nil is "call:<Name>", empty but
	// not nil lets anyone call.
	Scopes []string
	// Timeout of a call, which callers may shorten; 0 is DefaultExecTimeout.
	// Subscriptions have none unless it is set.
	Timeout time.Duration
	// MaxOutput in bytes of one run, of a subscription of one line; 0 is
	// DefaultExecMaxOutput.
	MaxOutput int
	// MaxConcurrent runs at the same time; 0 is DefaultExecMaxConcurrent.
	// One more fails at once, and may be tried again.
	MaxConcurrent int
	// Credential names the service whose secret, of the operation's
	// Capabilities (CALL-67), the program reads from descriptor 3 to its end;
	// "" is none. A call fails when there is no such secret.
	Credential string
	// InputSchema and OutputSchema are JSON Schemas; nil takes what Input and
	// Output imply.
	InputSchema, OutputSchema json.RawMessage
	// Logger gets what the programs write to standard error, within bounds;
	// nil is silent.
	Logger *slog.Logger
}

// FieldError says which field of an [ExecConfig] cannot stand.
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

// Exec makes an operation that runs a program: a fixed argv without a shell,
// in the root folder, with an empty environment, no descriptor of ours but
// the three standard ones and that of its credential, in a process group of its
// own and, on Linux, with no way to gain privileges. When the call ends, however it does, the group
// gets SIGTERM and half a second later SIGKILL; a program that ends leaves
// nobody of its group behind.
//
// Exec fails with a *FieldError on a bad configuration or a program that is
// not there, and on systems without process groups.
func Exec(cfg ExecConfig) (call.Operation, error) {
	op, err := newExec(cfg)
	if err != nil {
		return call.Operation{}, fmt.Errorf("operation %s: %w", cfg.Name, err)
	}
	return op, nil
}

// program is what one operation runs.
type program struct {
	op   string
	path string
	argv []string
	log  *slog.Logger

	input      ExecInput
	credential string
	maxOutput  int
	slots      chan struct{}
}

func newExec(cfg ExecConfig) (call.Operation, error) {
	if err := supported(); err != nil {
		return call.Operation{}, err
	}
	if err := cfg.setDefaults(); err != nil {
		return call.Operation{}, err
	}
	path, err := lookProgram(cfg.Argv)
	if err != nil {
		return call.Operation{}, &FieldError{"Argv", err}
	}
	p := &program{
		op:         cfg.Name,
		path:       path,
		argv:       append([]string(nil), cfg.Argv...),
		log:        cfg.Logger,
		input:      cfg.Input,
		credential: cfg.Credential,
		maxOutput:  cfg.MaxOutput,
		slots:      make(chan struct{}, cfg.MaxConcurrent),
	}
	op := call.Operation{Spec: cfg.spec(), Timeout: cfg.Timeout}
	switch cfg.Output {
	case ExecOutputJSONL:
		op.Stream = call.StreamHandlerFunc(p.lines)
	case ExecOutputText:
		op.Handler = call.HandlerFunc(p.text)
	default:
		op.Handler = call.HandlerFunc(p.value)
	}
	return op, nil
}

// setDefaults fills what is not set and refuses what does not fit together.
func (cfg *ExecConfig) setDefaults() error {
	if cfg.Type == "" {
		cfg.Type = call.OpQuery
	}
	if cfg.Input == "" {
		cfg.Input = ExecInputJSON
	}
	stream := cfg.Type == call.OpSubscription
	if cfg.Output == "" {
		cfg.Output = ExecOutputJSON
		if stream {
			cfg.Output = ExecOutputJSONL
		}
	}
	if cfg.Timeout == 0 && !stream {
		cfg.Timeout = DefaultExecTimeout
	}
	if cfg.MaxOutput == 0 {
		cfg.MaxOutput = DefaultExecMaxOutput
	}
	if cfg.MaxConcurrent == 0 {
		cfg.MaxConcurrent = DefaultExecMaxConcurrent
	}
	if cfg.Scopes == nil {
		cfg.Scopes = []string{"call:" + cfg.Name}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch cfg.Type {
	case call.OpQuery, call.OpMutation, call.OpSubscription:
	default:
		return fieldErrorf("Type", "type %q is not query, mutation or subscription", cfg.Type)
	}
	switch cfg.Input {
	case ExecInputJSON, ExecInputNone:
	default:
		return fieldErrorf("Input", "input %q is not json or none", cfg.Input)
	}
	switch cfg.Output {
	case ExecOutputJSON, ExecOutputText, ExecOutputJSONL:
	default:
		return fieldErrorf("Output", "output %q is not json, jsonl or text", cfg.Output)
	}
	switch {
	case stream && cfg.Output != ExecOutputJSONL:
		return fieldErrorf("Output", "output %q: a subscription gives jsonl", cfg.Output)
	case !stream && cfg.Output == ExecOutputJSONL:
		return fieldErrorf("Output", "output jsonl: only a subscription gives that")
	case cfg.Timeout < 0:
		return fieldErrorf("Timeout", "timeout %v is negative", cfg.Timeout)
	case cfg.MaxOutput < 0:
		return fieldErrorf("MaxOutput", "max output %d is negative", cfg.MaxOutput)
	case cfg.MaxConcurrent < 0:
		return fieldErrorf("MaxConcurrent", "max concurrent %d is negative", cfg.MaxConcurrent)
	}
	if cfg.InputSchema == nil {
		cfg.InputSchema = json.RawMessage(`{}`)
		if cfg.Input == ExecInputNone {
			cfg.InputSchema = json.RawMessage(`{"type":["object","null"],"additionalProperties":false}`)
		}
	}
	if cfg.OutputSchema == nil {
		cfg.OutputSchema = json.RawMessage(`{}`)
		if cfg.Output == ExecOutputText {
			cfg.OutputSchema = json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}`)
		}
	}
	return nil
}

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{field, fmt.Errorf(format, args...)}
}

func (cfg *ExecConfig) spec() call.Spec {
	return call.Spec{
		Name:         cfg.Name,
		Type:         cfg.Type,
		Visibility:   call.External,
		InputSchema:  cfg.InputSchema,
		OutputSchema: cfg.OutputSchema,
		Errors: []call.ErrorSpec{{
			Code:        CodeExecFailed,
			Description: "the program ended with an exit code other than 0",
			Schema:      json.RawMessage(`{"type":"object","properties":{"exit_code":{"type":"integer"}},"required":["exit_code"]}`),
		}},
		Access: auth.Access{RequiredScopes: cfg.Scopes},
	}
}

// lookProgram finds argv[0], once and for all.
func lookProgram(argv []string) (string, error) {
	if len(argv) == 0 || argv[0] == "" {
		return "", errors.New("exec names no program")
	}
	for _, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return "", errors.New("exec has an argument with a zero byte")
		}
	}
	name := argv[0]
	if strings.ContainsRune(name, '/') {
		if !filepath.IsAbs(name) {
			return "", fmt.Errorf("exec %s: neither an absolute path nor a plain name", name)
		}
		return name, executable(name)
	}
	for dir := range strings.SplitSeq(ExecPath, ":") {
		path := dir + "/" + name
		if executable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("exec %s: no such program in %s", name, ExecPath)
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("exec %s: %w", path, errors.Unwrap(err))
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("exec %s: not a program", path)
	}
	return nil
}

// value runs the program once and takes its output as one JSON value.
func (p *program) value(ctx context.Context, req *call.Request) (any, error) {
	out, err := p.output(ctx, req)
	if err != nil {
		return nil, err
	}
	value := jsontext.Value(bytes.TrimSpace(out))
	if !value.IsValid() {
		return nil, errNotJSON()
	}
	return json.RawMessage(value), nil
}

// text runs the program once and takes its output as text.
func (p *program) text(ctx context.Context, req *call.Request) (any, error) {
	out, err := p.output(ctx, req)
	if err != nil {
		return nil, err
	}
	return struct {
		Text string `json:"text"`
	}{strings.ToValidUTF8(string(out), "\ufffd")}, nil
}

// lines runs the program and emits every line it writes.
func (p *program) lines(ctx context.Context, req *call.Request, emit func(any) error) error {
	return p.execute(ctx, req, func(r io.Reader) error {
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 0, min(4096, p.maxOutput)), p.maxOutput)
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
			return p.errTooLarge("a line")
		}
		return lines.Err()
	})
}

func (p *program) output(ctx context.Context, req *call.Request) ([]byte, error) {
	var out bytes.Buffer
	err := p.execute(ctx, req, func(r io.Reader) error {
		n, err := out.ReadFrom(io.LimitReader(r, int64(p.maxOutput)+1))
		if err == nil && n > int64(p.maxOutput) {
			err = p.errTooLarge("the output")
		}
		return err
	})
	return out.Bytes(), err
}

// execute runs the program if there is room for one more, and says what went
// wrong in the caller's terms.
func (p *program) execute(ctx context.Context, req *call.Request, consume func(io.Reader) error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	default:
		return &call.Error{
			Code:      call.CodeInternal,
			Message:   "too many runs at the same time",
			Retryable: true,
			Details:   json.RawMessage(`{"reason":"overloaded"}`),
		}
	}
	var stdin []byte
	if p.input == ExecInputJSON {
		stdin = append(stdin, req.Input...)
		if len(stdin) == 0 {
			stdin = append(stdin, "null"...)
		}
		stdin = append(stdin, '\n')
	}
	var secret []byte
	if p.credential != "" {
		var ok bool
		if secret, ok = req.Capabilities.Get(p.credential); !ok {
			return fmt.Errorf("the credential %q is not there", p.credential)
		}
	}
	code, err := p.run(ctx, stdin, secret, consume)
	if err != nil || code == 0 {
		return err
	}
	return call.Errorf(CodeExecFailed, "the program ended with exit code %d", code).
		WithDetails(execFailed{code})
}

// execFailed is the details of CodeExecFailed.
type execFailed struct {
	ExitCode int `json:"exit_code"`
}

func errNotJSON() error {
	return call.Errorf(call.CodeInternal, "the program's output is not JSON")
}

func (p *program) errTooLarge(what string) error {
	return call.Errorf(call.CodeInternal, "%s of the program exceeds %d bytes", what, p.maxOutput)
}
