package adapt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

// CodeExecFailed is the declared error of every operation made by [Exec]: the
// program ended with an exit code other than 0. Its details are
// {"exit_code": n}; n is 128 + s when signal s ended the program.
const CodeExecFailed call.Code = "EXEC_FAILED"

// ExecPath is where [Exec] looks for programs named without a slash. It is
// fixed: no environment decides what runs.
const ExecPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ExecConfig describes an operation that runs a program.
type ExecConfig struct {
	// Name of the operation, CALL-57.
	Name string
	// Argv is the program and its arguments, always the same. Argv[0] is an
	// absolute path, or a name that is looked up in ExecPath by Exec.
	Argv []string
	// Type of the operation; "" is a query.
	Type call.OpType
	// Input is what the program reads; "" is InputJSON.
	Input Input
	// Output is what it writes; "" is OutputJSONL for a subscription,
	// which takes no other, and OutputJSON for the rest.
	Output Output
	// Scopes the caller needs, all of them; nil is "call:<Name>", empty but
	// not nil lets anyone call.
	Scopes []string
	// Timeout of a call, which callers may shorten; 0 is DefaultTimeout.
	// Subscriptions have none unless it is set.
	Timeout time.Duration
	// MaxOutput in bytes of one run, of a subscription of one line; 0 is
	// DefaultMaxOutput.
	MaxOutput int
	// MaxConcurrent runs at the same time; 0 is DefaultMaxConcurrent.
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

// Exec makes an operation that runs a program: a fixed argv without a shell,
// in the root folder, with an empty environment, no descriptor of ours but
// the three standard ones and that of its credential, in a process group of its
// own and, on Linux, with no way to gain privileges. When the call ends, however
// it does, the group gets SIGTERM and half a second later SIGKILL; a program that
// ends leaves nobody of its group behind.
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
}

func newExec(cfg ExecConfig) (call.Operation, error) {
	if err := supported(); err != nil {
		return call.Operation{}, err
	}
	s := service{
		name: cfg.Name, typ: cfg.Type, input: cfg.Input, output: cfg.Output, scopes: cfg.Scopes,
		timeout: cfg.Timeout, maxOutput: cfg.MaxOutput, maxConcurrent: cfg.MaxConcurrent, credential: cfg.Credential,
		inputSchema: cfg.InputSchema, outputSchema: cfg.OutputSchema, log: cfg.Logger,
		errors: []call.ErrorSpec{{
			Code:        CodeExecFailed,
			Description: "the program ended with an exit code other than 0",
			Schema:      json.RawMessage(`{"type":"object","properties":{"exit_code":{"type":"integer"}},"required":["exit_code"]}`),
		}},
	}
	if err := s.setDefaults(); err != nil {
		return call.Operation{}, err
	}
	path, err := lookProgram(cfg.Argv)
	if err != nil {
		return call.Operation{}, &FieldError{"Argv", err}
	}
	p := &program{op: s.name, path: path, argv: slices.Clone(cfg.Argv), log: s.log}
	s.run = p.serve
	return s.operation(), nil
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

// serve runs the program for one request.
func (p *program) serve(ctx context.Context, req *call.Request, secret []byte, consume func(io.Reader) error) error {
	var stdin []byte
	if req.Input != nil {
		stdin = append(slices.Clone(req.Input), '\n')
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
