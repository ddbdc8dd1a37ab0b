package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// maxInput is what a frame can hold, in bytes.
const maxInput = 64 << 20

func newCall(a *app) *cobra.Command {
	var f targetFlags
	var token tokenFlag
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "call TARGET OPERATION [JSON | @FILE | -]",
		Short: "Call an operation of another node",
		Long: `Calls an operation and prints its output. The input is JSON, {} if none is
given; @FILE reads it from a file, - from standard input.`,
		Example: `  alknet-p2p call ed25519:… disk/free '{}'
  alknet-p2p call alice node/echo @input.json`,
		Args: rangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			input, err := a.input(args[2:])
			if err != nil {
				return err
			}
			token, err := token.read(a, len(args) > 2 && args[2] == "-")
			if err != nil {
				return err
			}
			r := request{Target: args[0], Operation: args[1], Input: input, Timeout: duration{timeout}, Token: token}
			return a.withNode(cmd.Context(), f, func(n peerNode) error {
				out, err := n.call(cmd.Context(), r)
				if err != nil {
					return err
				}
				return a.printValue(out, true)
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this `time` (default 30s)")
	token.add(cmd)
	f.add(cmd)
	return cmd
}

// input reads the input of an operation as it is given on the command line.
func (a *app) input(args []string) (json.RawMessage, error) {
	if len(args) == 0 {
		return json.RawMessage(`{}`), nil
	}
	text, err := []byte(args[0]), error(nil)
	switch {
	case args[0] == "-":
		text, err = io.ReadAll(io.LimitReader(a.in, maxInput+1))
	case args[0] != "" && args[0][0] == '@':
		text, err = readAtMost(args[0][1:], maxInput+1)
	}
	if err != nil {
		return nil, err
	}
	value := jsontext.Value(bytes.TrimSpace(text))
	switch {
	case len(value) > maxInput:
		return nil, usagef("the input is larger than %d bytes", maxInput)
	case !value.IsValid():
		return nil, usagef("the input is not JSON; quote it for the shell, as in '{\"name\":\"x\"}'")
	}
	return json.RawMessage(value), nil
}

// readAtMost reads the first n bytes of a file.
func readAtMost(file string, n int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, n))
}

// printValue prints what an operation gave, as it came or, for a person,
// indented and with nothing in it that could steer the terminal.
func (a *app) printValue(value json.RawMessage, indent bool) error {
	out := jsontext.Value(bytes.Clone(value))
	if !a.json && isTerminal(a.out) {
		if indent {
			if err := out.Indent(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
				return err
			}
		}
		out = escapeUnprintable(out)
	}
	_, err := a.out.Write(append(out, '\n'))
	return err
}

// escapeUnprintable writes characters that JSON allows in strings and a
// terminal may obey as \uXXXX.
func escapeUnprintable(value jsontext.Value) jsontext.Value {
	out := make(jsontext.Value, 0, len(value))
	for _, c := range string(value) {
		if c == '\n' || unicode.IsPrint(c) || c == unicode.ReplacementChar {
			out = utf8.AppendRune(out, c)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, c) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
}
