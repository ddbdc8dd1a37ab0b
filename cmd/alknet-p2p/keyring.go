package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zalando/go-keyring"

	"github.com/alkdev/alknet-p2p/vault"
)

// The keyring of the user's desktop may hold the passphrase of the vault file.
// A file in the home, keyring, tells that it does, under which name: where it
// is not, no keyring is asked, so that a machine without one never hears of it.

const keyringService = "alknet-p2p"

func (h home) keyring() string { return filepath.Join(string(h), "keyring") }

// fromKeyring is the passphrase in the keyring, nil when there is none there;
// why a keyring that should have it does not give it, it says in one line. The
// caller clears it.
func (a *app) fromKeyring(ctx context.Context, h home) []byte {
	account, err := vault.ReadPassphraseFile(h.keyring())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var passphrase string
	if err == nil {
		passphrase, err = unlessDone(ctx, func() (string, error) { return keyring.Get(keyringService, string(account)) })
	}
	if err != nil {
		a.tellf("The system's keyring does not give the passphrase: %s", oneLine(err.Error()))
		return nil
	}
	return []byte(passphrase)
}

// intoKeyring puts the passphrase into the keyring.
func (a *app) intoKeyring(ctx context.Context, h home, account string, passphrase []byte) error {
	_, err := unlessDone(ctx, func() (struct{}, error) {
		return struct{}{}, keyring.Set(keyringService, account, string(passphrase))
	})
	if err != nil {
		return fmt.Errorf("the system's keyring does not take the passphrase: %w", err)
	}
	_ = os.Remove(h.keyring())
	return writeSecretFile(h.keyring(), func(w io.Writer) error {
		_, err := io.WriteString(w, account+"\n")
		return err
	})
}

// outOfKeyring takes the passphrase out of the keyring if it is there.
func (a *app) outOfKeyring(ctx context.Context, h home) error {
	account, err := vault.ReadPassphraseFile(h.keyring())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// The file first: what is not looked for does no harm.
	if err := os.Remove(h.keyring()); err != nil {
		return err
	}
	_, err = unlessDone(ctx, func() (struct{}, error) { return struct{}{}, keyring.Delete(keyringService, string(account)) })
	if err != nil && !errors.Is(err, keyring.ErrNotFound) {
		return fmt.Errorf("the old passphrase stays in the system's keyring: %w", err)
	}
	return nil
}

// unlessDone is f, unless ctx ends first: a keyring may be asking the person in a
// window of its own. Then f is left to the end of the process.
func unlessDone[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	go func() {
		value, err := f()
		results <- result{value, err}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
