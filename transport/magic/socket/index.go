package socket

import (
	"hash/maphash"
	"iter"
	"maps"
	"net/netip"
	"sync/atomic"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

// index finds peers. The data plane reads it without a lock (PATH-8); who
// changes it holds Socket.mu.
type index struct {
	byKey  table[relay.Key]
	byAddr table[netip.Addr]     // virtual addresses
	byPath table[netip.AddrPort] // validated direct paths
}

func newIndex() *index {
	seed := maphash.MakeSeed() // nobody can choose keys that meet in one shard
	address := func(a netip.Addr) uint64 {
		b := a.As16()
		return maphash.Bytes(seed, b[:])
	}
	return &index{
		byKey:  table[relay.Key]{hash: func(k relay.Key) uint64 { return maphash.Bytes(seed, k[:]) }},
		byAddr: table[netip.Addr]{hash: address},
		byPath: table[netip.AddrPort]{hash: func(a netip.AddrPort) uint64 { return address(a.Addr()) + uint64(a.Port()) }},
	}
}

func (x *index) add(p *peer) {
	x.byKey.set(p.key, p)
	x.byAddr.set(p.addr.AddrPort().Addr(), p)
}

func (x *index) remove(p *peer) {
	x.byKey.delete(p.key)
	x.byAddr.delete(p.addr.AddrPort().Addr())
	x.setPaths(p, p.taken, nil)
}

// setPaths makes addrs, instead of old, the addresses from which packets of p
// are taken.
func (x *index) setPaths(p *peer, old, addrs []netip.AddrPort) {
	for _, a := range old {
		if x.byPath.get(a) == p {
			x.byPath.delete(a)
		}
	}
	for _, a := range addrs {
		x.byPath.set(a, p)
	}
}

const shards = 64

// table is a map whose shards are never changed, only replaced: who reads needs
// no lock, and who writes copies a part of it only.
type table[K comparable] struct {
	hash   func(K) uint64
	shards [shards]atomic.Pointer[map[K]*peer]
}

func (t *table[K]) shard(k K) *atomic.Pointer[map[K]*peer] { return &t.shards[t.hash(k)%shards] }

// get returns the peer, or nil.
func (t *table[K]) get(k K) *peer {
	if m := t.shard(k).Load(); m != nil {
		return (*m)[k]
	}
	return nil
}

func (t *table[K]) set(k K, p *peer) { t.replace(k, func(m map[K]*peer) { m[k] = p }) }

func (t *table[K]) delete(k K) { t.replace(k, func(m map[K]*peer) { delete(m, k) }) }

func (t *table[K]) replace(k K, change func(map[K]*peer)) {
	s := t.shard(k)
	m := make(map[K]*peer)
	if old := s.Load(); old != nil {
		m = maps.Clone(*old)
	}
	change(m)
	s.Store(&m)
}

// all yields every peer.
func (t *table[K]) all() iter.Seq[*peer] {
	return func(yield func(*peer) bool) {
		for i := range t.shards {
			m := t.shards[i].Load()
			if m == nil {
				continue
			}
			for _, p := range *m {
				if !yield(p) {
					return
				}
			}
		}
	}
}
