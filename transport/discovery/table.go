package discovery

import (
	"sync"
	"time"
)

const (
	tableEntries = 100_000
	tableBytes   = 64 << 20
	// entryOverhead is what an entry costs in memory beside its bytes, roughly.
	entryOverhead = 512
)

// table keeps the newest value under each key for those who ask this node. Safe
// for concurrent use.
type table struct {
	mu     sync.Mutex
	values *lru[string, value]
}

func newTable(maxEntries, maxBytes int) *table {
	return &table{values: newLRU(maxEntries, maxBytes, func(_ string, v value) int {
		return len(v.raw) + entryOverhead
	})}
}

// put stores v, which is not from the future, unless a newer value is held that
// is not either, which it returns then.
func (t *table) put(v value, now time.Time) (newer []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if held, ok := t.values.get(v.key); ok && held.newer(v) && !held.ahead(now) {
		return held.raw
	}
	t.values.put(v.key, v)
	return nil
}

// get returns the value under key, nil if there is none or it has expired.
func (t *table) get(key string, now time.Time) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	held, ok := t.values.get(key)
	if !ok {
		return nil
	}
	if !held.expiry.IsZero() && !held.expiry.After(now) {
		t.values.remove(key)
		return nil
	}
	return held.raw
}
