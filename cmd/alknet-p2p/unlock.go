package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"runtime"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/vault"
)

// nodeKey is what the vault gives to the node.
type nodeKey struct {
	private    ed25519.PrivateKey
	next       ed25519.PublicKey
	generation uint32
	lent       map[string]call.Capabilities // to operations, by credential
}

// openVault opens the vault of the home for as long as it takes to derive the
// node's key and to open the credentials that the operations of c need: the
// seed is gone before the node starts.
func (a *app) openVault(ctx context.Context, h home, p passphraseFlags, c *config) (*nodeKey, error) {
	if err := c.checkCredentials(h); err != nil {
		return nil, err
	}
	v, err := a.unlock(ctx, h, p)
	if err != nil {
		return nil, err
	}
	defer a.lock(h, v)
	if runtime.GOOS == "linux" && !v.MemoryLocked() {
		a.sayf("Warning: the seed may be swapped out while the vault opens: the limit on locked memory is used up (ulimit -l).")
	}
	key, err := readNodeKey(h, v)
	if err != nil {
		return nil, err
	}
	key.lent, err = a.openCredentials(h, v, c)
	return key, err
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

// unlock opens the vault of a home. Close it with lock.
func (a *app) unlock(ctx context.Context, h home, p passphraseFlags) (v *vault.Vault, err error) {
	err = a.withPassphrase(ctx, h, p, func(passphrase, bip39 []byte) (err error) {
		v, err = vault.Open(string(h), passphrase, bip39)
		return err
	})
	return v, err
}

// lock wipes an open vault.
func (a *app) lock(h home, v *vault.Vault) {
	_ = v.Close() // never fails
	a.audit(h, "vault.lock", "", nil)
}

// withPassphrase lets use have the passphrase of the vault file and, if there
// is one, that of its words. The former comes from where the flags say, else
// from systemd's credentials, else from the system's keyring, else from the
// person at the terminal, who may try again when use says that it is wrong.
func (a *app) withPassphrase(ctx context.Context, h home, p passphraseFlags, use func(passphrase, bip39 []byte) error) error {
	if err := vault.HardenProcess(); err != nil {
		return err
	}
	// Whether there is a vault at all, before anybody is asked for its
	// passphrase; opening it repairs a damaged sidecar.
	if _, err := vault.ReadInfo(string(h)); err != nil && !errors.Is(err, vault.ErrCorruptFile) {
		return err
	}
	bip39, err := a.bip39PassphraseOf(ctx, p, false)
	if err != nil {
		return err
	}
	defer func() { clear(bip39) }()
	try := func(passphrase []byte) error {
		defer clear(passphrase)
		err := use(passphrase, bip39)
		if errors.Is(err, vault.ErrBIP39PassphraseMissing) && a.interactive() {
			p.bip39 = true
			if bip39, err = a.bip39PassphraseOf(ctx, p, false); err == nil {
				err = use(passphrase, bip39)
			}
		}
		if ctx.Err() == nil {
			a.audit(h, "vault.unlock", "", err)
		}
		return err
	}
	passphrase, err := a.passphraseOf(p)
	if err != nil {
		return err
	}
	if passphrase != nil {
		return try(passphrase)
	}
	if passphrase := a.fromKeyring(ctx, h); passphrase != nil {
		err := try(passphrase)
		if !isWrong(err) {
			return err
		}
		a.tellf("The passphrase in the system's keyring does not open this vault.")
	}
	if !a.interactive() {
		return failf(exitNoDaemon, codeVaultLocked,
			"the vault is locked and there is no terminal to ask for its passphrase: give --passphrase-file FILE")
	}
	return a.tryByHand(ctx, try)
}

// tries is how often a person may type the passphrase; each one after the
// first waits a second longer than the one before.
const tries = 3

func (a *app) tryByHand(ctx context.Context, try func(passphrase []byte) error) error {
	return a.tryThrice(ctx, func() error {
		passphrase, err := a.secretLine(ctx, "Passphrase of the vault: ")
		if err != nil {
			return err
		}
		return try(passphrase)
	})
}

func (a *app) tryThrice(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if !isWrong(err) || n == tries {
			return err
		}
		a.tellf("That is not it.")
		select {
		case <-time.After(time.Duration(n) * time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isWrong reports whether a passphrase was the fault.
func isWrong(err error) bool {
	return errors.Is(err, vault.ErrWrongPassphrase) || errors.Is(err, vault.ErrPassphrase)
}
