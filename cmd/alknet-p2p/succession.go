package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// handOvers are those by which the node's key of a generation followed earlier
// ones. One to a later generation was made and not carried out.
func (h home) handOvers(generation uint32) ([][]byte, error) {
	s, err := h.readState()
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for _, raw := range s.HandOvers {
		o, err := discovery.OpenHandOver(raw)
		if err != nil {
			return nil, failf(exitFailed, codeFailed, "%s is not valid: %s", h.state(), err)
		}
		if o.Generation <= generation {
			list = append(list, raw)
		}
	}
	return list[max(0, len(list)-discovery.MaxHandOvers):], nil
}

// keepHandOver keeps a hand-over of this node, in place of one to the same
// generation.
func (h home) keepHandOver(ctx context.Context, o *discovery.HandOver) error {
	return h.editState(ctx, func(s *state) {
		s.HandOvers = slices.DeleteFunc(s.HandOvers, func(raw []byte) bool {
			old, err := discovery.OpenHandOver(raw)
			return err != nil || old.Generation >= o.Generation
		})
		s.HandOvers = append(s.HandOvers, o.Sealed())
	})
}

// fileSuccessions keeps what is proven about the keys of peers in peers.json. A
// hand-over is taken up at once where the entry says follow; otherwise it waits
// in state.json for a person.
type fileSuccessions struct {
	home   home
	reload func() error // makes the running registry that of the file
	log    *slog.Logger
}

const successionWrite = 10 * time.Second // for the file's lock

// Committed implements node.Successions.
func (f *fileSuccessions) Committed(name auth.PeerName, key, next string) error {
	return f.edit("peer.committed", name, func(e *auth.PeerEntry) error {
		if e.Next == "" && slices.Contains(e.Fingerprints, key) {
			e.Next = next
		}
		return nil
	})
}

// HandedOver implements node.Successions.
func (f *fileSuccessions) HandedOver(name auth.PeerName, h *discovery.HandOver) error {
	ctx, cancel := context.WithTimeout(context.Background(), successionWrite)
	defer cancel()
	err := f.edit("peer.handed-over", name, func(e *auth.PeerEntry) error {
		if !e.Follow {
			return errAsk
		}
		return succeed(e, h, time.Now())
	})
	if !errors.Is(err, errAsk) {
		return err
	}
	fresh := false
	err = f.home.editState(ctx, func(s *state) {
		if held, err := discovery.OpenHandOver(s.Offered[string(name)]); err == nil && held.New == h.New && !h.Newer(held) {
			return
		}
		if s.Offered == nil {
			s.Offered = map[string][]byte{}
		}
		s.Offered[string(name)], fresh = h.Sealed(), true
	})
	if fresh && err == nil {
		f.log.Warn("a peer has proven a new key; to take it up: alknet-p2p peer follow NAME", "peer", name)
	}
	return err
}

// errAsk: the entry wants a person to decide.
var errAsk = errors.New("the peer is not followed without asking")

func (f *fileSuccessions) edit(action string, name auth.PeerName, change func(*auth.PeerEntry) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), successionWrite)
	defer cancel()
	err := peerfile.Update(ctx, f.home.peers(), func(cfg *auth.Config) error {
		e, err := findPeer(cfg, name)
		if err != nil {
			return err
		}
		before := cfg.Clone()
		if err := change(e); err != nil {
			return err
		}
		return f.home.auditChanges(action, "the network", changes(before, cfg))
	})
	if err != nil {
		return err
	}
	return f.reload()
}

// succeed makes a proven hand-over's new key the peer's first one. The old key
// goes when it is revoked, else when its time is up.
func succeed(e *auth.PeerEntry, h *discovery.HandOver, now time.Time) error {
	old, err := auth.FingerprintFromPeer(h.Old)
	if err != nil {
		return err
	}
	fresh, err := auth.FingerprintFromPeer(h.New)
	if err != nil {
		return err
	}
	gone := []string{fresh}
	for key, until := range e.Until {
		if !unixTime(until).After(now) {
			gone = append(gone, key)
			delete(e.Until, key)
		}
	}
	if h.Expiry.After(now) {
		if e.Until == nil {
			e.Until = map[string]uint64{}
		}
		e.Until[old] = uint64(h.Expiry.Unix())
	} else {
		gone = append(gone, old)
	}
	e.Fingerprints = append([]string{fresh}, without(e.Fingerprints, gone)...)
	e.Next = ""
	if h.Next != [32]byte{} {
		e.Next = fmt.Sprintf("sha256:%x", h.Next)
	}
	return nil
}

// endKeys checks the open sessions again whenever a key that was handed over
// ends, until ctx does.
func (r *runningNode) endKeys(ctx context.Context) {
	const longest = time.Minute // the registry may change meanwhile
	for {
		wait := longest
		if end, ok := r.peers.NextEnd(time.Now()); ok {
			wait = min(wait, time.Until(end))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			r.Recheck()
		}
	}
}
