package transport

import (
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	maxBook      = 4096 // peers whose addresses are remembered
	maxBookAddrs = 16   // addresses of one
)

// addrBook remembers where relays and peers said they are. Addresses are
// hints: whoever answers there still has to prove the key.
type addrBook struct {
	mu    sync.Mutex
	addrs map[peer.ID][]ma.Multiaddr
}

// add puts new addresses first: they are the likelier ones.
func (b *addrBook) add(p peer.ID, addrs []ma.Multiaddr) {
	if len(addrs) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.addrs == nil {
		b.addrs = make(map[peer.ID][]ma.Multiaddr)
	}
	list := slices.Clone(addrs[:min(len(addrs), maxBookAddrs)])
	for _, a := range b.addrs[p] {
		if len(list) < maxBookAddrs && !slices.ContainsFunc(list, a.Equal) {
			list = append(list, a)
		}
	}
	if _, known := b.addrs[p]; !known && len(b.addrs) >= maxBook {
		for victim := range b.addrs { // any: it can be looked up again
			delete(b.addrs, victim)
			break
		}
	}
	b.addrs[p] = list
}

func (b *addrBook) get(p peer.ID) []ma.Multiaddr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.addrs[p])
}

// broadcast wakes everybody who waits for something to change.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
