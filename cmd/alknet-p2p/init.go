package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/vault"
)

// initFlags are the choices of init.
type initFlags struct {
	restore    string
	wordsFile  string
	device     uint32
	workFactor int
	passphrase passphraseFlags
}

func newInit(a *app) *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make this machine's key, or restore it from its words",
		Long: `Makes the key of a node and keeps it in the home, sealed with a passphrase.
The 24 words that are shown once are the key itself: whoever has them is the
node, and without them it is lost with the machine.

On a terminal init asks for what it needs. Without one it needs
--passphrase-file, and --words-file to write new words to.`,
		Example: `  alknet-p2p init
  alknet-p2p init --restore - --passphrase-file pass < words
  alknet-p2p init --passphrase-file pass --words-file words`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			info, err := a.initialise(cmd.Context(), h, f)
			if err != nil {
				return err
			}
			err = a.show(newKeyAnswer(info, nil), func(w *bytes.Buffer) { printKey(w, info) })
			a.sayf("Now start the node: alknet-p2p --home %s up", quote(string(h)))
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.restore, "restore", "", "restore from the words in this `file`, - for standard input")
	flags.StringVar(&f.wordsFile, "words-file", "", "write the new words to this `file` (0600) and show them nowhere")
	flags.Uint32Var(&f.device, "device", 0, "index of this node among those with the same words")
	flags.IntVar(&f.workFactor, "work-factor", vault.DefaultWorkFactor, "cost of a try at the passphrase, 2^`N`; 15 for a small machine")
	f.passphrase.add(cmd)
	return cmd
}

// add declares the flags of a command that opens or makes a vault.
func (p *passphraseFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "passphrase-file", "", "`file` (0600) whose first line is the vault's passphrase")
	cmd.Flags().StringVar(&p.bip39File, "bip39-passphrase-file", "", "`file` (0600) with the passphrase that belongs to the words, if there is one")
}

// initialise makes the vault of a home.
func (a *app) initialise(ctx context.Context, h home, f initFlags) (*vault.Info, error) {
	if info, err := vault.ReadInfo(string(h)); err == nil {
		return nil, failf(exitFailed, codeExists, "there is a vault in %s already, of %s", h, info.Identity)
	}
	if f.restore != "" && f.wordsFile != "" {
		return nil, usagef("--words-file is for new words, not for --restore")
	}
	if !a.interactive() {
		switch {
		case f.passphrase.file == "":
			return nil, usagef("init needs a terminal to ask for a passphrase, or --passphrase-file FILE")
		case f.restore == "" && f.wordsFile == "":
			return nil, usagef("init needs a terminal to show the words on, or --words-file FILE")
		}
	}
	options := vault.FileOptions{Device: f.device, WorkFactor: f.workFactor}
	if f.passphrase.bip39File != "" {
		bip39, err := vault.ReadPassphraseFile(f.passphrase.bip39File)
		if err != nil {
			return nil, err
		}
		defer clear(bip39)
		options.BIP39Passphrase = bip39
	}
	words, err := a.words(ctx, f)
	if err != nil {
		return nil, err
	}
	defer words.Wipe()
	passphrase, err := a.newPassphrase(ctx, f.passphrase.file)
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	if f.restore == "" {
		if err := a.handOver(ctx, words, f.wordsFile); err != nil {
			return nil, err
		}
	}
	info, err := vault.Create(string(h), words, passphrase, options)
	if err != nil && f.wordsFile != "" {
		_ = os.Remove(f.wordsFile) // the words of no vault
	}
	return info, err
}

// words are the ones to restore from, or new ones.
func (a *app) words(ctx context.Context, f initFlags) (*vault.Mnemonic, error) {
	var text []byte
	var err error
	switch {
	case f.restore == "":
		return vault.NewMnemonic(vault.DefaultWords)
	case f.restore != "-":
		text, err = vault.ReadPassphraseFile(f.restore)
	case a.interactive():
		text, err = a.secretLine(ctx, "The words, separated by spaces (they are not shown): ")
	default:
		text, err = readSecret(a.in)
	}
	if err != nil {
		return nil, err
	}
	defer clear(text)
	words, err := vault.ParseMnemonic(text)
	if errors.Is(err, vault.ErrMnemonic) {
		return nil, usagef("these are not the words of a key: %s", err)
	}
	return words, err
}

// readSecret reads a small input to its end, into one buffer.
func readSecret(r io.Reader) ([]byte, error) {
	buf := make([]byte, 4<<10)
	n, err := io.ReadFull(r, buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return buf[:n], nil
	case err == nil:
		clear(buf)
		return nil, usagef("the words are longer than %d bytes", len(buf))
	}
	return nil, err
}

// newPassphrase reads one from a file, or asks for it twice.
func (a *app) newPassphrase(ctx context.Context, file string) ([]byte, error) {
	if file != "" {
		return vault.ReadPassphraseFile(file)
	}
	for {
		first, err := a.secretLine(ctx, "A passphrase to seal the key with: ")
		if err != nil {
			return nil, err
		}
		second, err := a.secretLine(ctx, "The same again: ")
		if err != nil {
			return nil, err
		}
		same := string(first) == string(second)
		clear(second)
		if same && len(first) > 0 {
			return first, nil
		}
		clear(first)
		if same {
			a.tellf("It must not be empty.")
		} else {
			a.tellf("They differ.")
		}
	}
}

// handOver gives new words to their owner: into a file, or on the terminal,
// where two of them are asked back before anything depends on them.
func (a *app) handOver(ctx context.Context, words *vault.Mnemonic, file string) error {
	if file != "" {
		return writeSecretFile(file, func(w io.Writer) (err error) {
			useErr := words.Use(func(phrase []byte) { _, err = w.Write(append(slices.Clip(phrase), '\n')) })
			return errors.Join(useErr, err)
		})
	}
	var list []string
	if err := words.Use(func(phrase []byte) { list = strings.Fields(string(phrase)) }); err != nil {
		return err
	}
	a.tellf("\nThese words are the key of this node. Write them down on paper, in this order;\nthey are shown only now.\n")
	for i := 0; i < len(list); i += 4 {
		row := make([]string, 0, 4)
		for j := i; j < min(i+4, len(list)); j++ {
			row = append(row, fmt.Sprintf("%2d %-10s", j+1, list[j]))
		}
		a.tellf("  %s", strings.TrimRight(strings.Join(row, "  "), " "))
	}
	a.tellf("")
	for range 2 {
		if err := a.askBack(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// askBack asks for one of the words until it is right.
func (a *app) askBack(ctx context.Context, list []string) error {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(list))))
	if err != nil {
		return err
	}
	i := int(n.Int64())
	for range 3 {
		got, err := a.line(ctx, fmt.Sprintf("Word %d: ", i+1))
		if err != nil {
			return err
		}
		if strings.EqualFold(got, list[i]) {
			return nil
		}
		a.tellf("That is not word %d.", i+1)
	}
	return failf(exitFailed, codeFailed, "the words were not written down; nothing was made")
}
