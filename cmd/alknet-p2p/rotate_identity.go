package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/vault"
)

// defaultOverlap is how long the old key stays good: long enough for peers that
// are seldom up.
const defaultOverlap = 30 * 24 * time.Hour

func newVaultRotateIdentity(a *app) *cobra.Command {
	overlap := lifetime{defaultOverlap}
	var (
		p      passphraseFlags
		revoke bool
	)
	cmd := &cobra.Command{
		Use:   "rotate-identity",
		Short: "Give the node the key it is committed to, and tell the peers",
		Long: `Replaces the node's key by the next one of the same words. Both keys sign a
hand-over; the node publishes it and shows it to its peers when it runs again.
They take up the new key when they are told to follow this node, or when a
person says so (peer follow). Until --overlap has passed, they take the old key
for this node too.

--revoke ends the old key at once, for when somebody else may have it. Whoever
has the words has all keys: for stolen words make a new vault instead.

The node must not be running. The recovery kit names the generation of the key:
write the new one down, or count one more for each time.`,
		Example: `  alknet-p2p vault rotate-identity
  alknet-p2p vault rotate-identity --revoke`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if revoke && cmd.Flags().Changed("overlap") {
				return usagef("--overlap and --revoke exclude each other")
			}
			if revoke {
				overlap.Duration = 0
			}
			if overlap.Duration > discovery.MaxHandOverLife {
				return usagef("--overlap is %d days at most", int(discovery.MaxHandOverLife.Hours()/24))
			}
			return a.rotateIdentity(cmd.Context(), p, overlap.Duration)
		},
	}
	p.add(cmd)
	cmd.Flags().Var(&overlap, "overlap", "how long the old key stays good, such as 24h or 30d")
	cmd.Flags().BoolVar(&revoke, "revoke", false, "end the old key at once")
	return cmd
}

func (a *app) rotateIdentity(ctx context.Context, p passphraseFlags, overlap time.Duration) error {
	h, err := a.home()
	if err != nil {
		return err
	}
	before, err := vault.ReadInfo(string(h))
	if err != nil {
		return err
	}
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var (
		after    *vault.Info
		handOver *discovery.HandOver
	)
	err = a.withPassphrase(ctx, h, p, func(passphrase, bip39 []byte) error {
		v, err := vault.Open(string(h), passphrase, bip39)
		if err != nil {
			return err
		}
		defer v.Close()
		if handOver, err = handOverTo(v, before.Device, before.Generation+1, overlap); err != nil {
			return err
		}
		// Kept first: one that is not carried out is not used (see handOvers).
		if err := h.keepHandOver(ctx, handOver); err != nil {
			return err
		}
		after, err = vault.RotateIdentity(string(h), passphrase, bip39, before.Generation+1)
		a.audit(h, "vault.rotate-identity", before.Identity, err)
		return err
	})
	if err != nil {
		return err
	}
	answer := struct {
		NodeKey    string    `json:"node_key"`
		PeerID     string    `json:"peer_id"`
		Generation uint32    `json:"generation"`
		OldKey     string    `json:"old_key"`
		OldUntil   time.Time `json:"old_until"`
	}{after.Identity, after.PeerID, after.Generation, before.Identity, handOver.Expiry}
	if err := a.show(answer, func(w *bytes.Buffer) {
		fmt.Fprintf(w, "node key    %s\npeer ID     %s\ngeneration  %d\n", answer.NodeKey, answer.PeerID, answer.Generation)
	}); err != nil {
		return err
	}
	if overlap == 0 {
		a.sayf("The old key is revoked.")
	} else {
		a.sayf("The old key is good until %s.", handOver.Expiry.Format(time.RFC3339))
	}
	a.sayf("Start the node, which tells its peers; tickets of the old key are void. Write generation %d into the recovery kit.", after.Generation)
	return nil
}

// handOverTo makes the hand-over from the generation before to this one, signed
// with both keys; without overlap it revokes the old one.
func handOverTo(v *vault.Vault, device, generation uint32, overlap time.Duration) (*discovery.HandOver, error) {
	oldKey, err := v.IdentitySigner(device, generation-1)
	if err != nil {
		return nil, err
	}
	newKey, err := v.IdentitySigner(device, generation)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	o := &discovery.HandOver{Generation: generation, Issued: now, Expiry: now.Add(overlap)}
	if o.Old, err = auth.PeerFromFingerprint(vault.FingerprintOf(oldKey.Public().(ed25519.PublicKey))); err != nil {
		return nil, err
	}
	if o.New, err = auth.PeerFromFingerprint(vault.FingerprintOf(newKey.Public().(ed25519.PublicKey))); err != nil {
		return nil, err
	}
	if generation < vault.MaxIndex {
		later, err := v.IdentitySigner(device, generation+1)
		if err != nil {
			return nil, err
		}
		next, err := auth.PeerFromFingerprint(vault.FingerprintOf(later.Public().(ed25519.PublicKey)))
		if err != nil {
			return nil, err
		}
		if o.Next, err = discovery.Commitment(next); err != nil {
			return nil, err
		}
	}
	sealed, err := discovery.SealHandOver(o, oldKey, newKey)
	if err != nil {
		return nil, err
	}
	return discovery.OpenHandOver(sealed)
}

// restoreHandOvers makes those that led to a restored key anew: peers that were
// away meanwhile follow them to it. Nothing says how long the old keys were to be
// good, so they are revoked.
func (h home) restoreHandOvers(ctx context.Context, words *vault.Mnemonic, o vault.FileOptions) error {
	if o.Generation == 0 {
		return nil
	}
	if err := h.make(); err != nil {
		return err
	}
	v, err := vault.New(vault.Config{Device: o.Device, Generation: o.Generation})
	if err != nil {
		return err
	}
	defer v.Close()
	if err := v.Unlock(words, o.BIP39Passphrase); err != nil {
		return err
	}
	for g := max(1, int64(o.Generation)-discovery.MaxHandOvers+1); g <= int64(o.Generation); g++ {
		made, err := handOverTo(v, o.Device, uint32(g), 0)
		if err != nil {
			return err
		}
		if err := h.keepHandOver(ctx, made); err != nil {
			return err
		}
	}
	return nil
}
