package discovery

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// limiterPeers is how many peers a limiter counts for.
const limiterPeers = 4096

// limiter limits what peers make this node do, a second: first by peer, so that
// one cannot use up what is there for all. Safe for concurrent use.
type limiter struct {
	each  rate.Limit
	burst int // of one peer

	mu     sync.Mutex
	all    *rate.Limiter
	byPeer *lru[peer.ID, *rate.Limiter]
}

func newLimiter(all, each, burst int) *limiter {
	return &limiter{
		each:   rate.Limit(each),
		burst:  burst,
		all:    rate.NewLimiter(rate.Limit(all), all),
		byPeer: newLRU(limiterPeers, limiterPeers, func(peer.ID, *rate.Limiter) int { return 1 }),
	}
}

// allow says whether p may do it once more, and counts it.
func (l *limiter) allow(p peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, ok := l.byPeer.get(p)
	if !ok {
		own = rate.NewLimiter(l.each, l.burst)
		l.byPeer.put(p, own)
	}
	return own.Allow() && l.all.Allow()
}
