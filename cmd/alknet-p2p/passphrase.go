package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/vault"
)

// passphraseFlags say where a command that opens the vault gets its
// passphrases from. Without them it looks at the credentials of systemd, then
// at the system's keyring if the passphrase was put there, and asks on a
// terminal at last.
type passphraseFlags struct {
	file      string
	fd        descriptor
	bip39     bool
	bip39File string
}

// add declares the flags of a command that opens or makes a vault.
func (p *passphraseFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&p.file, "passphrase-file", "", "`file` (0600) whose first line is the vault's passphrase")
	flags.Var(&p.fd, "passphrase-fd", "`descriptor` from which the vault's passphrase is read, 0 for standard input")
	flags.StringVar(&p.bip39File, "bip39-passphrase-file", "", "`file` (0600) with the passphrase that belongs to the words, if there is one")
}

// given reports whether a flag names where the passphrase is.
func (p *passphraseFlags) given() bool { return p.file != "" || p.fd.set }

// usesStdin reports whether standard input is taken.
func (p *passphraseFlags) usesStdin() bool { return p.fd.set && p.fd.number == 0 }

// credentialFile is the passphrase as systemd hands it to a service
// (LoadCredential= and LoadCredentialEncrypted= in systemd.exec(5)).
const credentialFile = "alknet-p2p.passphrase" //nolint:gosec // a name

// passphraseOf reads the passphrase from where the flags say, else from the
// credentials of systemd; nil when there is none. The caller clears it.
func (a *app) passphraseOf(p passphraseFlags) ([]byte, error) {
	switch {
	case p.file != "" && p.fd.set:
		return nil, usagef("--passphrase-file and --passphrase-fd exclude each other")
	case p.file != "":
		return vault.ReadPassphraseFile(p.file)
	case p.usesStdin():
		return firstLine(a.in, "standard input")
	case p.fd.set:
		f := os.NewFile(uintptr(p.fd.number), fmt.Sprintf("descriptor %d", p.fd.number))
		if f == nil {
			return nil, usagef("--passphrase-fd %d: there is no such descriptor", p.fd.number)
		}
		defer f.Close()
		return firstLine(f, f.Name())
	}
	// The variable names a folder that only this service can read; the secret
	// itself is in no environment.
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(dir, credentialFile)) //nolint:gosec // systemd's folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Not through ReadPassphraseFile: systemd lets the service read its
	// credentials by an access list, which looks like a group's right.
	return firstLine(f, f.Name())
}

// bip39PassphraseOf reads the passphrase of the words, nil when there is none;
// twice asks for it twice. The caller clears it.
func (a *app) bip39PassphraseOf(ctx context.Context, p passphraseFlags, twice bool) ([]byte, error) {
	const prompt = "The passphrase that belongs to the words: "
	switch {
	case p.bip39File != "" && p.bip39:
		return nil, usagef("--bip39-passphrase and --bip39-passphrase-file exclude each other")
	case p.bip39File != "":
		return vault.ReadPassphraseFile(p.bip39File)
	case !p.bip39:
		return nil, nil
	case !a.interactive():
		return nil, usagef("there is no terminal to ask for the passphrase of the words on: give --bip39-passphrase-file FILE")
	case twice:
		return a.secretLineTwice(ctx, prompt)
	}
	return a.secretLine(ctx, prompt)
}

// newPassphrase is one to seal a vault with: from where the flags say, or
// asked for twice. flag is what to say when there is neither.
func (a *app) newPassphrase(ctx context.Context, p passphraseFlags, flag string) ([]byte, error) {
	passphrase, err := a.passphraseOf(p)
	switch {
	case err != nil || passphrase != nil:
		return passphrase, err
	case !a.interactive():
		return nil, usagef("there is no terminal to ask for a new passphrase on: give %s", flag)
	}
	return a.secretLineTwice(ctx, "A passphrase to seal the key with: ")
}

// maxLine is the longest line that firstLine reads: a passphrase, or the words
// of a key.
const maxLine = 1024

// firstLine reads a line without its end, byte for byte. The caller clears it.
func firstLine(r io.Reader, name string) ([]byte, error) {
	buf := make([]byte, maxLine+len("\r\n"))
	defer clear(buf)
	n, end := 0, -1
	for end < 0 && n < len(buf) {
		read, err := r.Read(buf[n:])
		n += read
		end = bytes.IndexByte(buf[:n], '\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read passphrase: %w", err)
		}
	}
	line := buf[:n]
	if end >= 0 {
		line = bytes.TrimSuffix(buf[:end], []byte("\r"))
	}
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("%w: %s gives an empty one", vault.ErrPassphrase, name)
	case len(line) > maxLine:
		return nil, fmt.Errorf("%w: that of %s is longer than %d bytes", vault.ErrPassphrase, name, maxLine)
	}
	return slices.Clone(line), nil
}

// descriptor is a flag: the number of an open file of this process.
type descriptor struct {
	number int
	set    bool
}

// Set implements pflag.Value.
func (d *descriptor) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n == 1 || n == 2 {
		return errors.New("want the number of an open descriptor, 0 or from 3 on")
	}
	*d = descriptor{n, true}
	return nil
}

// Type implements pflag.Value.
func (d *descriptor) Type() string { return "descriptor" }

// String implements pflag.Value.
func (d *descriptor) String() string {
	if !d.set {
		return ""
	}
	return strconv.Itoa(d.number)
}
