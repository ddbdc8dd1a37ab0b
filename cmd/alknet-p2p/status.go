package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/node"
)

func newStatus(a *app) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running node knows: reachability, relays, sessions",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			n := newClient(h)
			for {
				st, err := n.status(cmd.Context())
				if err != nil {
					return err
				}
				if watch && !a.json && isTerminal(a.out) {
					_, _ = io.WriteString(a.out, "\x1b[H\x1b[2J") // from the top of an empty screen
				}
				if err := a.show(st, func(w *bytes.Buffer) { a.printStatus(w, st) }); err != nil || !watch {
					return err
				}
				if err := sleep(cmd.Context(), time.Second); err != nil {
					return err
				}
			}
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it every second")
	return cmd
}

func (a *app) printStatus(w *bytes.Buffer, st *node.Status) {
	online := a.colour(yellow, "not online yet")
	if st.Online {
		online = a.colour(green, "online")
	}
	fmt.Fprintf(w, "%s on network %s, %s\n", online, st.Network, st.Reachability)
	fmt.Fprintf(w, "node key %s\n", st.NodeKey)
	fmt.Fprintf(w, "NAT      mapping %s, filtering %s\n", st.NAT.Mapping, st.NAT.Filtering)
	if s := st.Serving; s != nil {
		fmt.Fprintf(w, "serving  %d nodes, %d of them homed here; %d frames in, %d out, %d dropped\n", s.Clients, s.Homed, s.FramesIn, s.FramesOut, s.Dropped())
	}
	if len(st.Relays) > 0 {
		rows := [][]string{{"", ""}, {"RELAY", "STATE", "RTT", "ADDRESS"}}
		for _, r := range st.Relays {
			at := r.Addr
			if !r.Up && r.Error != "" {
				first, more, many := strings.Cut(r.Error, "\n")
				if at = first; many {
					at += fmt.Sprintf(" (and %d more: see doctor)", 1+strings.Count(more, "\n"))
				}
			} else if r.Proxy != "" {
				at += " by proxy " + r.Proxy
			}
			rows = append(rows, []string{r.PeerID, relayWord(r), milliseconds(r.RTT), oneLine(at)})
		}
		table(w, rows)
	}
	if len(st.Sessions) > 0 {
		rows := [][]string{{"", ""}, {"PEER", "PROTOCOL", "PATH", "RTT", "SINCE", "BY"}}
		for _, s := range st.Sessions {
			since := time.Since(s.Since).Round(time.Second).String()
			rows = append(rows, []string{oneLine(s.Peer), oneLine(s.ALPN), s.Path, milliseconds(s.RTT), since, oneLine(s.Addr)})
		}
		table(w, rows)
	}
}

func relayWord(r node.RelayStatus) string {
	switch {
	case !r.Up:
		return "down"
	case r.Home:
		return "home"
	}
	return "up"
}

func milliseconds(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", *ms)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
