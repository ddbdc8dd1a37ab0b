package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// offer is a hand-over of a peer that waits for a person.
type offer struct {
	Name     string    `json:"name"`
	OldKey   string    `json:"old_key"`
	NewKey   string    `json:"new_key"`
	Issued   time.Time `json:"issued"`
	OldUntil time.Time `json:"old_until"`
	Revoked  bool      `json:"revoked"`
}

func newPeerFollow(a *app) *cobra.Command {
	var always, never bool
	cmd := &cobra.Command{
		Use:   "follow [NAME]",
		Short: "Take up the new key a peer has proven, or list who has one",
		Long: `A node that replaces its key proves it: the new key is the one that the old key
was committed to, and both have signed. Without NAME, lists the peers that have
done so. With NAME, makes the new key the peer's; its name, rights and routes
stay, and the old key is nobody's when its time is up.

--always takes up this peer's later keys too, without asking. Only the key that
this node saw the peer commit to can ever be taken up: make sure of that by
adding peers before you have reason to fear for their keys.`,
		Example: `  alknet-p2p peer follow
  alknet-p2p peer follow alice --always`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if always && never {
				return usagef("--always and --never exclude each other")
			}
			h, err := a.home()
			if err != nil {
				return err
			}
			s, err := h.readState()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if always || never {
					return usagef("--always and --never need the NAME of a peer")
				}
				return a.showOffers(s)
			}
			name := args[0]
			waiting := s.Offered[name] != nil
			if !waiting && !always && !never {
				return failf(exitFailed, codeFailed, "%s has proven no new key; see alknet-p2p peer follow", quote(name))
			}
			err = a.editPeer(cmd, name, func(_ *auth.Config, e *auth.PeerEntry) error {
				if always || never {
					e.Follow = always
				}
				if !waiting || never {
					return nil
				}
				return takeUp(e, s.Offered[name])
			})
			if err != nil || !waiting {
				return err
			}
			return h.editState(cmd.Context(), func(s *state) { delete(s.Offered, name) })
		},
		ValidArgsFunction: a.completeTarget,
	}
	cmd.Flags().BoolVar(&always, "always", false, "take up this peer's later keys without asking")
	cmd.Flags().BoolVar(&never, "never", false, "ask each time, which is the default, and forget the key that waits")
	return cmd
}

// takeUp judges an offered hand-over once more, by the registry as it is now.
func takeUp(e *auth.PeerEntry, raw []byte) error {
	h, err := discovery.OpenHandOver(raw)
	if err != nil {
		return err
	}
	old, err := auth.FingerprintFromPeer(h.Old)
	if err != nil {
		return err
	}
	fresh, err := auth.FingerprintFromPeer(h.New)
	if err != nil {
		return err
	}
	if slices.Contains(e.Fingerprints, fresh) {
		return nil // by one that was cut off before the offer was gone
	}
	next, err := discovery.Commitment(h.New)
	if err != nil {
		return err
	}
	if !slices.Contains(e.Fingerprints, old) || e.Next != fmt.Sprintf("sha256:%x", next) {
		return failf(exitFailed, codeFailed, "%s is not committed to the key it has proven any more; wait for it to be found again", e.PeerName)
	}
	return succeed(e, h, time.Now())
}

func (a *app) showOffers(s *state) error {
	offers := []offer{}
	rows := [][]string{{"NAME", "NEW KEY", "OLD KEY GOOD UNTIL"}}
	for _, name := range slices.Sorted(maps.Keys(s.Offered)) {
		h, err := discovery.OpenHandOver(s.Offered[name])
		if err != nil {
			return err
		}
		o := offer{Name: name, Issued: h.Issued, OldUntil: h.Expiry, Revoked: h.Expiry.Equal(h.Issued)}
		if o.OldKey, err = auth.FingerprintFromPeer(h.Old); err != nil {
			return err
		}
		if o.NewKey, err = auth.FingerprintFromPeer(h.New); err != nil {
			return err
		}
		offers = append(offers, o)
		until := h.Expiry.Format(time.RFC3339)
		if o.Revoked {
			until = "revoked"
		}
		rows = append(rows, []string{name, o.NewKey, until})
	}
	return a.show(map[string][]offer{"offers": offers}, func(w *bytes.Buffer) { table(w, rows) })
}
