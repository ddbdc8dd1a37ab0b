package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/node"
)

func newPing(a *app) *cobra.Command {
	var f targetFlags
	var count int
	var interval, untilDirect time.Duration
	cmd := &cobra.Command{
		Use:   "ping TARGET",
		Short: "Measure the way to another node, and watch it become direct",
		Long: `Sends small packets to another node and prints, for each, how long the answer
took and which way it came: through a relay or directly. The last line says how
long after dialling the first answer came and the direct path was there.`,
		Example: `  alknet-p2p ping ed25519:… --until-direct 10s`,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 || interval < 0 || untilDirect < 0 {
				return usagef("--count, --interval and --until-direct must not be negative")
			}
			r := request{
				Target: args[0], Count: count,
				Interval: duration{interval}, UntilDirect: duration{untilDirect},
			}
			return a.withNode(cmd.Context(), f, func(n peerNode) error {
				result, err := n.ping(cmd.Context(), r, a.printPing)
				if result == nil {
					return err
				}
				if err := errors.Join(a.printPingResult(result), err); err != nil {
					return err
				}
				switch {
				case result.Result == "failed":
					return failf(exitUnreachable, codeUnreachable, "no answer from %s", args[0])
				case untilDirect > 0 && result.Direct == nil:
					return failf(exitTimeout, codeTimeout, "no direct path to %s within %s", args[0], untilDirect)
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
	flags := cmd.Flags()
	flags.IntVar(&count, "count", 0, "how many to send (default 4)")
	flags.DurationVar(&interval, "interval", time.Second, "`time` between two")
	flags.DurationVar(&untilDirect, "until-direct", 0, "go on until the path is direct, for this `time` at most")
	f.add(cmd)
	return cmd
}

// printPing prints one reply: words on a terminal, else JSON.
func (a *app) printPing(p node.Ping) error {
	if a.json || !isTerminal(a.out) {
		return writeJSON(a.out, p)
	}
	if p.Lost || p.RTT == nil {
		_, err := fmt.Fprintf(a.out, "%3d  lost\n", p.Seq)
		return err
	}
	_, err := fmt.Fprintf(a.out, "%3d  %8.2f ms  %s %s\n", p.Seq, *p.RTT, a.pathWord(p.Path), oneLine(p.Addr))
	return err
}

func (a *app) printPingResult(r *node.PingResult) error {
	if a.json || !isTerminal(a.out) {
		return writeJSON(a.out, r)
	}
	words := []string{a.pathWord(r.Result)}
	if r.FirstByte != nil {
		words = append(words, fmt.Sprintf("first answer %.1f ms after dialling", *r.FirstByte))
	}
	if r.Direct != nil {
		words = append(words, fmt.Sprintf("direct after %.1f ms", *r.Direct))
	}
	_, err := fmt.Fprintln(a.out, strings.Join(words, ", "))
	return err
}

// pathWord shows the state of a path.
func (a *app) pathWord(path string) string {
	switch path {
	case "direct":
		return a.colour(green, path)
	case "relayed":
		return a.colour(yellow, path)
	}
	return path
}
