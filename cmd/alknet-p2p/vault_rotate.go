package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/vault"
)

// rotateFlags are the choices of vault rotate.
type rotateFlags struct {
	to         uint32
	dryRun     bool
	force      bool
	passphrase passphraseFlags
}

func newVaultRotate(a *app) *cobra.Command {
	var f rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Seal all credentials again with another key",
		Long: `Seals every credential again with the key of another version, the next one
unless --to names it, and new ones from then on. At the end the store is read
again: the rotation is complete when nothing is left below the version. One that
was cut off, or left something behind, is run again.

It is not for a leaked key: whoever has the words has the keys of all versions.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			return a.rotate(cmd.Context(), h, f)
		},
	}
	flags := cmd.Flags()
	flags.Uint32Var(&f.to, "to", 0, "key `version` to seal with (default: the next one)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "open everything, say what would be done, change nothing")
	flags.BoolVar(&f.force, "force", false, "go back to an older version too")
	f.passphrase.add(cmd)
	return cmd
}

// rotateAnswer is what a rotation did.
type rotateAnswer struct {
	To      uint32            `json:"to"`
	DryRun  bool              `json:"dry_run"`
	Rotated []string          `json:"rotated"`
	Failed  map[string]string `json:"failed"`
	Below   int               `json:"below"` // left below the version; 0 is complete
}

func (a *app) rotate(ctx context.Context, h home, f rotateFlags) error {
	v, err := a.unlock(ctx, h, f.passphrase)
	if err != nil {
		return err
	}
	defer a.lock(h, v)
	store := vault.NewCredentialStore(string(h))
	if f.to == 0 {
		if f.to, err = nextVersion(h, store); err != nil {
			return err
		}
	}
	r, err := store.Rotate(v, f.to, vault.RotateOptions{DryRun: f.dryRun, Force: f.force})
	if !f.dryRun {
		a.audit(h, "vault.rotate", fmt.Sprintf("key version %d", f.to), err)
	}
	if err != nil {
		return err
	}
	answer := rotateAnswer{To: r.To, DryRun: f.dryRun, Rotated: append([]string{}, r.Rotated...), Failed: map[string]string{}, Below: r.Below}
	for name, err := range r.Failed {
		answer.Failed[name] = err.Error()
	}
	if err := a.show(answer, func(w *bytes.Buffer) { printRotation(w, &answer) }); err != nil {
		return err
	}
	if len(answer.Failed) > 0 || answer.Below > 0 {
		return failf(exitFailed, codeIncomplete,
			"%d of the credentials could not be sealed again, %d are below version %d: seal them anew or remove them, and run it again",
			len(answer.Failed), answer.Below, answer.To)
	}
	return nil
}

// nextVersion is the version to rotate to when none is named: the present one
// if a rotation to it left something behind, else the next.
func nextVersion(h home, store *vault.CredentialStore) (uint32, error) {
	info, err := vault.ReadInfo(string(h))
	if err != nil {
		return 0, err
	}
	credentials, err := store.List()
	if err != nil {
		return 0, err
	}
	for _, c := range credentials {
		if c.KeyVersion < info.KeyVersion {
			return info.KeyVersion, nil
		}
	}
	return info.KeyVersion + 1, nil
}

func printRotation(w *bytes.Buffer, r *rotateAnswer) {
	did := "sealed again with"
	if r.DryRun {
		did = "would be sealed again with"
	}
	for _, name := range r.Rotated {
		fmt.Fprintf(w, "%s: %s version %d\n", name, did, r.To)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Failed)) {
		fmt.Fprintf(w, "%s: stays as it is: %s\n", name, oneLine(r.Failed[name]))
	}
	if r.DryRun {
		fmt.Fprintf(w, "Nothing was changed. %d would be left below version %d.\n", r.Below, r.To)
		return
	}
	fmt.Fprintf(w, "Read again: %d left below version %d.\n", r.Below, r.To)
}
