package main

import (
	"bufio"
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
func (a *app) openVault(h home, p passphraseFlags) (*nodeKey, error) {
	// Whether there is a vault at all, before anybody is asked for its
	// passphrase; opening it repairs a damaged sidecar.
	if _, err := vault.ReadInfo(string(h)); err != nil && !errors.Is(err, vault.ErrCorruptFile) {
		return nil, err
	}
	passphrase, err := a.passphrase(p.file, "Passphrase of the vault: ", "--passphrase-file FILE")
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
func (a *app) passphrase(file, prompt, flag string) ([]byte, error) {
	if file != "" {
		return vault.ReadPassphraseFile(file)
	}
	if !a.interactive() {
		return nil, failf(exitNoDaemon, codeVaultLocked, "the vault is locked and there is no terminal to ask for its passphrase: give %s", flag)
	}
	return a.secretLine(prompt)
}

// interactive reports whether a person can be asked.
func (a *app) interactive() bool { return isTerminal(a.in) && isTerminal(a.err) }

// secretLine asks for a line without showing it.
func (a *app) secretLine(prompt string) ([]byte, error) {
	a.prompt(prompt)
	line, err := term.ReadPassword(int(a.in.Fd()))
	a.tellf("")
	return line, err
}

func (a *app) prompt(text string) { _, _ = io.WriteString(a.err, text) }

// line asks for a line that may be seen.
func (a *app) line(prompt string) (string, error) {
	a.prompt(prompt)
	text, err := bufio.NewReader(a.in).ReadString('\n')
	if errors.Is(err, io.EOF) && text != "" {
		err = nil
	}
	return strings.TrimSpace(text), err
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
