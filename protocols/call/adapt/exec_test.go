//go:build unix

package adapt_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
)

// sh makes an operation of a shell script; the shell is the program here, as
// any other would be.
func sh(t *testing.T, cfg adapt.ExecConfig, script string, args ...string) call.Operation {
	t.Helper()
	cfg.Argv = append([]string{"sh", "-c", script, "sh"}, args...)
	if cfg.Name == "" {
		cfg.Name = "test/op"
	}
	op, err := adapt.Exec(cfg)
	require.NoError(t, err)
	return op
}

func once(ctx context.Context, op call.Operation, input string) (string, error) {
	out, err := op.Handler.Call(ctx, &call.Request{Input: json.RawMessage(input)})
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(out)
	return string(b), err
}

func TestOutputs(t *testing.T) {
	for _, c := range []struct {
		output adapt.Output
		script string
		want   string
	}{
		{adapt.OutputJSON, `echo ' {"a": 12345678901234567890, "b": [1]} '`, `{"a":12345678901234567890,"b":[1]}`},
		{adapt.OutputJSON, `echo 'null'`, `null`},
		{adapt.OutputText, `printf 'a\nb'`, `{"text":"a\nb"}`},
		{adapt.OutputText, `printf '\377x'`, "{\"text\":\"\ufffdx\"}"},
		{adapt.OutputText, `true`, `{"text":""}`},
	} {
		got, err := once(t.Context(), sh(t, adapt.ExecConfig{Output: c.output}, c.script), `{}`)
		require.NoError(t, err, c.script)
		require.Equal(t, c.want, got, c.script)
	}
}

// The operation of the README's example: the table of df as JSON.
func TestDiskFree(t *testing.T) {
	want, err := exec.Command("df", "-P").Output()
	require.NoError(t, err)
	op, err := adapt.Exec(adapt.ExecConfig{
		Name: "disk/free", Argv: []string{"df", "-P"},
		Input: adapt.InputNone, Output: adapt.OutputText,
	})
	require.NoError(t, err)
	out, err := op.Handler.Call(t.Context(), &call.Request{Input: json.RawMessage(`{}`)})
	require.NoError(t, err)
	b, err := json.Marshal(out)
	require.NoError(t, err)
	var got struct{ Text string }
	require.NoError(t, json.Unmarshal(b, &got))
	header, _, _ := strings.Cut(string(want), "\n")
	require.Contains(t, header, "Filesystem")
	require.True(t, strings.HasPrefix(got.Text, header+"\n"), got.Text)
	require.Equal(t, strings.Count(string(want), "\n"), strings.Count(got.Text, "\n"))
}

func TestInput(t *testing.T) {
	echo := sh(t, adapt.ExecConfig{}, `cat`)
	got, err := once(t.Context(), echo, `{"n":12345678901234567890}`)
	require.NoError(t, err)
	require.Equal(t, `{"n":12345678901234567890}`, got)

	// More than a pipe holds, both ways.
	big := `"` + strings.Repeat("x", 300_000) + `"`
	got, err = once(t.Context(), echo, big)
	require.NoError(t, err)
	require.Equal(t, big, got)

	// A program that does not read it.
	got, err = once(t.Context(), sh(t, adapt.ExecConfig{}, `echo 1`), big)
	require.NoError(t, err)
	require.Equal(t, `1`, got)

	none := sh(t, adapt.ExecConfig{Input: adapt.InputNone, Output: adapt.OutputText}, `cat`)
	got, err = once(t.Context(), none, `{}`)
	require.NoError(t, err)
	require.Equal(t, `{"text":""}`, got)
}

// CALL-53: the declared error, with the exit code or the signal.
func TestExecFailed(t *testing.T) {
	for script, code := range map[string]int{
		`exit 3`:            3,
		`kill -KILL $$`:     128 + 9,
		`echo '{}'; exit 1`: 1,
	} {
		op := sh(t, adapt.ExecConfig{}, script)
		_, err := once(t.Context(), op, `{}`)
		var failed *call.Error
		require.ErrorAs(t, err, &failed, script)
		require.Equal(t, adapt.CodeExecFailed, failed.Code)
		require.JSONEq(t, fmt.Sprintf(`{"exit_code":%d}`, code), string(failed.Details))
		require.False(t, failed.Retryable)
		require.Equal(t, adapt.CodeExecFailed, op.Spec.Errors[0].Code)
	}
}

func TestOutputIsBoundedAndChecked(t *testing.T) {
	within, err := once(t.Context(), sh(t, adapt.ExecConfig{Output: adapt.OutputText, MaxOutput: 4}, `printf 1234`), `{}`)
	require.NoError(t, err)
	require.Equal(t, `{"text":"1234"}`, within)

	for _, op := range []call.Operation{
		sh(t, adapt.ExecConfig{Output: adapt.OutputText, MaxOutput: 4}, `printf 12345; sleep 100`),
		sh(t, adapt.ExecConfig{Output: adapt.OutputText}, `yes`),
	} {
		_, err := once(t.Context(), op, `{}`)
		require.ErrorIs(t, err, call.ErrInternal)
		require.ErrorContains(t, err, "exceeds")
	}
	for _, text := range []string{``, `{`, `{} {}`, `{"a":1,"a":2}`, `hello`} {
		_, err := once(t.Context(), sh(t, adapt.ExecConfig{}, `printf %s "$1"`, text), `{}`)
		require.ErrorContains(t, err, "not JSON", text)
	}
}

// CALL-67: a program reads the secret it may use from descriptor 3, and finds
// it nowhere else.
func TestCredential(t *testing.T) {
	secret := "s3cr3t\n" + strings.Repeat("x", 100_000) // more than a pipe holds
	caps := call.Capabilities{}.WithAPIKey("github", []byte(secret))
	with := func(op call.Operation, caps call.Capabilities) (any, error) {
		return op.Handler.Call(t.Context(), &call.Request{Input: json.RawMessage(`{}`), Capabilities: caps})
	}
	text := func(cfg adapt.ExecConfig, script string) string {
		cfg.Output, cfg.Input = adapt.OutputText, adapt.InputNone
		out, err := with(sh(t, cfg, script), caps)
		require.NoError(t, err)
		b, err := json.Marshal(out)
		require.NoError(t, err)
		var got struct{ Text string }
		require.NoError(t, json.Unmarshal(b, &got))
		return got.Text
	}
	github := adapt.ExecConfig{Credential: "github"}
	require.Equal(t, secret, text(github, `cat <&3`))
	require.Equal(t, secret, text(github, `cat <&3`), "again")
	require.Equal(t, "not read\n", text(github, `echo not read`))
	require.NotContains(t, text(github, `env; echo "$0 $*"; cat <&0`), "s3cr3t")
	require.Equal(t, "none\n", text(adapt.ExecConfig{}, `(: <&3) 2>/dev/null || echo none`), "a program that names none gets none")

	_, err := with(sh(t, adapt.ExecConfig{Credential: "gitlab"}, `echo 1`), caps)
	require.ErrorContains(t, err, `the credential "gitlab" is not there`)
	require.NoError(t, caps.Close())
	_, err = with(sh(t, github, `echo 1`), caps)
	require.Error(t, err, "after it was wiped")
}

func TestNothingIsInherited(t *testing.T) {
	t.Setenv("ALKNET_SECRET", "42")
	got, err := once(t.Context(), sh(t, adapt.ExecConfig{Output: adapt.OutputText}, `exec env`), `{}`)
	require.NoError(t, err)
	require.NotContains(t, got, "ALKNET_SECRET")
	require.NotContains(t, got, "PATH=/usr/local/go")
	require.NotContains(t, got, "HOME")

	// A descriptor that is not close-on-exec, as a careless parent leaves it.
	file, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer file.Close()
	leaky, err := syscall.Dup(int(file.Fd()))
	require.NoError(t, err)
	defer syscall.Close(leaky)
	op, err := adapt.Exec(adapt.ExecConfig{Name: "fd/list", Argv: []string{"ls", "/dev/fd/"}, Output: adapt.OutputText})
	require.NoError(t, err)
	got, err = once(t.Context(), op, `{}`)
	require.NoError(t, err)
	require.Equal(t, `{"text":"0\n1\n2\n3\n"}`, got, "the fourth is ls's own")

	got, err = once(t.Context(), sh(t, adapt.ExecConfig{Output: adapt.OutputText}, `pwd`), `{}`)
	require.NoError(t, err)
	require.Equal(t, `{"text":"/\n"}`, got)
}

func TestConcurrency(t *testing.T) {
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	op := sh(t, adapt.ExecConfig{Output: adapt.OutputText, MaxConcurrent: 2},
		`echo >"$1/$$"; until [ -e "$2" ]; do sleep 0.01; done`, dir, gate)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			_, err := once(t.Context(), op, `{}`)
			assert.NoError(t, err)
		})
	}
	await(t, func() bool { entries, _ := os.ReadDir(dir); return len(entries) == 2 })
	_, err := once(t.Context(), op, `{}`)
	var over *call.Error
	require.ErrorAs(t, err, &over)
	require.Equal(t, call.CodeInternal, over.Code)
	require.True(t, over.Retryable)
	require.JSONEq(t, `{"reason":"overloaded"}`, string(over.Details))

	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	wg.Wait()
	got, err := once(t.Context(), op, `{}`)
	require.NoError(t, err, "the places are free again")
	require.Equal(t, `{"text":""}`, got)
}

// A cancelled program gets SIGTERM, and SIGKILL when it does not listen; the
// whole group is gone when the call returns.
func TestCancel(t *testing.T) {
	for name, script := range map[string]string{
		"listens":       `echo $$ >"$1"; exec sleep 100`,
		"ignores":       `trap '' TERM; echo $$ >"$1"; while :; do sleep 100; done`,
		"grandchildren": `trap '' TERM; (sleep 100 & echo $$ >"$1"; wait) & wait; sleep 100`,
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			op := sh(t, adapt.ExecConfig{Output: adapt.OutputText}, script, file)
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() { _, err := once(ctx, op, `{}`); done <- err }()
			group := readPID(t, file)
			gone := errors.New("caller is gone")
			at := time.Now()
			cancel(gone)
			require.ErrorIs(t, <-done, gone)
			require.Less(t, time.Since(at), 2*time.Second)
			requireNoGroup(t, group)
		})
	}
}

// A program that ends leaves nobody of its group behind, and nobody who left
// the group but kept the pipes holds the call open.
func TestNothingIsLeftBehind(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	op := sh(t, adapt.ExecConfig{Output: adapt.OutputText}, `sleep 100 & echo $$ >"$1"; echo done`, file)
	got, err := once(t.Context(), op, `{}`)
	require.NoError(t, err)
	require.Equal(t, `{"text":"done\n"}`, got)
	requireNoGroup(t, readPID(t, file))

	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("no setsid on this system")
	}
	op = sh(t, adapt.ExecConfig{Output: adapt.OutputText}, `setsid sleep 100 & echo $! >"$1"; echo done`, file)
	at := time.Now()
	got, err = once(t.Context(), op, `"`+strings.Repeat("x", 200_000)+`"`)
	require.NoError(t, err)
	require.Equal(t, `{"text":"done\n"}`, got)
	require.Less(t, time.Since(at), 10*time.Second)
	require.NoError(t, syscall.Kill(readPID(t, file), syscall.SIGKILL))
}

func TestSubscription(t *testing.T) {
	cfg := adapt.ExecConfig{Type: call.OpSubscription}
	stream := func(ctx context.Context, op call.Operation, emit func(string) error) error {
		return op.Stream.Stream(ctx, &call.Request{Input: json.RawMessage(`{}`)}, func(v any) error {
			return emit(string(v.(json.RawMessage)))
		})
	}
	collect := func(op call.Operation) (items []string, err error) {
		err = stream(t.Context(), op, func(v string) error { items = append(items, v); return nil })
		return items, err
	}

	items, err := collect(sh(t, cfg, `echo '{"n":1}'; echo; echo ' [2] '; printf 3`))
	require.NoError(t, err)
	require.Equal(t, []string{`{"n":1}`, `[2]`, `3`}, items)

	items, err = collect(sh(t, cfg, `echo 1; exit 7`))
	require.Equal(t, []string{`1`}, items)
	var failed *call.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, adapt.CodeExecFailed, failed.Code)

	items, err = collect(sh(t, cfg, `echo 1; echo oops; sleep 100`))
	require.Equal(t, []string{`1`}, items)
	require.ErrorContains(t, err, "not JSON")

	short := cfg
	short.MaxOutput = 8
	items, err = collect(sh(t, short, `echo 1; echo 123456789; sleep 100`))
	require.Equal(t, []string{`1`}, items)
	require.ErrorContains(t, err, "a line of the output exceeds 8 bytes")

	// What the program wrote before it ended reaches a slow subscriber.
	slow := 0
	err = stream(t.Context(), sh(t, cfg, `i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); done`), func(v string) error {
		if slow == 0 {
			time.Sleep(300 * time.Millisecond) // the program is over long before
		}
		require.Equal(t, strconv.Itoa(slow), v)
		slow++
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1000, slow)
}

func TestSubscriptionEndsItsGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	op := sh(t, adapt.ExecConfig{Type: call.OpSubscription},
		`echo $$ >"$1"; trap '' TERM; while :; do echo 1; sleep 0.01; done`, file)
	ctx, cancel := context.WithCancel(t.Context())
	var at time.Time
	n := 0
	err := op.Stream.Stream(ctx, &call.Request{}, func(any) error {
		if n++; n == 3 {
			at = time.Now()
			cancel()
		}
		return ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(at), time.Second)
	requireNoGroup(t, readPID(t, file))
}

func TestStandardErrorIsLoggedWithinBounds(t *testing.T) {
	var log bytes.Buffer
	op := sh(t, adapt.ExecConfig{
		Name: "noisy/op", Output: adapt.OutputText,
		Logger: slog.New(slog.NewJSONHandler(&log, nil)),
	}, `echo 'it broke' >&2; yes 0123456789 | head -c 1000000 >&2; echo fine`)
	got, err := once(t.Context(), op, `{}`)
	require.NoError(t, err)
	require.Equal(t, `{"text":"fine\n"}`, got)

	lines := bufio.NewScanner(&log)
	n := 0
	for ; lines.Scan(); n++ {
		var record struct{ Op, Line string }
		require.NoError(t, json.Unmarshal(lines.Bytes(), &record))
		require.Equal(t, "noisy/op", record.Op)
		if n == 0 {
			require.Equal(t, "it broke", record.Line)
		}
	}
	require.Equal(t, 64, n)
}

func TestRefusals(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n"), 0o600))
	for want, cfg := range map[string]adapt.ExecConfig{
		"Argv: exec names no program":  {},
		"Argv: exec no-such-program:":  {Argv: []string{"no-such-program"}},
		"Argv: exec /no/such/program:": {Argv: []string{"/no/such/program"}},
		"Argv: exec " + script:         {Argv: []string{script}},
		"Argv: exec ./sh:":             {Argv: []string{"./sh"}},
		"Argv: exec has an argument":   {Argv: []string{"sh", "a\x00b"}},
		`Type: type "stream"`:          {Argv: []string{"sh"}, Type: "stream"},
		`Input: input "xml"`:           {Argv: []string{"sh"}, Input: "xml"},
		`Output: output "xml"`:         {Argv: []string{"sh"}, Output: "xml"},
		`Output: output jsonl`:         {Argv: []string{"sh"}, Output: adapt.OutputJSONL},
		`Output: output "text"`:        {Argv: []string{"sh"}, Output: adapt.OutputText, Type: call.OpSubscription},
		"Timeout: timeout":             {Argv: []string{"sh"}, Timeout: -1},
		"MaxOutput: max output":        {Argv: []string{"sh"}, MaxOutput: -1},
		"MaxConcurrent: max":           {Argv: []string{"sh"}, MaxConcurrent: -1},
	} {
		cfg.Name = "test/op"
		_, err := adapt.Exec(cfg)
		require.ErrorContains(t, err, "operation test/op: ", want)
		var field *adapt.FieldError
		require.ErrorAs(t, err, &field)
		require.True(t, strings.HasPrefix(field.Field+": "+field.Error(), want), "%s: %s", field.Field, field)
	}
}

func TestSpec(t *testing.T) {
	op := sh(t, adapt.ExecConfig{Name: "disk/free", Input: adapt.InputNone, Output: adapt.OutputText}, `true`)
	require.Equal(t, call.OpQuery, op.Spec.Type)
	require.Equal(t, call.External, op.Spec.Visibility)
	require.Equal(t, []string{"call:disk/free"}, op.Spec.Access.RequiredScopes)
	require.Error(t, op.Spec.Access.Check(nil), "one scope is required")
	require.Equal(t, adapt.DefaultTimeout, op.Timeout)

	open := sh(t, adapt.ExecConfig{Scopes: []string{}}, `true`)
	require.NoError(t, open.Spec.Access.Check(nil), "anyone")

	stream := sh(t, adapt.ExecConfig{Type: call.OpSubscription}, `true`)
	require.Zero(t, stream.Timeout)
	require.Nil(t, stream.Handler)
}

// readPID waits until the script has written its process ID.
func readPID(t *testing.T, file string) (pid int) {
	t.Helper()
	await(t, func() bool {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid != 0
	})
	return pid
}

// requireNoGroup checks that no process of the group is left. A killed one
// that its new parent has not collected yet is none.
func requireNoGroup(t *testing.T, group int) {
	t.Helper()
	await(t, func() bool { return errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) || onlyZombies(group) })
}

func onlyZombies(group int) bool {
	out, err := exec.Command("ps", "-A", "-o", "pgid=,stat=").Output()
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == strconv.Itoa(group) && !strings.HasPrefix(f[1], "Z") {
			return false
		}
	}
	return true
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 10*time.Second, 2*time.Millisecond)
}
