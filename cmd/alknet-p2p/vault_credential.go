package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/vault"
)

// maxCredential is the longest secret that is sealed, in bytes.
const maxCredential = 64 << 10

func newVaultSeal(a *app) *cobra.Command {
	var p passphraseFlags
	cmd := &cobra.Command{
		Use:   "seal NAME",
		Short: "Seal a credential of a service under a name",
		Long: `Reads a secret, from the terminal without showing it or from standard input to
its end, and seals it with the vault's key under the name, in place of one that
is there. A line feed at the end of standard input is not part of it.

An operation of config.toml gets it by credential = "NAME".`,
		Example: `  alknet-p2p vault seal github
  alknet-p2p vault seal github --passphrase-file pass < token`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			return a.seal(cmd.Context(), h, args[0], p)
		},
	}
	p.add(cmd)
	return cmd
}

func (a *app) seal(ctx context.Context, h home, name string, p passphraseFlags) error {
	if p.usesStdin() {
		return usagef("the secret and the passphrase cannot both come from standard input")
	}
	v, err := a.unlock(ctx, h, p)
	if err != nil {
		return err
	}
	defer a.lock(h, v)
	secret, err := a.readCredential(ctx, name)
	if err != nil {
		return err
	}
	defer clear(secret)
	err = vault.NewCredentialStore(string(h)).Seal(v, name, secret)
	a.audit(h, "vault.seal", name, err)
	if err != nil {
		return err
	}
	return a.show(map[string]string{"sealed": name}, func(w *bytes.Buffer) { fmt.Fprintf(w, "Sealed %s.\n", oneLine(name)) })
}

// readCredential reads a secret. The caller clears it.
func (a *app) readCredential(ctx context.Context, name string) (secret []byte, err error) {
	if isTerminal(a.in) {
		secret, err = a.secretLine(ctx, fmt.Sprintf("The secret of %s (it is not shown): ", oneLine(name)))
	} else {
		secret, err = readInput(a.in, maxCredential)
		secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
	}
	switch {
	case err != nil:
		return nil, err
	case len(secret) == 0:
		return nil, usagef("there is no secret to seal")
	case !utf8.Valid(secret):
		clear(secret)
		return nil, usagef("the secret is not UTF-8 text")
	}
	return secret, nil
}

func newVaultOpen(a *app) *cobra.Command {
	var p passphraseFlags
	var reveal bool
	cmd := &cobra.Command{
		Use:   "open NAME",
		Short: "Print a sealed credential",
		Long: `Opens a credential and prints it on the terminal. Into a pipe or a file it goes
with --reveal only, byte for byte.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !reveal && !isTerminal(a.out) {
				return usagef("standard output is not a terminal: give --reveal to print the secret there")
			}
			h, err := a.home()
			if err != nil {
				return err
			}
			return a.reveal(cmd.Context(), h, args[0], p)
		},
		ValidArgsFunction: a.completeCredential,
	}
	cmd.Flags().BoolVar(&reveal, "reveal", false, "print it also where no terminal is")
	p.add(cmd)
	return cmd
}

func (a *app) reveal(ctx context.Context, h home, name string, p passphraseFlags) error {
	store := vault.NewCredentialStore(string(h))
	if _, err := store.Get(name); err != nil {
		return err // before anybody is asked for a passphrase
	}
	v, err := a.unlock(ctx, h, p)
	if err != nil {
		return err
	}
	defer a.lock(h, v)
	secret, err := store.Open(v, name)
	a.audit(h, "vault.open", name, err)
	if err != nil {
		return err
	}
	defer clear(secret)
	if a.json {
		return writeJSON(a.out, map[string]string{"name": name, "secret": string(secret)})
	}
	if isTerminal(a.out) {
		defer fmt.Fprintln(a.out)
	}
	_, err = a.out.Write(secret)
	return err
}

func newVaultLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the sealed credentials; needs no passphrase",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			credentials, err := vault.NewCredentialStore(string(h)).List()
			if err != nil {
				return err
			}
			type row struct {
				Name       string `json:"name"`
				KeyVersion uint32 `json:"key_version"` // 0: its entry is damaged
			}
			rows := make([]row, len(credentials))
			for i, c := range credentials {
				rows[i] = row{c.Name, c.KeyVersion}
			}
			return a.show(map[string][]row{"credentials": rows}, func(w *bytes.Buffer) {
				lines := [][]string{{"NAME", "KEY VERSION"}}
				for _, r := range rows {
					sealedWith := strconv.FormatUint(uint64(r.KeyVersion), 10)
					if r.KeyVersion == 0 {
						sealedWith = "damaged"
					}
					lines = append(lines, []string{r.Name, sealedWith})
				}
				table(w, lines)
			})
		},
	}
}

func newVaultRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a sealed credential; needs no passphrase",
		Args:  exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			err = vault.NewCredentialStore(string(h)).Delete(args[0])
			if errors.Is(err, vault.ErrNoCredential) {
				return err // nothing was done
			}
			a.audit(h, "vault.rm", args[0], err)
			if err != nil {
				return err
			}
			return a.show(map[string]string{"removed": args[0]}, func(w *bytes.Buffer) { fmt.Fprintf(w, "Removed %s.\n", oneLine(args[0])) })
		},
		ValidArgsFunction: a.completeCredential,
	}
}

// completeCredential completes the name of a sealed credential.
func (a *app) completeCredential(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if h, err := a.home(); err == nil && len(args) == 0 {
		credentials, _ := vault.NewCredentialStore(string(h)).List() // none is no completion
		for _, c := range credentials {
			names = append(names, c.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
