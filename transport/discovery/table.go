package discovery

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	tableEntries = 100_000
	tableBytes   = 64 << 20
	// entryOverhead is what an entry costs in memory beside its bytes, roughly.
	entryOverhead = 512
)

// table keeps the newest record of each key for those who ask this node. Safe
// for concurrent use.
type table struct {
	mu      sync.Mutex
	records *lru[peer.ID, *Record]
}

func newTable(maxEntries, maxBytes int) *table {
	return &table{records: newLRU(maxEntries, maxBytes, func(_ peer.ID, r *Record) int {
		return len(r.envelope) + entryOverhead
	})}
}

// put stores r, an opened record, unless a newer one is held, whose envelope
// it returns then.
func (t *table) put(r *Record) (newer []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if held, ok := t.records.get(r.Peer); ok && held.Newer(r) {
		return held.envelope
	}
	t.records.put(r.Peer, r.bare())
	return nil
}

// get returns the envelope of p's record, nil if there is none or it has
// expired.
func (t *table) get(p peer.ID, now time.Time) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	held, ok := t.records.get(p)
	if !ok {
		return nil
	}
	if !held.Expiry.After(now) {
		t.records.remove(p)
		return nil
	}
	return held.envelope
}
