package main

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/spf13/cobra"
)

// errEnough ends a subscription that has given what was asked for.
var errEnough = errors.New("enough")

func newSubscribe(a *app) *cobra.Command {
	var f targetFlags
	var token tokenFlag
	var timeout time.Duration
	var count int
	cmd := &cobra.Command{
		Use:   "subscribe TARGET OPERATION [JSON | @FILE | -]",
		Short: "Subscribe to an operation of another node",
		Long: `Subscribes to an operation and prints each item as one line of JSON, until it
ends or is interrupted. The input is as for call.`,
		Example: `  alknet-p2p subscribe alice sys/load`,
		Args:    rangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 {
				return usagef("--count is negative")
			}
			input, err := a.input(args[2:])
			if err != nil {
				return err
			}
			token, err := token.read(a, len(args) > 2 && args[2] == "-")
			if err != nil {
				return err
			}
			r := request{Target: args[0], Operation: args[1], Input: input, Timeout: duration{timeout}, Token: token}
			left := count
			err = a.withNode(cmd.Context(), f, func(n peerNode) error {
				return n.subscribe(cmd.Context(), r, func(item json.RawMessage) error {
					if err := a.printValue(item, false); err != nil {
						return err
					}
					if left--; left == 0 {
						return errEnough
					}
					return nil
				})
			})
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		},
		ValidArgsFunction: a.completeTarget,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "end it after this `time`")
	cmd.Flags().IntVar(&count, "count", 0, "end it after `N` items")
	token.add(cmd)
	f.add(cmd)
	return cmd
}
