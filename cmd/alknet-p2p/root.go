package main

import (
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// app is what all commands share: the streams and the global flags.
type app struct {
	in       *os.File
	out, err io.Writer

	homeFlag string
	json     bool
	quiet    bool

	workFactor int // of a vault that up makes; 0 is the vault's default
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "alknet-p2p",
		Short: "Reach any node by its key, wherever it is, and call its operations",
		Long: `alknet-p2p runs a node that is dialled by its key alone: through a relay at
once, directly as soon as a path is found. Over that link it calls the
operations other nodes offer, and offers its own.

  alknet-p2p demo                  the whole story on this machine
  alknet-p2p init                  make this machine's key
  alknet-p2p up --join TICKET      run the node
  alknet-p2p call TARGET OP '{}'   call an operation of another node

TARGET is a peer's name, its key (ed25519:… or 12D3KooW…), or a ticket.`,
		Args:          noArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s; see %s --help", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.homeFlag, "home", "", "folder that holds the vault, the configuration and the socket")
	flags.BoolVar(&a.json, "json", false, "print JSON: one object, or one a line when it streams")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print nothing but answers and errors")

	root.AddCommand(
		newDemo(a), newInit(a), newVault(a), newUp(a), newKey(a), newTicket(a), newStatus(a),
		newPing(a), newWhy(a), newDoctor(a), newOps(a), newCall(a), newSubscribe(a),
		newPeer(a), newToken(a), newConfig(a), newVersion(a),
	)
	return root
}

// noArgs, exactArgs and rangeArgs check a command's arguments.
func noArgs(cmd *cobra.Command, args []string) error { return rangeArgs(0, 0)(cmd, args) }

func exactArgs(n int) cobra.PositionalArgs { return rangeArgs(n, n) }

func rangeArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 0 && cmd.HasSubCommands():
			return unknownCommand(cmd, args[0])
		case len(args) < least:
			return usagef("too few arguments; usage: %s", usage(cmd))
		case most >= 0 && len(args) > most:
			return usagef("too many arguments; usage: %s", usage(cmd))
		}
		return nil
	}
}

func usage(cmd *cobra.Command) string { return strings.TrimSuffix(cmd.UseLine(), " [flags]") }

func unknownCommand(cmd *cobra.Command, name string) error {
	if like := nearest(name, commandNames(cmd)); like != "" {
		return usagef("no such command: %s; did you mean %q?", name, like)
	}
	return usagef("no such command: %s; see %s --help", name, cmd.CommandPath())
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// needCommand is the RunE of commands that only group others.
func needCommand(cmd *cobra.Command, _ []string) error {
	return usagef("%s needs a command: %s", cmd.Name(), strings.Join(commandNames(cmd), ", "))
}

// nearest returns the candidate a person most likely meant, or "".
func nearest(word string, candidates []string) string {
	best, at := "", 3 // three typing errors are another word
	for _, c := range candidates {
		if d := distance(word, c); d < at && d < len(word) {
			best, at = c, d
		}
	}
	return best
}

// distance is the number of single-letter edits between two words, a swap of
// neighbours counting as one.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
