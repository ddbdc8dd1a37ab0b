package discovery

import (
	"container/list"
	"iter"
)

// lru is a map bounded in entries and in the sum of their costs; when it is
// full the least recently used entries go. Not safe for concurrent use.
type lru[K comparable, V any] struct {
	maxEntries, maxCost int
	costOf              func(K, V) int
	evicted             func(K, V) // may be nil

	byKey  map[K]*list.Element // of lruEntry[K, V]
	recent *list.List          // most recently used first
	cost   int
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](maxEntries, maxCost int, costOf func(K, V) int) *lru[K, V] {
	return &lru[K, V]{
		maxEntries: maxEntries,
		maxCost:    maxCost,
		costOf:     costOf,
		byKey:      make(map[K]*list.Element),
		recent:     list.New(),
	}
}

// get returns the value and counts as a use.
func (l *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := l.byKey[key]
	if !ok {
		return value, false
	}
	l.recent.MoveToFront(e)
	return e.Value.(lruEntry[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	l.remove(key)
	l.byKey[key] = l.recent.PushFront(lruEntry[K, V]{key, value})
	l.cost += l.costOf(key, value)
	for l.recent.Len() > l.maxEntries || l.cost > l.maxCost {
		old := l.recent.Back().Value.(lruEntry[K, V])
		l.remove(old.key)
		if l.evicted != nil {
			l.evicted(old.key, old.value)
		}
	}
}

func (l *lru[K, V]) remove(key K) {
	e, ok := l.byKey[key]
	if !ok {
		return
	}
	entry := l.recent.Remove(e).(lruEntry[K, V])
	delete(l.byKey, key)
	l.cost -= l.costOf(entry.key, entry.value)
}

// all ranges over the entries, the most recently used first.
func (l *lru[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for e := l.recent.Front(); e != nil; e = e.Next() {
			entry := e.Value.(lruEntry[K, V])
			if !yield(entry.key, entry.value) {
				return
			}
		}
	}
}
