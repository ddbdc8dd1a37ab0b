package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/vault"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitDenied      = 4
	exitNoDaemon    = 5 // or the vault stays locked
	exitTimeout     = 6
	exitInterrupted = 130
)

// Codes of failures that happen here and not at a peer.
const (
	codeFailed      = "FAILED"
	codeUsage       = "USAGE"
	codeConfig      = "CONFIG"
	codeUnreachable = "UNREACHABLE"
	codeForbidden   = "FORBIDDEN"
	codeNoDaemon    = "NO_DAEMON"
	codeVaultLocked = "VAULT_LOCKED"
	codeNoVault     = "NO_VAULT"
	codeExists      = "EXISTS"
	codeCorrupt     = "VAULT_CORRUPT"
	codeWrongWords  = "WRONG_WORDS"
	codeNoSecret    = "NO_CREDENTIAL" //nolint:gosec // an error's code
	codeIncomplete  = "INCOMPLETE"
	codeRunning     = "ALREADY_RUNNING"
	codePortTaken   = "PORT_TAKEN"
	codeTimeout     = "TIMEOUT"
	codeInterrupted = "INTERRUPTED"
)

// failure is an error as its user sees it: one line that says what and what to
// do next, a code for programs, and the exit code of the command.
type failure struct {
	Code      string          `json:"code"`
	Message   string          `json:"message"`
	Retryable bool            `json:"retryable"`
	Details   json.RawMessage `json:"details"`

	exit   int
	called bool // an operation answered it, so the code is part of the answer
}

// Error implements error.
func (f *failure) Error() string {
	if f.called {
		return f.Code + ": " + f.Message
	}
	return f.Message
}

func failf(exit int, code, format string, args ...any) *failure {
	return &failure{exit: exit, Code: code, Message: fmt.Sprintf(format, args...)}
}

func usagef(format string, args ...any) *failure { return failf(exitUsage, codeUsage, format, args...) }

// fail prints err in the form asked for and returns the exit code.
func (a *app) fail(ctx context.Context, err error) int {
	f, ok := errors.AsType[*failure](err)
	switch {
	case ok:
	case ctx.Err() != nil:
		f = failf(exitInterrupted, codeInterrupted, "interrupted")
	default:
		f = asFailure(err)
	}
	if a.json {
		_ = writeJSON(a.err, map[string]*failure{"error": f})
	} else {
		a.tellf("alknet-p2p: %s", oneLine(f.Error()))
	}
	return f.exit
}

// asFailure finds or makes the failure of an error.
func asFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if config, ok := errors.AsType[*configError](err); ok {
		return failf(exitUsage, codeConfig, "%s", config)
	}
	if called, ok := errors.AsType[*call.Error](err); ok {
		return callFailure(called)
	}
	return localFailure(err)
}

// callFailure is what an operation answered; its code is the operation's own.
func callFailure(e *call.Error) *failure {
	f := &failure{
		Code:      string(e.Code),
		Message:   e.Message,
		Retryable: e.Retryable,
		Details:   e.Details,
		exit:      exitFailed,
		called:    true,
	}
	switch e.Code {
	case call.CodeForbidden:
		f.exit = exitDenied
	case call.CodeTimeout:
		f.exit = exitTimeout
	}
	return f
}

// localFailure gives the errors of the packages below their exit codes.
func localFailure(err error) *failure {
	exit, code := exitFailed, codeFailed
	switch {
	case errors.Is(err, vault.ErrWrongPassphrase), errors.Is(err, vault.ErrBIP39PassphraseMissing),
		errors.Is(err, vault.ErrWrongIdentity), errors.Is(err, vault.ErrLocked):
		exit, code = exitNoDaemon, codeVaultLocked
	case errors.Is(err, vault.ErrCorruptFile), errors.Is(err, vault.ErrUnsupported):
		code = codeCorrupt
	case errors.Is(err, vault.ErrNoVault):
		code = codeNoVault
	case errors.Is(err, vault.ErrNoCredential):
		code = codeNoSecret
	case errors.Is(err, vault.ErrExists):
		code = codeExists
	case errors.Is(err, vault.ErrCredentialName), errors.Is(err, vault.ErrInvalidPath),
		errors.Is(err, vault.ErrWorkFactor), errors.Is(err, vault.ErrPassphrase):
		exit, code = exitUsage, codeUsage
	case errors.Is(err, peerfile.ErrInvalid):
		exit, code = exitUsage, codeConfig
	case errors.Is(err, transport.ErrClosed): // while it was asked
		return failf(exit, code, "the node has stopped")
	case errors.Is(err, transport.ErrBind) && errors.Is(err, os.ErrPermission):
		return failf(exitFailed, codeFailed, "%s; ports below 1024 take root or CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)", err)
	case errors.Is(err, transport.ErrListen443):
		return failf(exitFailed, codePortTaken, "%s; stop what has the port, or do without --listen-443 (listen_443 in the configuration)", err)
	case errors.Is(err, transport.ErrBind):
		return failf(exitFailed, codePortTaken, "%s; choose another with --listen", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		exit, code = exitTimeout, codeTimeout
	}
	return failf(exit, code, "%s", err)
}
