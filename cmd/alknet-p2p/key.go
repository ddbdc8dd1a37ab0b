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

func newKey(a *app) *cobra.Command {
	var qr bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print this node's key in every form",
		Long: `Prints the public key of this node: its peers dial it by that. It needs no
passphrase. The ticket, which also says where the node can be found now, is
there while the node runs.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
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
				if qr {
					printQR(w, info.Identity)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&qr, "qr", false, "print the key as a QR code too")
	return cmd
}

func newTicket(a *app) *cobra.Command {
	var qr bool
	cmd := &cobra.Command{
		Use:   "ticket",
		Short: "Print a ticket: this node's key and where it can be found now",
		Long: `Prints the running node's ticket. Others join the network with it, or name
this node by it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			ticket, err := newClient(h).ticket(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(map[string]string{"ticket": ticket}, func(w *bytes.Buffer) {
				fmt.Fprintln(w, ticket)
				if qr {
					printQR(w, ticket)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&qr, "qr", false, "print it as a QR code too")
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
