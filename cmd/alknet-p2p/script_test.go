package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"alknet-p2p": main})
}

// TestScripts runs the scripts of testdata: each is a conversation with the
// command as its user has it. Beside testscript's own commands they use
//
//	refuses CODE ARGS…       the command fails with that exit code, prints
//	                         nothing on standard output and one line on
//	                         standard error
//	await FILE PATTERN       wait until a line of the file matches
//	field FILE NAME VAR      set a variable to a member of the JSON object in
//	                         the file's first line
//	mode FILE PERMISSIONS    the file has exactly these
//	listen VAR               take a TCP port and set a variable to its multiaddr
//	gone PATTERN             wait until no process has such a command line
//	httpd VAR                run an HTTP server that answers with what it was
//	                         asked, and set a variable to its URL
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"refuses": refuses,
			"await":   await,
			"field":   field,
			"mode":    mode,
			"listen":  listen,
			"gone":    gone,
			"httpd":   httpd,
		},
		Setup: func(env *testscript.Env) error {
			// A short one: a socket's path must fit.
			home, err := os.MkdirTemp("", "alknet") //nolint:usetesting // t.TempDir is too long
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(home) })
			env.Setenv("H", home)
			env.Setenv("PASS", filepath.Join(home, "pass"))
			return os.WriteFile(filepath.Join(home, "pass"), []byte("correct horse\n"), 0o600)
		},
	})
}

func refuses(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: refuses CODE ARGS…")
	}
	err := ts.Exec("alknet-p2p", args[1:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("standard output has %q", out)
	}
	if lines := strings.Count(ts.ReadFile("stderr"), "\n"); lines != 1 {
		ts.Fatalf("%d lines on standard error, not one", lines)
	}
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE PATTERN")
	}
	pattern := regexp.MustCompile("(?m)" + args[1])
	text := ""
	until(ts, func() bool {
		b, _ := os.ReadFile(ts.MkAbs(args[0]))
		text = string(b)
		return pattern.MatchString(text)
	}, func() string { return "no line of " + args[0] + " matches " + args[1] + ":\n" + text })
}

func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: field FILE NAME VAR")
	}
	line, _, _ := strings.Cut(ts.ReadFile(args[0]), "\n")
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(line), &object))
	text, ok := object[args[1]].(string)
	if !ok {
		ts.Fatalf("%s has no member %s", args[0], args[1])
	}
	ts.Setenv(args[2], text)
}

func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE PERMISSIONS")
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[1] {
		ts.Fatalf("%s has mode %s", args[0], got)
	}
}

func listen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listen VAR")
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))
}

func httpd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: httpd VAR")
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"asked": r.Method + " " + r.RequestURI, "body": string(body), "bearer": len(r.Header.Get("Authorization")),
		})
	}))
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.URL)
}

func gone(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: gone PATTERN")
	}
	var out []byte
	until(ts, func() bool {
		var err error
		out, err = exec.Command("ps", "-A", "-o", "args=").Output()
		ts.Check(err)
		return !regexp.MustCompile("(?m)" + args[0]).Match(out)
	}, func() string { return "still running:\n" + string(out) })
}

func until(ts *testscript.TestScript, ok func() bool, why func() string) {
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("%s", why())
		}
	}
}
