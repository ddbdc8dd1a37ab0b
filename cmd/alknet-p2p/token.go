package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

func newToken(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make and revoke API tokens",
		Long: `A token is a secret that stands for rights: whoever sends it with a request has
them, whatever key he comes with. It stands for a peer of the registry, or is an
identity of its own. Only its hash is kept, in peers.json.`,
		Args: noArgs,
		RunE: needCommand,
	}
	cmd.AddCommand(newTokenCreate(a), newTokenLs(a), newTokenRm(a))
	return cmd
}

// tokenAnswer is a token as it is told of; the token itself once, by create.
type tokenAnswer struct {
	Token       string        `json:"token,omitzero"`
	Prefix      string        `json:"prefix,omitzero"` // not of a peer's token
	Peer        auth.PeerName `json:"peer,omitzero"`   // whose token it is
	Scopes      []string      `json:"scopes"`          // its own, or the peer's
	Description string        `json:"description,omitzero"`
	Expires     *time.Time    `json:"expires"` // null: never
	Expired     bool          `json:"expired,omitzero"`
}

func newTokenCreate(a *app) *cobra.Command {
	var (
		r           rights
		description string
		expires     lifetime
		peer        string
	)
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it, this once",
		Long: `Makes a token and prints it, this once. Without --peer it is an identity of its
own that has the scopes given; with --peer it stands for that peer, in place of
the token the peer had.`,
		Example: `  alknet-p2p token create --scope call:disk/free --expires 24h --description ci
  alknet-p2p token create --peer alice`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if peer != "" && (len(r.scopes) > 0 || expires.Duration > 0 || description != "") {
				return usagef("--scope, --expires and --description are for tokens without --peer: a peer's token has the peer's rights, until it is removed")
			}
			var token auth.Token
			var answer tokenAnswer
			err := a.editRegistry(cmd, "token.create", func(cfg *auth.Config) error {
				token = newTokenIn(cfg)
				if peer != "" {
					e, err := findPeer(cfg, auth.PeerName(peer))
					if err != nil {
						return err
					}
					hash := token.Hash()
					e.AuthTokenHash = &hash
					answer = tokenAnswer{Peer: e.PeerName, Scopes: with([]string{}, e.Scopes...)}
					return nil
				}
				k := auth.APIKeyEntry{
					Prefix: token.Prefix(), Hash: token.Hash(), Scopes: with([]string{}, r.scopes...), Description: description,
					ExpiresAt: expires.unix(time.Now()),
				}
				cfg.Auth.APIKeys = append(cfg.Auth.APIKeys, k)
				answer = keyAnswerOf(&k)
				return nil
			})
			if err != nil {
				return err
			}
			answer.Token = token.Reveal()
			a.sayf("This is the only time the token is shown.")
			return a.show(answer, func(w *bytes.Buffer) { fmt.Fprintln(w, answer.Token) })
		},
	}
	r.addScopes(cmd)
	flags := cmd.Flags()
	flags.StringVar(&description, "description", "", "what it is for")
	flags.Var(&expires, "expires", "how long it is good for, such as 24h or 30d (default: until it is removed)")
	flags.StringVar(&peer, "peer", "", "make it a token of the peer of this `name`")
	_ = cmd.RegisterFlagCompletionFunc("peer", func(cmd *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.completeTarget(cmd, nil, word)
	})
	return cmd
}

// newTokenIn makes a token whose prefix is no other's: the prefix is its name.
func newTokenIn(cfg *auth.Config) auth.Token {
	for {
		token := auth.NewToken()
		if !slices.ContainsFunc(cfg.Auth.APIKeys, func(k auth.APIKeyEntry) bool { return strings.HasPrefix(token.Prefix(), k.Prefix) }) {
			return token
		}
	}
}

func newTokenLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the tokens, by the beginning that may be shown",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.loadRegistry()
			if err != nil {
				return err
			}
			tokens := []tokenAnswer{}
			for i := range cfg.Auth.APIKeys {
				tokens = append(tokens, keyAnswerOf(&cfg.Auth.APIKeys[i]))
			}
			for _, e := range cfg.Auth.Peers {
				if e.AuthTokenHash != nil {
					tokens = append(tokens, tokenAnswer{Peer: e.PeerName, Scopes: with([]string{}, e.Scopes...)})
				}
			}
			return a.show(map[string][]tokenAnswer{"tokens": tokens}, func(w *bytes.Buffer) {
				rows := [][]string{{"TOKEN", "EXPIRES", "SCOPES", "DESCRIPTION"}}
				for _, t := range tokens {
					name, expires := t.Prefix, "never"
					if t.Peer != "" {
						name = "of peer " + string(t.Peer)
					}
					if t.Expires != nil {
						expires = t.Expires.Format(time.DateTime)
					}
					if t.Expired {
						expires += " (expired)"
					}
					rows = append(rows, []string{name, expires, oneLine(strings.Join(t.Scopes, " ")), oneLine(t.Description)})
				}
				table(w, rows)
			})
		},
	}
}

func newTokenRm(a *app) *cobra.Command {
	var peer string
	cmd := &cobra.Command{
		Use:   "rm PREFIX | rm --peer NAME",
		Short: "Revoke a token; what it lets run ends",
		Args:  rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (peer == "") == (len(args) == 0) {
				return usagef("name the token by its first eight characters, or the peer whose token it is with --peer")
			}
			var removed tokenAnswer
			err := a.editRegistry(cmd, "token.rm", func(cfg *auth.Config) error {
				if peer != "" {
					e, err := findPeer(cfg, auth.PeerName(peer))
					switch {
					case err != nil:
						return err
					case e.AuthTokenHash == nil:
						return failf(exitFailed, codeFailed, "peer %q has no token", peer)
					}
					e.AuthTokenHash = nil
					removed = tokenAnswer{Peer: e.PeerName, Scopes: with([]string{}, e.Scopes...)}
					return nil
				}
				i := slices.IndexFunc(cfg.Auth.APIKeys, func(k auth.APIKeyEntry) bool { return k.Prefix == args[0] })
				if i < 0 {
					return failf(exitFailed, codeFailed, "no token begins with %q; see alknet-p2p token ls", oneLine(args[0]))
				}
				removed = keyAnswerOf(&cfg.Auth.APIKeys[i])
				cfg.Auth.APIKeys = slices.DeleteFunc(cfg.Auth.APIKeys, func(k auth.APIKeyEntry) bool { return k.Prefix == args[0] })
				return nil
			})
			if err != nil {
				return err
			}
			return a.show(removed, func(w *bytes.Buffer) {
				if removed.Peer != "" {
					fmt.Fprintf(w, "the token of peer %s is removed\n", removed.Peer)
					return
				}
				fmt.Fprintf(w, "token %s is removed\n", removed.Prefix)
			})
		},
		ValidArgsFunction: a.completeToken,
	}
	cmd.Flags().StringVar(&peer, "peer", "", "remove the token of the peer of this `name`")
	return cmd
}

func keyAnswerOf(k *auth.APIKeyEntry) tokenAnswer {
	t := tokenAnswer{Prefix: k.Prefix, Scopes: with([]string{}, k.Scopes...), Description: k.Description}
	if k.ExpiresAt != nil {
		at := unixTime(*k.ExpiresAt)
		t.Expires, t.Expired = &at, !time.Now().Before(at)
	}
	return t
}

// completeToken offers the beginnings of tokens to the shell.
func (a *app) completeToken(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	cfg, err := a.loadRegistry()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var prefixes []cobra.Completion
	for _, k := range cfg.Auth.APIKeys {
		prefixes = append(prefixes, k.Prefix)
	}
	return prefixes, cobra.ShellCompDirectiveNoFileComp
}
