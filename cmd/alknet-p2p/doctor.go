package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/node"
)

// maxMappingLife bounds how long doctor waits for a NAT to forget.
const maxMappingLife = 2 * time.Minute

func newDoctor(a *app) *cobra.Command {
	var f targetFlags
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is in the way of this node: NAT, blocked ports, clock, DNS",
		Long: `Tries every way to each relay (UDP, TCP, TCP port 443, QUIC; IPv4 and IPv6) and
measures the NAT before this machine: mapping and filtering as RFC 4787 has
them, and whether it hairpins. It also looks at the port that the router gives,
at the clock and at DNS. For each trouble it names the cause and the cure, once
for all findings that have them in common.

It takes some five seconds; with --lifetime two minutes more at most, to see
when the NAT forgets an idle mapping. Exit code 1 if anything is wrong, be it a
way that another one makes up for; 5 if no node runs, 6 if it hangs.`,
		Example: `  alknet-p2p doctor
  alknet-p2p doctor --lifetime
  alknet-p2p doctor --one-shot --join alk1… --passphrase-file FILE`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lifetime < 0 || lifetime > maxMappingLife {
				return usagef("--lifetime must be between 0 and %s", maxMappingLife)
			}
			return a.withNode(cmd.Context(), f, func(n peerNode) error {
				progress := func(what string) { a.progressf("%s…", oneLine(what)) }
				found, err := n.doctor(cmd.Context(), request{Lifetime: duration{lifetime}}, progress)
				if err != nil {
					return err
				}
				if err := a.show(found, func(w *bytes.Buffer) { a.printDoctor(w, found) }); err != nil {
					return err
				}
				if bad := found.Troubles(); bad > 0 {
					return failf(exitFailed, codeFailed, "%d of %d checks found something wrong", bad, len(found.Checks))
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&lifetime, "lifetime", 0, "also measure how long the NAT keeps an idle mapping, for this `time` at most (2m)")
	flags.Lookup("lifetime").NoOptDefVal = maxMappingLife.String()
	f.add(cmd)
	return cmd
}

func (a *app) printDoctor(w *bytes.Buffer, found *node.Diagnosis) {
	var rows [][]string
	for _, c := range found.Checks {
		word := a.colour(green, "ok ")
		if !c.OK {
			word = a.colour(yellow, "bad")
		}
		rows = append(rows, []string{word, c.Name, oneLine(shortID(c.Relay)), oneLine(c.Detail)})
	}
	table(w, rows)
	// What has one cause is told once.
	type reason struct{ cause, cure string }
	var reasons []reason
	about := map[reason][]string{}
	for _, c := range found.Checks {
		if c.OK {
			continue
		}
		r := reason{c.Cause, c.Cure}
		if about[r] == nil {
			reasons = append(reasons, r)
		}
		if what := strings.TrimSpace(c.Name + " " + oneLine(shortID(c.Relay))); !slices.Contains(about[r], what) {
			about[r] = append(about[r], what)
		}
	}
	for _, r := range reasons {
		fmt.Fprintf(w, "\n%s\nbecause  %s\ncure     %s\n", strings.Join(about[r], ", "), oneLine(r.cause), oneLine(r.cure))
	}
}

// shortID is the end of a peer ID, by which people tell it from others.
func shortID(id string) string {
	const n = 8
	if len(id) <= n {
		return id
	}
	return "…" + id[len(id)-n:]
}
