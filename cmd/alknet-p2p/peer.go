package main

import (
	"bytes"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

func newPeer(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "Name other nodes and say what they may call",
		Long: `Edits the registry of peers, peers.json in the home. A node that runs takes
every change at once: a peer that loses a right loses its running calls too.`,
		Args: noArgs,
		RunE: needCommand,
	}
	cmd.AddCommand(
		newPeerAdd(a), newPeerLs(a), newPeerShow(a), newPeerRm(a), newPeerAllow(a), newPeerDeny(a),
		newPeerRename(a), newPeerRotate(a), newPeerFollow(a), newPeerEnable(a, true), newPeerEnable(a, false),
	)
	return cmd
}

func newPeerAdd(a *app) *cobra.Command {
	var r rights
	cmd := &cobra.Command{
		Use:   "add NAME KEY",
		Short: "Add a peer, or one more key of a peer",
		Long: `Adds a peer under a name of your choice. KEY is its node key (ed25519:…), its
peer ID (12D3KooW…) or its ticket. A name that is there already gets the key
beside those it has.`,
		Example: `  alknet-p2p peer add alice ed25519:… --scope call:disk/free`,
		Args:    exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := auth.ParsePeerName(args[0])
			if err != nil {
				return usagef("%s", err)
			}
			key, err := parseKey(args[1])
			if err != nil {
				return err
			}
			return a.editPeers(cmd, func(cfg *auth.Config) (*auth.PeerEntry, error) {
				e, err := findPeer(cfg, name)
				if err != nil {
					cfg.Auth.Peers = append(cfg.Auth.Peers, auth.PeerEntry{PeerName: name, Enabled: true})
					e = &cfg.Auth.Peers[len(cfg.Auth.Peers)-1]
				}
				if err := isFree(cfg, e, key); err != nil {
					return nil, err
				}
				e.Fingerprints = with(e.Fingerprints, key)
				return e, r.grant(e)
			})
		},
	}
	r.add(cmd)
	return cmd
}

func newPeerLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the peers",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.loadRegistry()
			if err != nil {
				return err
			}
			return a.show(map[string][]auth.PeerEntry{"peers": cfg.Auth.Peers}, func(w *bytes.Buffer) {
				tableOfPeers(w, cfg.Auth.Peers)
			})
		},
	}
}

func newPeerShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show one peer",
		Args:  exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := a.loadRegistry()
			if err != nil {
				return err
			}
			e, err := findPeer(cfg, auth.PeerName(args[0]))
			if err != nil {
				return err
			}
			return a.showPeer(e)
		},
		ValidArgsFunction: a.completeTarget,
	}
}

func newPeerRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a peer; its sessions end",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.editPeer(cmd, args[0], func(cfg *auth.Config, e *auth.PeerEntry) error {
				name := e.PeerName
				cfg.Auth.Peers = slices.DeleteFunc(cfg.Auth.Peers, func(p auth.PeerEntry) bool { return p.PeerName == name })
				return nil
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
}

func newPeerAllow(a *app) *cobra.Command {
	var r rights
	cmd := &cobra.Command{
		Use:     "allow NAME [SCOPE...]",
		Short:   "Give a peer rights",
		Example: `  alknet-p2p peer allow alice call:disk/free`,
		Args:    rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.scopes = append(r.scopes, args[1:]...)
			return a.editPeer(cmd, args[0], func(_ *auth.Config, e *auth.PeerEntry) error { return r.grant(e) })
		},
		ValidArgsFunction: a.completeTarget,
	}
	r.add(cmd)
	return cmd
}

func newPeerDeny(a *app) *cobra.Command {
	var r rights
	cmd := &cobra.Command{
		Use:     "deny NAME [SCOPE...]",
		Short:   "Take rights away from a peer",
		Example: `  alknet-p2p peer deny alice call:disk/free`,
		Args:    rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.scopes = append(r.scopes, args[1:]...)
			return a.editPeer(cmd, args[0], func(_ *auth.Config, e *auth.PeerEntry) error { return r.revoke(e) })
		},
		ValidArgsFunction: a.completeScopes,
	}
	r.add(cmd)
	return cmd
}

func newPeerRename(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rename OLD NEW",
		Short: "Give a peer another name; its keys and rights stay",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := auth.ParsePeerName(args[1])
			if err != nil {
				return usagef("%s", err)
			}
			return a.editPeer(cmd, args[0], func(cfg *auth.Config, e *auth.PeerEntry) error {
				if _, err := findPeer(cfg, name); err == nil && name != e.PeerName {
					return failf(exitFailed, codeExists, "there is a peer named %q already", string(name))
				}
				e.PeerName = name
				return nil
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
}

func newPeerRotate(a *app) *cobra.Command {
	var dropOld bool
	cmd := &cobra.Command{
		Use:   "rotate NAME NEWKEY",
		Short: "Give a peer another key; its name and rights stay",
		Long: `Puts a key before those the peer has: both are the peer from then on, and it is
dialled by the new one where that answers. When the peer no longer uses the
old key, run it again with --drop-old: the old key is nobody then.`,
		Example: `  alknet-p2p peer rotate alice ed25519:…
  alknet-p2p peer rotate alice ed25519:… --drop-old`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := parseKey(args[1])
			if err != nil {
				return err
			}
			return a.editPeer(cmd, args[0], func(cfg *auth.Config, e *auth.PeerEntry) error {
				if err := isFree(cfg, e, key); err != nil {
					return err
				}
				if len(e.Fingerprints) == 0 || e.Fingerprints[0] != key {
					e.Next = "" // the commitment was the old key's
				}
				old := without(e.Fingerprints, []string{key})
				if dropOld {
					old = nil
				}
				e.Fingerprints = append([]string{key}, old...)
				return nil
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
	cmd.Flags().BoolVar(&dropOld, "drop-old", false, "take all other keys away")
	return cmd
}

func newPeerEnable(a *app, enable bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enable NAME",
		Short: "Let a disabled peer be known again",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.editPeer(cmd, args[0], func(_ *auth.Config, e *auth.PeerEntry) error {
				e.Enabled = enable
				return nil
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
	if !enable {
		cmd.Use, cmd.Short = "disable NAME", "Keep a peer's entry, and know it no more; its sessions end"
	}
	return cmd
}

// editPeers changes the registry and shows the peer that was changed.
func (a *app) editPeers(cmd *cobra.Command, edit func(*auth.Config) (*auth.PeerEntry, error)) error {
	var changed auth.PeerEntry
	err := a.editRegistry(cmd, "peer."+cmd.Name(), func(cfg *auth.Config) error {
		e, err := edit(cfg)
		if err == nil {
			changed = e.Clone()
		}
		return err
	})
	if err != nil {
		return err
	}
	return a.showPeer(&changed)
}

// editPeer changes a peer that is there, and shows it as it is then or, if it
// is gone, as it was.
func (a *app) editPeer(cmd *cobra.Command, name string, edit func(*auth.Config, *auth.PeerEntry) error) error {
	return a.editPeers(cmd, func(cfg *auth.Config) (*auth.PeerEntry, error) {
		e, err := findPeer(cfg, auth.PeerName(name))
		if err != nil {
			return nil, err
		}
		was, peers := e.Clone(), len(cfg.Auth.Peers)
		if err := edit(cfg, e); err != nil {
			return nil, err
		}
		if len(cfg.Auth.Peers) < peers {
			return &was, nil
		}
		return e, nil
	})
}

// isFree fails when the key is another peer's.
func isFree(cfg *auth.Config, e *auth.PeerEntry, key string) error {
	for i := range cfg.Auth.Peers {
		other := &cfg.Auth.Peers[i]
		if other.PeerName != e.PeerName && slices.Contains(other.Fingerprints, key) {
			return failf(exitFailed, codeExists, "that key is %s already", other.PeerName)
		}
	}
	return nil
}

// parseKey reads a peer's key in any form and returns its fingerprint.
func parseKey(text string) (string, error) {
	if strings.HasPrefix(text, "alk1") {
		ticket, err := discovery.ParseTicket(text)
		if err != nil {
			return "", usagef("%s", err)
		}
		return auth.FingerprintFromPeer(ticket.Peer)
	}
	id, err := auth.ParseKey(text)
	if err != nil {
		return "", usagef("%s", err)
	}
	return auth.FingerprintFromPeer(id)
}

// completeTarget offers the names of peers to the shell.
func (a *app) completeTarget(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	cfg, err := a.loadRegistry()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, e := range cfg.Auth.Peers {
		names = append(names, string(e.PeerName))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeScopes offers the names of peers, then the scopes of the one named.
func (a *app) completeScopes(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeTarget(cmd, args, word)
	}
	cfg, err := a.loadRegistry()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	e, err := findPeer(cfg, auth.PeerName(args[0]))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return without(e.Scopes, args[1:]), cobra.ShellCompDirectiveNoFileComp
}
