package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"golang.org/x/term"
)

// interactive reports whether a person can be asked.
func (a *app) interactive() bool { return isTerminal(a.in) && isTerminal(a.err) }

// secretLine asks for a line without showing it.
func (a *app) secretLine(ctx context.Context, prompt string) ([]byte, error) {
	defer a.tellf("") // the line's end is not shown either
	fd := int(a.in.Fd())
	return a.ask(ctx, prompt, func() ([]byte, error) { return term.ReadPassword(fd) })
}

// secretLineTwice asks for a new secret until it is typed the same twice.
func (a *app) secretLineTwice(ctx context.Context, prompt string) ([]byte, error) {
	for {
		first, err := a.secretLine(ctx, prompt)
		if err != nil {
			return nil, err
		}
		second, err := a.secretLine(ctx, "The same again: ")
		if err != nil {
			clear(first)
			return nil, err
		}
		same := bytes.Equal(first, second)
		clear(second)
		if same && len(first) > 0 {
			return first, nil
		}
		clear(first)
		if same {
			a.tellf("It must not be empty.")
		} else {
			a.tellf("They differ.")
		}
	}
}

// line asks for a line that may be seen.
func (a *app) line(ctx context.Context, prompt string) (string, error) {
	text, err := a.ask(ctx, prompt, func() ([]byte, error) {
		text, err := bufio.NewReader(a.in).ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(text) > 0 {
			err = nil
		}
		return text, err
	})
	return strings.TrimSpace(string(text)), err
}

// ask reads an answer from the terminal, unless ctx ends first: then the
// terminal is left as it was, and the reading to the end of the process.
func (a *app) ask(ctx context.Context, prompt string, read func() ([]byte, error)) ([]byte, error) {
	before, err := term.GetState(int(a.in.Fd()))
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(a.err, prompt); err != nil {
		return nil, err
	}
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case got := <-answers:
		return got.text, got.err
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(int(a.in.Fd()), before))
	}
}
