package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/transport"
)

const (
	preferAgain = 10 * time.Second // before an unreachable key is tried again beside a connected one
	preferTime  = 30 * time.Second // for one try
)

// preference decides which of a peer's keys serves, while it has more than one
// (NODE-26, NODE-52): the first in the list that is connected, at once. Whether an
// earlier one can be reached by now is found out beside that, so that a peer is
// followed to its new key and nothing waits for a key that is not in use yet. It
// owns one cancel and one WaitGroup.
type preference struct {
	host   *transport.Host
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	tried  map[peer.ID]time.Time
}

func newPreference(host *transport.Host) *preference {
	p := &preference{host: host, tried: map[peer.ID]time.Time{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Close returns after the last goroutine.
func (p *preference) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}

// order returns the keys in the order in which to try them.
func (p *preference) order(keys []peer.ID) []peer.ID {
	i := slices.IndexFunc(keys, func(k peer.ID) bool { return p.host.Path(k).Kind != transport.PathNone })
	if i <= 0 {
		return keys
	}
	for _, k := range keys[:i] {
		p.try(k)
	}
	return slices.Concat(keys[i:i+1], keys[:i], keys[i+1:])
}

// try connects to a key beside what goes on, unless it did so lately.
func (p *preference) try(k peer.ID) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, at := range p.tried {
		if now.Sub(at) >= preferAgain {
			delete(p.tried, other)
		}
	}
	if _, lately := p.tried[k]; lately || p.closed {
		return
	}
	p.tried[k] = now
	p.wg.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, preferTime)
		defer cancel()
		_ = p.host.Connect(ctx, k) // that it is connected is the answer
	})
}
