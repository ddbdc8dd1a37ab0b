package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"time"

	"github.com/alkdev/alknet-p2p/vault"
)

// nodeKey is what the vault gives to the node.
type nodeKey struct {
	private    ed25519.PrivateKey
	next       ed25519.PublicKey
	generation uint32
}

// openVault opens the vault of the home for as long as it takes to derive the
// node's key.
func (a *app) openVault(ctx context.Context, h home, p passphraseFlags) (*nodeKey, error) {
	v, err := a.unlock(ctx, h, p)
	if err != nil {
		return nil, err
	}
	defer a.lock(h, v)
	return readNodeKey(h, v)
}

func readNodeKey(h home, v *vault.Vault) (*nodeKey, error) {
	info, err := vault.ReadInfo(string(h))
	if err != nil {
		return nil, err
	}
	identity, err := v.IdentityKey()
	if err != nil {
		return nil, err
	}
	defer identity.Wipe()
	key := &nodeKey{generation: info.Generation}
	if err := identity.Use(func(seed []byte) { key.private = ed25519.NewKeyFromSeed(seed) }); err != nil {
		return nil, err
	}
	key.next, err = v.NextPublicKey()
	return key, err
}

// unlock opens the vault of a home, with a passphrase from where the flags
// say, from systemd's credentials, from the system's keyring, or from the
// person at the terminal. Close it with lock.
func (a *app) unlock(ctx context.Context, h home, p passphraseFlags) (*vault.Vault, error) {
	harden()
	// Whether there is a vault at all, before anybody is asked for its
	// passphrase; opening it repairs a damaged sidecar.
	if _, err := vault.ReadInfo(string(h)); err != nil && !errors.Is(err, vault.ErrCorruptFile) {
		return nil, err
	}
	bip39, err := a.bip39PassphraseOf(ctx, p, false)
	if err != nil {
		return nil, err
	}
	defer func() { clear(bip39) }()
	open := func(passphrase []byte) (*vault.Vault, error) {
		v, err := vault.Open(string(h), passphrase, bip39)
		if errors.Is(err, vault.ErrBIP39PassphraseMissing) && a.interactive() {
			p.bip39 = true
			if bip39, err = a.bip39PassphraseOf(ctx, p, false); err == nil {
				v, err = vault.Open(string(h), passphrase, bip39)
			}
		}
		clear(passphrase)
		if ctx.Err() == nil {
			a.audit(h, "vault.unlock", "", err)
		}
		return v, err
	}
	passphrase, err := a.passphraseOf(p)
	if err != nil {
		return nil, err
	}
	if passphrase != nil {
		return open(passphrase)
	}
	if passphrase := a.fromKeyring(ctx, h); passphrase != nil {
		v, err := open(passphrase)
		if !errors.Is(err, vault.ErrWrongPassphrase) {
			return v, err
		}
		a.tellf("The passphrase in the system's keyring does not open this vault.")
	}
	if !a.interactive() {
		return nil, failf(exitNoDaemon, codeVaultLocked,
			"the vault is locked and there is no terminal to ask for its passphrase: give --passphrase-file FILE")
	}
	return a.unlockByHand(ctx, open)
}

// tries is how often a person may type the passphrase; each one after the
// first takes a second longer than the one before.
const tries = 3

func (a *app) unlockByHand(ctx context.Context, open func([]byte) (*vault.Vault, error)) (*vault.Vault, error) {
	for try := 1; ; try++ {
		passphrase, err := a.secretLine(ctx, "Passphrase of the vault: ")
		if err != nil {
			return nil, err
		}
		v, err := open(passphrase)
		wrong := errors.Is(err, vault.ErrWrongPassphrase) || errors.Is(err, vault.ErrPassphrase)
		if !wrong || try == tries {
			return v, err
		}
		a.tellf("That is not it.")
		select {
		case <-time.After(time.Duration(try) * time.Second):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lock wipes an open vault.
func (a *app) lock(h home, v *vault.Vault) {
	_ = v.Close() // never fails
	a.audit(h, "vault.lock", "", nil)
}
