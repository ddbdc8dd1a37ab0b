package vault

import (
	"container/list"
	"time"
)

// cacheKey includes the key type: by path alone, a key of one type could be
// served as another.
type cacheKey struct {
	keyType KeyType
	path    Path
}

type cacheEntry struct {
	id      cacheKey
	key     *DerivedKey
	derived time.Time
}

// cache holds derived keys, the least recently used given up first. A key
// lives for ttl from its derivation, used or not. Whatever leaves the cache is
// wiped. It is guarded by its vault.
type cache struct {
	ttl   time.Duration
	size  int
	byID  map[cacheKey]*list.Element
	order *list.List // of *cacheEntry, most recently used first
}

func newCache(ttl time.Duration, size int) *cache {
	return &cache{ttl: ttl, size: size, byID: make(map[cacheKey]*list.Element), order: list.New()}
}

// get returns the cache's own key, or nil.
func (c *cache) get(id cacheKey) *DerivedKey {
	element := c.byID[id]
	if element == nil {
		return nil
	}
	entry := element.Value.(*cacheEntry)
	if time.Since(entry.derived) > c.ttl {
		c.remove(element)
		return nil
	}
	c.order.MoveToFront(element)
	return entry.key
}

// put takes key over. The cache must have room for one key at least, and none
// for id.
func (c *cache) put(id cacheKey, key *DerivedKey) {
	for c.order.Len() >= c.size {
		c.remove(c.order.Back())
	}
	c.byID[id] = c.order.PushFront(&cacheEntry{id: id, key: key, derived: time.Now()})
}

// sweep gives up the keys that have expired, and returns how long it takes
// until the next one will have; zero when the cache is empty.
func (c *cache) sweep() time.Duration {
	var next time.Duration
	for element := c.order.Front(); element != nil; {
		current := element
		element = element.Next()
		left := c.ttl - time.Since(current.Value.(*cacheEntry).derived)
		if left < 0 {
			c.remove(current)
			continue
		}
		left++ // it expires when older than ttl
		if next == 0 || left < next {
			next = left
		}
	}
	return next
}

func (c *cache) clear() {
	for c.order.Len() > 0 {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(element *list.Element) {
	entry := c.order.Remove(element).(*cacheEntry)
	delete(c.byID, entry.id)
	entry.key.Wipe()
}
