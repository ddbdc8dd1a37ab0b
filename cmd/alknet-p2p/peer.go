package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

func newPeer(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "Name other nodes and say what they may call",
		Long: `Edits the registry of peers, peers.json in the home. A node that runs takes
every change at once.`,
		Args: noArgs,
		RunE: needCommand,
	}
	cmd.AddCommand(newPeerAdd(a), newPeerLs(a), newPeerShow(a), newPeerRm(a), newPeerAllow(a))
	return cmd
}

func newPeerAdd(a *app) *cobra.Command {
	var scopes []string
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
			fingerprint, err := parseKey(args[1])
			if err != nil {
				return err
			}
			return a.editPeers(cmd, func(cfg *auth.Config) (*auth.PeerEntry, error) {
				for _, e := range cfg.Auth.Peers {
					if e.PeerName != name && slices.Contains(e.Fingerprints, fingerprint) {
						return nil, failf(exitFailed, codeExists, "that key is %s already", e.PeerName)
					}
				}
				e := findPeer(cfg, name)
				if e == nil {
					cfg.Auth.Peers = append(cfg.Auth.Peers, auth.PeerEntry{PeerName: name, Enabled: true})
					e = &cfg.Auth.Peers[len(cfg.Auth.Peers)-1]
				}
				e.Fingerprints = with(e.Fingerprints, fingerprint)
				e.Scopes = with(e.Scopes, scopes...)
				return e, nil
			})
		},
	}
	cmd.Flags().StringArrayVar(&scopes, "scope", nil, "a `right` of the peer, such as call:disk/free; may be repeated")
	return cmd
}

func newPeerLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the peers",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.loadPeers()
			if err != nil {
				return err
			}
			return a.show(map[string][]auth.PeerEntry{"peers": cfg.Auth.Peers}, func(w *bytes.Buffer) {
				rows := [][]string{{"NAME", "KEY", "SCOPES"}}
				for _, e := range cfg.Auth.Peers {
					name := string(e.PeerName)
					if !e.Enabled {
						name += " (disabled)"
					}
					rows = append(rows, []string{name, strings.Join(e.Fingerprints, " "), oneLine(strings.Join(e.Scopes, " "))})
				}
				table(w, rows)
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
			cfg, err := a.loadPeers()
			if err != nil {
				return err
			}
			e := findPeer(cfg, auth.PeerName(args[0]))
			if e == nil {
				return noPeer(args[0])
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
			return a.editPeers(cmd, func(cfg *auth.Config) (*auth.PeerEntry, error) {
				e := findPeer(cfg, auth.PeerName(args[0]))
				if e == nil {
					return nil, noPeer(args[0])
				}
				removed := e.Clone()
				cfg.Auth.Peers = slices.DeleteFunc(cfg.Auth.Peers, func(p auth.PeerEntry) bool { return p.PeerName == removed.PeerName })
				return &removed, nil
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
}

func newPeerAllow(a *app) *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:   "allow NAME SCOPE...",
		Short: "Give a peer rights, or take them away",
		Example: `  alknet-p2p peer allow alice call:disk/free
  alknet-p2p peer allow alice --remove call:disk/free`,
		Args: rangeArgs(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.editPeers(cmd, func(cfg *auth.Config) (*auth.PeerEntry, error) {
				e := findPeer(cfg, auth.PeerName(args[0]))
				switch {
				case e == nil:
					return nil, noPeer(args[0])
				case remove:
					e.Scopes = slices.DeleteFunc(e.Scopes, func(s string) bool { return slices.Contains(args[1:], s) })
				default:
					e.Scopes = with(e.Scopes, args[1:]...)
				}
				return e, nil
			})
		},
		ValidArgsFunction: a.completeTarget,
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "take the rights away")
	return cmd
}

// editPeers changes the registry and shows the peer that was changed.
func (a *app) editPeers(cmd *cobra.Command, edit func(*auth.Config) (*auth.PeerEntry, error)) error {
	h, err := a.home()
	if err != nil {
		return err
	}
	if err := h.make(); err != nil {
		return err
	}
	var changed auth.PeerEntry
	err = peerfile.Update(cmd.Context(), h.peers(), func(cfg *auth.Config) error {
		e, err := edit(cfg)
		if err == nil {
			changed = e.Clone()
		}
		return err
	})
	if err != nil {
		return err
	}
	// The node watches the file too, but the next command shall find it done.
	if err := newClient(h).reload(cmd.Context()); err != nil && !isNotRunning(err) {
		return err
	}
	return a.showPeer(&changed)
}

func (a *app) loadPeers() (*auth.Config, error) {
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	return peerfile.Load(h.peers())
}

func (a *app) showPeer(e *auth.PeerEntry) error {
	return a.show(e, func(w *bytes.Buffer) {
		fmt.Fprintf(w, "%s\n", e.PeerName)
		for _, f := range e.Fingerprints {
			fmt.Fprintf(w, "  key    %s\n", f)
		}
		for _, s := range e.Scopes {
			fmt.Fprintf(w, "  scope  %s\n", oneLine(s))
		}
		if !e.Enabled {
			fmt.Fprintln(w, "  disabled")
		}
	})
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

func findPeer(cfg *auth.Config, name auth.PeerName) *auth.PeerEntry {
	for i := range cfg.Auth.Peers {
		if cfg.Auth.Peers[i].PeerName == name {
			return &cfg.Auth.Peers[i]
		}
	}
	return nil
}

func noPeer(name string) error {
	return failf(exitFailed, codeFailed, "no peer is named %q; see alknet-p2p peer ls", name)
}

// with adds what is not there yet.
func with(list []string, more ...string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// completeTarget offers the names of peers to the shell.
func (a *app) completeTarget(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	cfg, err := a.loadPeers()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, e := range cfg.Auth.Peers {
		names = append(names, string(e.PeerName))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
