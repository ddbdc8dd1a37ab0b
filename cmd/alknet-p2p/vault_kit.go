package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"rsc.io/qr"

	"github.com/alkdev/alknet-p2p/vault"
)

// kitFlags are the choices of vault export-kit.
type kitFlags struct {
	text, html string
	passphrase passphraseFlags
}

func newVaultExportKit(a *app) *cobra.Command {
	var f kitFlags
	cmd := &cobra.Command{
		Use:   "export-kit",
		Short: "Print the recovery kit: the words, and how to restore from them",
		Long: `Prints all that it takes to restore this node on another machine: the words, the
device index, the generation, the derivation, and what to type. It is shown on a
terminal, or written to a file with mode 0600 by --out or, as a page to print,
by --html; never anywhere else. Remove the file once it is printed.`,
		Example: `  alknet-p2p vault export-kit
  alknet-p2p vault export-kit --html kit.html`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.exportKit(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.text, "out", "", "write the kit as text to this `file`, which must not be there yet")
	flags.StringVar(&f.html, "html", "", "write it as a page to print to this `file`, which must not be there yet")
	f.passphrase.add(cmd)
	return cmd
}

func (a *app) exportKit(ctx context.Context, f kitFlags) error {
	shown := f.text == "" && f.html == ""
	switch {
	case shown && a.json:
		return usagef("the kit is not JSON: give --out FILE or --html FILE")
	case shown && !isTerminal(a.out):
		return usagef("standard output is not a terminal: give --out FILE or --html FILE")
	}
	for _, file := range []string{f.text, f.html} {
		if file != "" && isTaken(file) {
			return failf(exitFailed, codeExists, "%s is there already: a kit is not written over anything", file)
		}
	}
	h, err := a.home()
	if err != nil {
		return err
	}
	k, err := a.readKit(ctx, h, f.passphrase)
	if err != nil {
		return err
	}
	defer clear(k.phrase)
	if shown {
		err = k.writeText(a.out)
	}
	var files []string
	if f.text != "" {
		files, err = append(files, f.text), writeSecretFile(f.text, k.writeText)
	}
	if f.html != "" && err == nil {
		files, err = append(files, f.html), writeSecretFile(f.html, k.writeHTML)
	}
	a.audit(h, "vault.export-kit", k.info.Identity, err)
	if err != nil || shown {
		return err
	}
	return a.show(map[string][]string{"files": files}, func(w *bytes.Buffer) {
		for _, file := range files {
			fmt.Fprintf(w, "The kit is in %s. Whoever reads it has the key: print it, then remove it.\n", oneLine(file))
		}
	})
}

// readKit opens the vault file for its words. The caller clears them.
func (a *app) readKit(ctx context.Context, h home, p passphraseFlags) (*kit, error) {
	k := &kit{made: time.Now()}
	err := a.withPassphrase(ctx, h, p, func(passphrase, _ []byte) error {
		read, err := vault.ReadKit(string(h), passphrase)
		if err != nil {
			return err
		}
		defer read.Mnemonic.Wipe()
		k.bip39 = read.BIP39Passphrase
		return read.Mnemonic.Use(func(phrase []byte) { k.phrase = bytes.Clone(phrase) })
	})
	if err != nil {
		return nil, err
	}
	info, err := vault.ReadInfo(string(h))
	if err != nil {
		clear(k.phrase)
		return nil, err
	}
	k.info = *info
	return k, nil
}

// kit is what restores a node.
type kit struct {
	phrase []byte
	bip39  bool // the words have a passphrase, which is nowhere in here
	info   vault.Info
	made   time.Time
}

// restore is what to type.
func (k *kit) restore() string {
	command := "alknet-p2p init --restore -"
	if k.info.Device != 0 {
		command += fmt.Sprintf(" --device %d", k.info.Device)
	}
	if k.info.Generation != 0 {
		command += fmt.Sprintf(" --generation %d", k.info.Generation)
	}
	if k.bip39 {
		command += " --bip39-passphrase"
	}
	return command
}

// facts are the kit's lines that are no secret.
func (k *kit) facts() [][]string {
	path, _ := vault.IdentityPath(k.info.Device, k.info.Generation) // as the vault has it
	return [][]string{
		{"node key", k.info.Identity},
		{"peer ID", k.info.PeerID},
		{"device", strconv.FormatUint(uint64(k.info.Device), 10)},
		{"generation", strconv.FormatUint(uint64(k.info.Generation), 10)},
		{"made on", k.made.Format(time.DateOnly)},
		{"derivation", "BIP-39, then SLIP-0010 ed25519 (slip10)"},
		{"identity", string(path)},
		{"SSH host key", string(vault.SSHHost)},
		{"credentials", "m/74'/2'/0'/{version-2}', AES-256-GCM; version " + strconv.FormatUint(uint64(k.info.KeyVersion), 10)},
		{"Ethereum", string(vault.Ethereum) + " (BIP-32)"},
	}
}

const (
	kitTitle   = "Recovery kit of an alknet-p2p node"
	kitWarning = "Whoever has this page has the key of the node. Keep it away from the machine, as you keep a passport."
	kitBIP39   = "These words have a passphrase of their own, which is not on this page: without it they give another key."
	kitRestore = "To restore, on any machine, type this and then the words. The node key it prints must be the one above."
	kitRest    = "Copy peers.json, config.toml and credentials.json into the new home if you have them: the words do not hold them, " +
		"but they open the credentials. If the key was replaced since this page was made, add 1 to the generation for each time."
)

// writeText writes the kit for a terminal or a text file.
func (k *kit) writeText(w io.Writer) error {
	var facts bytes.Buffer
	table(&facts, k.facts())
	words := wordTable(bytes.Fields(k.phrase))
	defer clear(words)
	note := ""
	if k.bip39 {
		note = kitBIP39 + "\n\n"
	}
	_, err := fmt.Fprintf(w, "%s\n\n%s\n\n%s\nThe words, in this order:\n\n", kitTitle, kitWarning, facts.Bytes())
	_, wordsErr := w.Write(words)
	_, restErr := fmt.Fprintf(w, "\n%s%s\n\n  %s\n\n%s\n", note, kitRestore, k.restore(), kitRest)
	return errors.Join(err, wordsErr, restErr)
}

//go:embed kit.html
var kitHead string

// writeHTML writes the kit as a page that needs nothing from anywhere.
func (k *kit) writeHTML(w io.Writer) error {
	page := make([]byte, 0, 64<<10) // room for all of it, so that no copy of the words is left
	defer func() { clear(page) }()
	line := func(format string, args ...any) { page = fmt.Appendf(page, format+"\n", args...) }
	line(kitHead, kitTitle)
	line("<h1>%s</h1>", kitTitle)
	if code, err := qr.Encode(k.info.Identity, qr.M); err == nil {
		page = appendSVG(page, code)
	}
	line("<p>%s</p>", kitWarning)
	line("<table>")
	for _, fact := range k.facts() {
		line("<tr><th>%s<td>%s", fact[0], html.EscapeString(fact[1]))
	}
	line("</table>")
	line("<h2>The words, in this order</h2>")
	line("<ol>")
	for word := range bytes.FieldsSeq(k.phrase) {
		page = append(append(append(page, "<li>"...), word...), '\n')
	}
	line("</ol>")
	if k.bip39 {
		line("<p><strong>%s</strong></p>", kitBIP39)
	}
	line("<p>%s</p>", kitRestore)
	line("<pre>%s</pre>", k.restore())
	line("<p>%s</p>", kitRest)
	_, err := w.Write(page)
	return err
}

// appendSVG draws a QR code with its quiet zone.
func appendSVG(page []byte, code *qr.Code) []byte {
	const quiet = 4
	size := code.Size + 2*quiet
	page = fmt.Appendf(page, `<svg viewBox="0 0 %d %d" shape-rendering="crispEdges"><path d="`, size, size)
	for y := range code.Size {
		for x := range code.Size {
			if code.Black(x, y) {
				page = fmt.Appendf(page, "M%d %dh1v1h-1z", x+quiet, y+quiet)
			}
		}
	}
	return append(page, "\"/></svg>\n"...)
}
