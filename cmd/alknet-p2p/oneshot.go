package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spf13/cobra"
)

// targetFlags are those of every command that talks to another node.
type targetFlags struct {
	oneShot    bool
	join       []string
	passphrase passphraseFlags
}

func (f *targetFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.oneShot, "one-shot", false, "run a node for this one command, with --passphrase-file")
	flags.StringArrayVar(&f.join, "join", nil, "with --one-shot: enter the network by this `ticket`")
	f.passphrase.add(cmd)
}

// withNode lets do ask the home's node, or with --one-shot one that runs for
// as long as do does.
func (a *app) withNode(ctx context.Context, f targetFlags, do func(peerNode) error) error {
	h, err := a.home()
	if err != nil {
		return err
	}
	if !f.oneShot {
		if f.passphrase.given() || len(f.join) > 0 {
			return usagef("--passphrase-file and --join are for --one-shot: a node that runs needs neither")
		}
		return do(newClient(h))
	}
	cfg, err := readConfig(h.config())
	if err != nil {
		return err
	}
	if err := a.needVault(ctx, h, f.passphrase); err != nil {
		return err
	}
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	key, err := a.openVault(ctx, h, f.passphrase, cfg)
	if err != nil {
		return err
	}
	n, err := startNode(ctx, h, cfg, nodeFlags{join: f.join}, key, a.logger(slog.LevelError))
	if err != nil {
		return err
	}
	return errors.Join(do(localNode{n.Node}), n.close())
}
