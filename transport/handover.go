package transport

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// Commitment is what p's address record, the one remembered or else the first
// that is found, says of its next key; false when there is none, or it commits to
// nothing.
func (h *Host) Commitment(ctx context.Context, p peer.ID) (next [32]byte, ok bool) {
	if !h.running() {
		return next, false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for f := range h.disc.Resolve(ctx, p) { // what is remembered comes first
		if f.Record != nil && f.Record.Next != next {
			return f.Record.Next, true
		}
	}
	return next, false
}

// Generation is that of p in the last address record known of it.
func (h *Host) Generation(p peer.ID) (generation uint32, ok bool) {
	if !h.running() {
		return 0, false
	}
	r := h.disc.Latest(p)
	if r == nil {
		return 0, false
	}
	return r.Generation, true
}

// FindHandOver looks for the hand-over to the key behind a commitment, at relays
// and in the DHT; nil when there is none.
func (h *Host) FindHandOver(ctx context.Context, commitment [32]byte) (*discovery.HandOver, error) {
	if !h.running() {
		return nil, ErrClosed
	}
	return h.disc.FindHandOver(ctx, commitment)
}
