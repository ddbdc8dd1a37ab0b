package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/alkdev/alknet-p2p/vault"
)

// passphraseFlags are where a command that opens the vault gets its
// passphrases from; on a terminal it asks for what is missing.
type passphraseFlags struct {
	file      string
	bip39File string
}

// nodeKey is what the vault gives to the node.
type nodeKey struct {
	private    ed25519.PrivateKey
	next       ed25519.PublicKey
	generation uint32
}

// openVault opens the vault of the home for as long as it takes to derive the
// node's key.
func (a *app) openVault(ctx context.Context, h home, p passphraseFlags) (*nodeKey, error) {
	// Whether there is a vault at all, before anybody is asked for its
	// passphrase; opening it repairs a damaged sidecar.
	if _, err := vault.ReadInfo(string(h)); err != nil && !errors.Is(err, vault.ErrCorruptFile) {
		return nil, err
	}
	passphrase, err := a.passphrase(ctx, p.file, "Passphrase of the vault: ", "--passphrase-file FILE")
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	var bip39 []byte
	if p.bip39File != "" {
		if bip39, err = vault.ReadPassphraseFile(p.bip39File); err != nil {
			return nil, err
		}
		defer clear(bip39)
	}
	v, err := vault.Open(string(h), passphrase, bip39)
	if err != nil {
		return nil, err
	}
	defer v.Close()
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

// passphrase reads one from a file, or asks for it on the terminal; flag is
// what to say when there is neither. The caller clears it.
func (a *app) passphrase(ctx context.Context, file, prompt, flag string) ([]byte, error) {
	if file != "" {
		return vault.ReadPassphraseFile(file)
	}
	if !a.interactive() {
		return nil, failf(exitNoDaemon, codeVaultLocked, "the vault is locked and there is no terminal to ask for its passphrase: give %s", flag)
	}
	return a.secretLine(ctx, prompt)
}

// interactive reports whether a person can be asked.
func (a *app) interactive() bool { return isTerminal(a.in) && isTerminal(a.err) }

// secretLine asks for a line without showing it.
func (a *app) secretLine(ctx context.Context, prompt string) ([]byte, error) {
	defer a.tellf("") // the line's end is not shown either
	fd := int(a.in.Fd())
	return a.ask(ctx, prompt, func() ([]byte, error) { return term.ReadPassword(fd) })
}

// line asks for a line that may be seen.
func (a *app) line(ctx context.Context, prompt string) (string, error) {
	text, err := a.ask(ctx, prompt, func() ([]byte, error) {
		text, err := bufio.NewReader(a.in).ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(text) > 0 {
			err = nil
		}
		return text, err
	})
	return strings.TrimSpace(string(text)), err
}

// ask reads an answer from the terminal, unless ctx ends first: then the
// terminal is left as it was, and the reading to the end of the process.
func (a *app) ask(ctx context.Context, prompt string, read func() ([]byte, error)) ([]byte, error) {
	before, err := term.GetState(int(a.in.Fd()))
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(a.err, prompt); err != nil {
		return nil, err
	}
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case got := <-answers:
		return got.text, got.err
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(int(a.in.Fd()), before))
	}
}

// writeSecretFile makes a file that only this user can read; it must not be
// there yet.
func writeSecretFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Sync(), f.Close())
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}
