package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/term"
)

// What prints where: the answer of a command on standard output, as JSON with
// --json; everything that is said on the way on standard error, and nothing of
// that with -q. Text that a peer chose is never printed raw: it could steer
// the terminal.

// sayf talks to the person on standard error.
func (a *app) sayf(format string, args ...any) {
	if !a.quiet {
		a.tellf(format, args...)
	}
}

// progressf says on a terminal what is being waited for.
func (a *app) progressf(format string, args ...any) {
	if isTerminal(a.err) && !a.json {
		a.sayf(format, args...)
	}
}

// tellf talks to a person who is being asked something, with -q too.
func (a *app) tellf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, format+"\n", args...) // nobody else to tell
}

// show prints an answer: v with --json, else what human prints.
func (a *app) show(v any, human func(w *bytes.Buffer)) error {
	if a.json {
		return writeJSON(a.out, v)
	}
	var b bytes.Buffer
	human(&b)
	_, err := a.out.Write(b.Bytes())
	return err
}

// colour wraps text in an ANSI colour on a terminal, unless NO_COLOR is set.
func (a *app) colour(code int, text string) string {
	if !isTerminal(a.out) || os.Getenv("NO_COLOR") != "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, text)
}

const (
	green  = 32
	yellow = 33
)

// table prints rows in columns; cells must be printable.
func table(w *bytes.Buffer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		_, _ = io.WriteString(t, strings.TrimRight(strings.Join(row, "\t"), "\t")+"\n") // into memory
	}
	_ = t.Flush()
}

// writeJSON prints v as one line; JSON within it that a peer made goes
// through as it is.
func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// oneLine makes a message fit to be printed: one line, no control characters.
func oneLine(text string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n', c == '\t', c == '\r':
			return ' '
		case !unicode.IsPrint(c):
			return unicode.ReplacementChar
		}
		return c
	}, text)
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
