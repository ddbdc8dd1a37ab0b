package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/node"
)

func newWhy(a *app) *cobra.Command {
	var f targetFlags
	cmd := &cobra.Command{
		Use:   "why TARGET",
		Short: "Tell why another node is reached the way it is: every step, and the reason",
		Long: `Shows the last dial of another node, step by step: where it was found, over
which relays, which addresses the two told each other, what became of the
probes, and which path was chosen. A node that is not connected is dialled; a
relayed path is watched for three seconds, since it may become direct.

The result is direct, relayed or unreachable. If it is not direct, the reason
and what to do about it are named. Exit code 3 if the node is not reached.`,
		Example: `  alknet-p2p why ed25519:…`,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withNode(cmd.Context(), f, func(n peerNode) error {
				a.progressf("Dialling %s, and watching the path for some seconds…", oneLine(args[0]))
				why, err := n.why(cmd.Context(), request{Target: args[0]})
				if err != nil {
					return err
				}
				if err := a.show(why, func(w *bytes.Buffer) { a.printWhy(w, why) }); err != nil {
					return err
				}
				if why.Result == "unreachable" {
					return failf(exitUnreachable, codeUnreachable, "cannot reach %s: %s", args[0], why.Reason)
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
	f.add(cmd)
	return cmd
}

func (a *app) printWhy(w *bytes.Buffer, why *node.Why) {
	rows := [][]string{{"MS", "WHAT", "VERDICT", "DETAIL"}}
	for _, s := range why.Steps {
		rows = append(rows, []string{fmt.Sprintf("%.1f", s.Ms), oneLine(s.What), oneLine(s.Verdict), oneLine(s.Detail)})
	}
	if len(why.Steps) > 0 {
		table(w, rows)
		w.WriteByte('\n')
	}
	fmt.Fprintf(w, "%s", a.pathWord(why.Result))
	if why.Addr != "" {
		fmt.Fprintf(w, " by %s", oneLine(why.Addr))
	}
	if why.RTT != nil {
		fmt.Fprintf(w, ", round trip %s", milliseconds(why.RTT))
	}
	w.WriteByte('\n')
	if why.Reason != "" {
		fmt.Fprintf(w, "because  %s\ncure     %s\n", why.Reason, why.Cure)
	}
}
