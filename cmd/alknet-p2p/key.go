package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/vault"
)

// keyAnswer is the node's own key in every form.
type keyAnswer struct {
	NodeKey string  `json:"node_key"`
	PeerID  string  `json:"peer_id"`
	Ticket  *string `json:"ticket"` // null when the node does not run
	Device  uint32  `json:"device"`
}

func newKeyAnswer(info *vault.Info, ticket *string) keyAnswer {
	return keyAnswer{NodeKey: info.Identity, PeerID: info.PeerID, Ticket: ticket, Device: info.Device}
}

// keyFlags are the choices of key.
type keyFlags struct {
	qr         bool
	device     uint32
	path       string
	passphrase passphraseFlags
}

func newKey(a *app) *cobra.Command {
	var f keyFlags
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print this node's key in every form",
		Long: `Prints the public key of this node: its peers dial it by that. It needs no
passphrase. The ticket, which also says where the node can be found now, is
there while the node runs.

With --device or --path it opens the vault and prints another public key of the
same words: the key a node with that device index has, or the key at any path,
in the forms that programs ask for.`,
		Example: `  alknet-p2p key --qr
  alknet-p2p key --device 1
  alknet-p2p key --path "m/74'/0'/1'/0'"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			device := cmd.Flags().Changed("device")
			switch {
			case device && f.path != "":
				return usagef("--device and --path exclude each other")
			case device:
				path, err := vault.DevicePath(f.device)
				if err != nil {
					return usagef("--device: %s", err)
				}
				return a.keyAt(cmd.Context(), h, path, f)
			case f.path != "":
				path, err := vault.ParsePath(f.path)
				if err != nil {
					return usagef("--path: %s", err)
				}
				return a.keyAt(cmd.Context(), h, path, f)
			case f.passphrase.given():
				return usagef("a passphrase is for --device and --path: this node's own key needs none")
			}
			info, err := vault.ReadInfo(string(h))
			if err != nil {
				return err
			}
			ticket, err := runningTicket(cmd.Context(), h)
			if err != nil {
				return err
			}
			return a.show(newKeyAnswer(info, ticket), func(w *bytes.Buffer) {
				printKey(w, info)
				if ticket != nil {
					fmt.Fprintf(w, "ticket    %s\n", *ticket)
				}
				if f.qr {
					printQR(w, info.Identity)
				}
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.qr, "qr", false, "print the key as a QR code too")
	flags.Uint32Var(&f.device, "device", 0, "the first key of the node with this `index` instead")
	flags.StringVar(&f.path, "path", "", "the public key at this derivation `path` instead")
	f.passphrase.add(cmd)
	return cmd
}

// runningTicket is the ticket of the home's node, nil when it does not run.
func runningTicket(ctx context.Context, h home) (*string, error) {
	ticket, err := newClient(h).ticket(ctx)
	switch {
	case isNotRunning(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &ticket, nil
}

func printKey(w *bytes.Buffer, info *vault.Info) {
	fmt.Fprintf(w, "node key  %s\npeer ID   %s\n", info.Identity, info.PeerID)
}

func printQR(w *bytes.Buffer, text string) {
	qrterminal.GenerateHalfBlock(text, qrterminal.L, w)
}
