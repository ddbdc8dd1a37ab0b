package main

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/vault"
)

func newVault(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vault",
		Short: "Look after the key, its words and the credentials sealed with it",
		Long: `The vault holds the words of this node's key, sealed with a passphrase. These
commands open it in their own process, whether the node runs or not; nothing of
it goes over the control socket or any network.

Where a passphrase is needed it comes from --passphrase-file or --passphrase-fd,
else from the credential alknet-p2p.passphrase of systemd, else from the
system's keyring if vault passwd --keyring put it there, else from the terminal.`,
		Args: noArgs,
		RunE: needCommand,
	}
	cmd.AddCommand(newVaultShow(a), newVaultVerify(a), newVaultPasswd(a), newVaultExportKit(a),
		newVaultSeal(a), newVaultOpen(a), newVaultLs(a), newVaultRm(a), newVaultRotate(a), newVaultRotateIdentity(a))
	return cmd
}

// vaultAnswer is what everybody may know of a vault.
type vaultAnswer struct {
	Identity    string `json:"identity"`
	PeerID      string `json:"peer_id"`
	Device      uint32 `json:"device"`
	Generation  uint32 `json:"generation"`
	Path        string `json:"path"`
	Next        string `json:"next"` // commitment to the next key, see vault rotate-identity
	KeyVersion  uint32 `json:"key_version"`
	Credentials int    `json:"credentials"`
	Keyring     bool   `json:"keyring"` // whether the system's keyring has the passphrase
}

func newVaultShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show whose vault this is; needs no passphrase",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			answer, err := describeVault(h)
			if err != nil {
				return err
			}
			return a.show(answer, func(w *bytes.Buffer) {
				keyring := "no"
				if answer.Keyring {
					keyring = "yes"
				}
				table(w, [][]string{
					{"node key", answer.Identity},
					{"peer ID", answer.PeerID},
					{"device", strconv.FormatUint(uint64(answer.Device), 10)},
					{"generation", strconv.FormatUint(uint64(answer.Generation), 10)},
					{"path", answer.Path},
					{"next key", answer.Next},
					{"key version", strconv.FormatUint(uint64(answer.KeyVersion), 10)},
					{"credentials", strconv.Itoa(answer.Credentials)},
					{"in the keyring", keyring},
				})
			})
		},
	}
}

func describeVault(h home) (*vaultAnswer, error) {
	info, err := vault.ReadInfo(string(h))
	if err != nil {
		return nil, err
	}
	path, err := vault.IdentityPath(info.Device, info.Generation)
	if err != nil {
		return nil, err
	}
	credentials, err := vault.NewCredentialStore(string(h)).List()
	if err != nil {
		return nil, err
	}
	return &vaultAnswer{
		Identity: info.Identity, PeerID: info.PeerID, Device: info.Device, Generation: info.Generation,
		Path: string(path), Next: info.Next, KeyVersion: info.KeyVersion,
		Credentials: len(credentials), Keyring: isTaken(h.keyring()),
	}, nil
}

func newVaultVerify(a *app) *cobra.Command {
	var p passphraseFlags
	var file string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that written-down words are those of this vault",
		Long: `Reads the words, from the terminal without showing them or from standard input,
and says whether they give this node's key. Do it once before the node matters.
It needs no passphrase of the vault; words that have a passphrase of their own
need that.`,
		Example: `  alknet-p2p vault verify
  alknet-p2p vault verify < words`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := vault.HardenProcess(); err != nil {
				return err
			}
			h, err := a.home()
			if err != nil {
				return err
			}
			info, err := vault.ReadInfo(string(h))
			if err != nil {
				return err
			}
			words, err := a.readWords(cmd.Context(), file)
			if err != nil {
				return err
			}
			defer words.Wipe()
			bip39, err := a.bip39PassphraseOf(cmd.Context(), p, false)
			if err != nil {
				return err
			}
			defer clear(bip39)
			identity, err := identityOf(words, bip39, info.Device, info.Generation)
			if err != nil {
				return err
			}
			if identity != info.Identity {
				return failf(exitFailed, codeWrongWords,
					"these words give %s, the vault is that of %s; are they of another node, or have they a passphrase of their own (--bip39-passphrase)?",
					identity, info.Identity)
			}
			answer := struct {
				OK       bool   `json:"ok"`
				Identity string `json:"identity"`
			}{true, identity}
			return a.show(answer, func(w *bytes.Buffer) {
				fmt.Fprintf(w, "These are the words of %s.\n", identity)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "words-file", "-", "`file` (0600) with the words, - for the terminal or standard input")
	flags.BoolVar(&p.bip39, "bip39-passphrase", false, "ask for the passphrase that belongs to the words")
	flags.StringVar(&p.bip39File, "bip39-passphrase-file", "", "`file` (0600) with the passphrase that belongs to the words")
	return cmd
}

// identityOf is the key that words give.
func identityOf(words *vault.Mnemonic, bip39 []byte, device, generation uint32) (string, error) {
	v, err := vault.New(vault.Config{Device: device, Generation: generation})
	if err != nil {
		return "", err
	}
	defer v.Close()
	if err := v.Unlock(words, bip39); err != nil {
		return "", err
	}
	public, err := v.PublicKey(v.IdentityPath())
	return vault.FingerprintOf(public), err
}
