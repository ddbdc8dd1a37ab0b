package discovery

import (
	"bytes"
	"context"
	"sync"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// store is the memory of a DHT server: a datastore that forgets the least
// recently used entries when it is full, for anyone may fill it. Safe for
// concurrent use.
type store struct {
	mu      sync.Mutex
	entries *lru[ds.Key, []byte]
}

var _ ds.Batching = (*store)(nil)

func newStore(maxEntries, maxBytes int) *store {
	return &store{entries: newLRU(maxEntries, maxBytes, func(key ds.Key, value []byte) int {
		return len(key.String()) + len(value) + entryOverhead
	})}
}

func (s *store) Put(_ context.Context, key ds.Key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries.put(key, bytes.Clone(value))
	return nil
}

func (s *store) Get(_ context.Context, key ds.Key) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, ok := s.entries.get(key); ok {
		return value, nil
	}
	return nil, ds.ErrNotFound
}

func (s *store) Has(ctx context.Context, key ds.Key) (bool, error) {
	return ds.GetBackedHas(ctx, s, key)
}

func (s *store) GetSize(ctx context.Context, key ds.Key) (int, error) {
	return ds.GetBackedSize(ctx, s, key)
}

func (s *store) Delete(_ context.Context, key ds.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries.remove(key)
	return nil
}

func (s *store) Query(_ context.Context, q query.Query) (query.Results, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prefix := ds.NewKey(q.Prefix)
	var found []query.Entry
	for key, value := range s.entries.all() {
		if prefix.IsAncestorOf(key) {
			found = append(found, query.Entry{Key: key.String(), Value: value, Size: len(value)})
		}
	}
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, found)), nil
}

func (s *store) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(s), nil }
func (s *store) Sync(context.Context, ds.Key) error      { return nil }
func (s *store) Close() error                            { return nil }
