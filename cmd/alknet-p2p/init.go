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
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/vault"
)

// initFlags are the choices of init.
type initFlags struct {
	restore    string
	wordsFile  string
	words      int
	device     uint32
	generation uint32
	workFactor int
	passphrase passphraseFlags
}

func newInit(a *app) *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make this machine's key, or restore it from its words",
		Long: `Makes the key of a node and keeps it in the home, sealed with a passphrase.
The words that are shown once are the key itself: whoever has them is the node,
and without them it is lost with the machine. They are shown on a terminal only,
and three of them are asked back before anything is made.

On a terminal init asks for what it needs. Without one it needs
--passphrase-file (or --passphrase-fd, or the credential alknet-p2p.passphrase
of systemd), and --words-file to write new words to.

The file of new words is there, whole, before the vault is: where it is left
without one, as by a power cut, --restore goes on from it.

--restore makes the key again from its words. A key that had been replaced by
vault rotate-identity is of a later generation, which the recovery kit names.
Several nodes may have the same words if each has a --device index of its own.
--bip39-passphrase adds a passphrase to the words themselves: it is stored
nowhere and asked for whenever the vault opens.`,
		Example: `  alknet-p2p init
  alknet-p2p init --restore - --passphrase-file pass < words
  alknet-p2p init --passphrase-file pass --words-file words`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.restore == "" && f.generation != 0 {
				return usagef("--generation is for --restore: a new key is of generation 0")
			}
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
	flags.StringVar(&f.restore, "restore", "", "restore from the words in this `file`, or - for the terminal or standard input")
	flags.StringVar(&f.wordsFile, "words-file", "", "write the new words to this `file` (0600) and show them nowhere")
	flags.IntVar(&f.words, "words", vault.DefaultWords, "how many new words: 12, 15, 18, 21 or 24")
	flags.Uint32Var(&f.device, "device", 0, "index of this node among those with the same words")
	flags.Uint32Var(&f.generation, "generation", 0, "with --restore: the key's generation, as the recovery kit names it")
	flags.IntVar(&f.workFactor, "work-factor", vault.DefaultWorkFactor, "cost of a try at the passphrase, 2^`N`; 15 for a small machine")
	flags.BoolVar(&f.passphrase.bip39, "bip39-passphrase", false, "ask for a passphrase that belongs to the words")
	f.passphrase.add(cmd)
	return cmd
}

// initialise makes the vault of a home.
func (a *app) initialise(ctx context.Context, h home, f initFlags) (*vault.Info, error) {
	if err := vault.HardenProcess(); err != nil {
		return nil, err
	}
	switch info, err := vault.ReadInfo(string(h)); {
	case err == nil:
		return nil, failf(exitFailed, codeExists, "there is a vault in %s already, of %s", h, info.Identity)
	case !errors.Is(err, vault.ErrNoVault):
		return nil, err // there is one, or what would be the home is not private
	}
	if err := a.checkInit(f); err != nil {
		return nil, err
	}
	options := vault.FileOptions{Device: f.device, Generation: f.generation, WorkFactor: f.workFactor}
	words, err := a.words(ctx, f)
	if err != nil {
		return nil, err
	}
	defer words.Wipe()
	if options.BIP39Passphrase, err = a.bip39PassphraseOf(ctx, f.passphrase, f.restore == ""); err != nil {
		return nil, err
	}
	defer clear(options.BIP39Passphrase)
	passphrase, err := a.newPassphrase(ctx, f.passphrase, "--passphrase-file FILE")
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	if f.restore == "" {
		if err := a.handOver(ctx, words, f.wordsFile); err != nil {
			return nil, err
		}
	}
	// Before the vault, with which all is done: those of a later generation
	// than the vault's are not used (see handOvers).
	if err := h.restoreHandOvers(ctx, words, options); err != nil {
		return nil, err
	}
	info, err := vault.Create(string(h), words, passphrase, options)
	if err != nil {
		_, none := vault.ReadInfo(string(h))
		if f.wordsFile != "" && (errors.Is(none, vault.ErrNoVault) || errors.Is(err, vault.ErrExists)) {
			_ = os.Remove(f.wordsFile) // the words of no vault
		}
		return nil, err
	}
	action := "vault.create"
	if f.restore != "" {
		action = "vault.restore"
	}
	a.audit(h, action, info.Identity, nil)
	return info, nil
}

// checkInit refuses what cannot end well before anything is asked.
func (a *app) checkInit(f initFlags) error {
	switch f.words {
	case 0, 12, 15, 18, 21, 24: // 0 is the default, where there is no flag
	default:
		return usagef("--words %d: a key has 12, 15, 18, 21 or 24 words", f.words)
	}
	switch {
	case f.restore != "" && f.wordsFile != "":
		return usagef("--words-file is for new words, not for --restore")
	case f.restore == "-" && f.passphrase.usesStdin():
		return usagef("the words and the passphrase cannot both come from standard input")
	case f.device > vault.MaxIndex || f.generation > vault.MaxIndex:
		return usagef("--device and --generation end at %d", vault.MaxIndex)
	case f.wordsFile != "" && isTaken(f.wordsFile):
		return failf(exitFailed, codeExists, "%s is there already: words are not written over anything; if an init that was cut off has left it, go on with --restore %s",
			f.wordsFile, quote(f.wordsFile))
	case a.interactive():
		return nil
	case !f.passphrase.given() && os.Getenv("CREDENTIALS_DIRECTORY") == "":
		return usagef("init needs a terminal to ask for a passphrase, or --passphrase-file FILE")
	case f.restore == "" && f.wordsFile == "":
		return usagef("init needs a terminal to show the words on, or --words-file FILE")
	}
	return nil
}

// words are the ones to restore from, or new ones.
func (a *app) words(ctx context.Context, f initFlags) (*vault.Mnemonic, error) {
	if f.restore != "" {
		return a.readWords(ctx, f.restore)
	}
	words := f.words
	if words == 0 {
		words = vault.DefaultWords
	}
	return vault.NewMnemonic(words)
}

// maxWords bounds words that are read, in bytes.
const maxWords = 4 << 10

// readWords reads the words of a key from a file, or with - from the terminal
// or standard input.
func (a *app) readWords(ctx context.Context, from string) (*vault.Mnemonic, error) {
	var text []byte
	var err error
	switch {
	case from != "-":
		text, err = vault.ReadPassphraseFile(from)
	case a.interactive():
		text, err = a.secretLine(ctx, "The words, separated by spaces (they are not shown): ")
	default:
		text, err = readInput(a.in, maxWords)
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

// handOver gives new words to their owner: into a file, or on the terminal,
// where three of them are asked back before anything depends on them.
func (a *app) handOver(ctx context.Context, words *vault.Mnemonic, file string) error {
	var phrase []byte
	if err := words.Use(func(b []byte) { phrase = bytes.Clone(b) }); err != nil {
		return err
	}
	defer clear(phrase)
	if file != "" {
		return writeSecretFile(file, func(w io.Writer) error {
			_, err := w.Write(phrase)
			_, lfErr := io.WriteString(w, "\n")
			return errors.Join(err, lfErr)
		})
	}
	list := bytes.Fields(phrase)
	a.tellf("\nThese words are the key of this node. Write them down on paper, in this order;\nthey are shown only now.\n")
	table := wordTable(list)
	_, err := a.err.Write(table)
	clear(table)
	if err != nil {
		return err
	}
	a.tellf("")
	places, err := pick(asked, len(list))
	if err != nil {
		return err
	}
	for _, i := range places {
		if err := a.askBack(ctx, i, list[i]); err != nil {
			return err
		}
	}
	return nil
}

// wordTable is the words in rows of four with their numbers. The caller clears
// it.
func wordTable(list [][]byte) []byte {
	const longest = 8 // no word is longer
	table := make([]byte, 0, len(list)*(len("   24 \n")+longest+1))
	for i, word := range list {
		table = fmt.Appendf(table, "  %2d ", i+1)
		table = append(table, word...)
		if i%4 == 3 || i == len(list)-1 {
			table = append(table, '\n')
			continue
		}
		for range longest - len(word) {
			table = append(table, ' ')
		}
	}
	return table
}

// asked is how many words are asked back.
const asked = 3

// pick returns n different places below size, in order of chance.
func pick(n, size int) ([]int, error) {
	places := make([]int, size)
	for i := range places {
		j, err := rand.Int(rand.Reader, big.NewInt(int64(i+1)))
		if err != nil {
			return nil, err
		}
		places[i] = places[j.Int64()]
		places[j.Int64()] = i
	}
	return places[:n], nil
}

// askBack asks for a word until it is right.
func (a *app) askBack(ctx context.Context, place int, word []byte) error {
	for range 3 {
		got, err := a.line(ctx, fmt.Sprintf("Word %d: ", place+1))
		if err != nil {
			return err
		}
		if strings.EqualFold(got, string(word)) {
			return nil
		}
		a.tellf("That is not word %d.", place+1)
	}
	return failf(exitFailed, codeFailed, "the words were not written down; nothing was made")
}
