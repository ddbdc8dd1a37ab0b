package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/vault"
)

// passwdFlags are the choices of vault passwd.
type passwdFlags struct {
	old, fresh passphraseFlags
	workFactor int
	keyring    bool
}

func newVaultPasswd(a *app) *cobra.Command {
	var f passwdFlags
	cmd := &cobra.Command{
		Use:   "passwd",
		Short: "Change the passphrase of the vault file",
		Long: `Seals the vault file with another passphrase. The words and all keys stay, and a
node that runs goes on. Copies of the old file still open with the old
passphrase.

--keyring puts the new passphrase into the keyring of this desktop, where up and
the other commands find it from then on; without it one that is there is taken
out.`,
		Example: `  alknet-p2p vault passwd
  alknet-p2p vault passwd --passphrase-file old --new-passphrase-file new`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			return a.changePassphrase(cmd.Context(), h, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.old.file, "passphrase-file", "", "`file` (0600) whose first line is the old passphrase")
	flags.Var(&f.old.fd, "passphrase-fd", "`descriptor` from which the old passphrase is read, 0 for standard input")
	flags.StringVar(&f.fresh.file, "new-passphrase-file", "", "`file` (0600) whose first line is the new passphrase")
	flags.Var(&f.fresh.fd, "new-passphrase-fd", "`descriptor` from which the new passphrase is read, 0 for standard input")
	flags.IntVar(&f.workFactor, "work-factor", 0, "cost of a try at the passphrase, 2^`N`; 0 leaves it as it is")
	flags.BoolVar(&f.keyring, "keyring", false, "keep the new passphrase in the keyring of this desktop")
	return cmd
}

func (a *app) changePassphrase(ctx context.Context, h home, f passwdFlags) error {
	switch {
	case f.fresh.file != "" && f.fresh.fd.set:
		return usagef("--new-passphrase-file and --new-passphrase-fd exclude each other")
	case f.old.fd.set && f.old.fd == f.fresh.fd:
		return usagef("the old and the new passphrase cannot both come from one descriptor")
	case !f.fresh.given() && !a.interactive():
		return usagef("there is no terminal to ask for a new passphrase on: give --new-passphrase-file FILE")
	}
	var fresh []byte
	defer func() { clear(fresh) }()
	err := a.withPassphrase(ctx, h, f.old, func(passphrase, _ []byte) error {
		// Before the new one is asked for, the old one must be right.
		kit, err := vault.ReadKit(string(h), passphrase)
		if err != nil {
			return err
		}
		kit.Mnemonic.Wipe()
		if fresh, err = a.newPassphraseOf(ctx, f.fresh); err != nil {
			return err
		}
		return vault.ChangePassphrase(string(h), passphrase, fresh, f.workFactor)
	})
	a.audit(h, "vault.passwd", "", err)
	if err != nil {
		return err
	}
	if err := a.keepInKeyring(ctx, h, fresh, f.keyring); err != nil {
		return fmt.Errorf("the passphrase is changed, but %w", err)
	}
	return a.show(map[string]bool{"ok": true, "keyring": f.keyring}, func(w *bytes.Buffer) {
		w.WriteString("The passphrase is changed.\n")
	})
}

// newPassphraseOf is newPassphrase without systemd's credential, which is the
// old one.
func (a *app) newPassphraseOf(ctx context.Context, p passphraseFlags) ([]byte, error) {
	if p.given() {
		return a.passphraseOf(p)
	}
	return a.secretLineTwice(ctx, "The new passphrase: ")
}

// keepInKeyring puts the passphrase into the keyring, or sees to it that no
// old one is there.
func (a *app) keepInKeyring(ctx context.Context, h home, passphrase []byte, keep bool) error {
	if !keep {
		return a.outOfKeyring(ctx, h)
	}
	info, err := vault.ReadInfo(string(h))
	if err != nil {
		return err
	}
	return a.intoKeyring(ctx, h, info.Identity, passphrase)
}
