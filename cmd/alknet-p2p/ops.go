package main

import (
	"bytes"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

func newOps(a *app) *cobra.Command {
	var f targetFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "ops TARGET",
		Short: "List the operations another node lets us call",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withNode(cmd.Context(), f, func(n peerNode) error {
				ops, err := n.operations(cmd.Context(), request{Target: args[0], Timeout: duration{timeout}})
				if err != nil {
					return err
				}
				answer := map[string][]call.OperationInfo{"operations": ops}
				return a.show(answer, func(w *bytes.Buffer) {
					rows := [][]string{{"OPERATION", "TYPE"}}
					for _, op := range ops {
						rows = append(rows, []string{oneLine(op.Name), oneLine(string(op.Type))})
					}
					table(w, rows)
				})
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this `time` (default 30s)")
	f.add(cmd)
	return cmd
}
