package discovery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// lookupTime bounds a search for others; lookupSettle is how long a newer
	// record is waited for when there is one.
	lookupTime   = 2 * time.Second
	lookupSettle = 500 * time.Millisecond

	// After a search the DHT is not asked for the same key again for a while.
	// That is how long a peer that publishes right after the search is not seen:
	// one that was not there before, or has moved and is found as it was.
	lookupAgainNone  = 5 * time.Second
	lookupAgainFound = 15 * time.Second
	lookupKeys       = 8192 // that is remembered for

	// A search costs others far more than a request costs who asks.
	lookupsAtOnce       = 64
	lookupsPerSecond    = 100
	lookupsOfPeer       = 2 // a second
	lookupsOfPeerAtOnce = 20
)

// lookups are the searches in the DHT that a relay makes for those who ask it
// (PATH-38): one per key at a time, and few enough that it is no amplifier. It
// owns one cancel and one WaitGroup; Close returns after the last search.
type lookups struct {
	network string
	now     func() time.Time // for records
	log     *slog.Logger
	search  func(ctx context.Context, key string, found func(raw []byte)) error
	keep    func(value)
	limit   *limiter

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	running map[string]chan struct{} // by key; closed when the search is over
	again   *lru[string, time.Time]  // when the DHT may be asked for the key again
}

// newLookups starts nothing. search ends soon after its context; keep is told
// of every value found that counts.
func newLookups(networkName string, now func() time.Time, log *slog.Logger,
	search func(context.Context, string, func([]byte)) error, keep func(value),
) *lookups {
	l := &lookups{
		network: networkName,
		now:     now,
		log:     log,
		search:  search,
		keep:    keep,
		limit:   newLimiter(lookupsPerSecond, lookupsOfPeer, lookupsOfPeerAtOnce),
		running: make(map[string]chan struct{}),
		again:   newLRU(lookupKeys, lookupKeys, func(string, time.Time) int { return 1 }),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// find looks key up for asker and returns when the search, or one already under
// way, is over. It returns at once when there was one just now, and with
// errBusy when there are too many.
func (l *lookups) find(asker peer.ID, key string) error {
	over, err := l.start(asker, key)
	if over != nil {
		<-over
	}
	return err
}

// start is find without waiting; over is nil when there is nothing to wait for.
func (l *lookups) start(asker peer.ID, key string) (over <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if over, ok := l.running[key]; ok {
		return over, nil
	}
	if again, ok := l.again.get(key); ok && time.Now().Before(again) {
		return nil, nil
	}
	if l.closed || len(l.running) >= lookupsAtOnce || !l.limit.allow(asker) {
		return nil, errBusy
	}
	done := make(chan struct{})
	l.running[key] = done
	l.wg.Go(func() {
		again := lookupAgainNone
		if l.run(key) {
			again = lookupAgainFound
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.again.put(key, time.Now().Add(again))
		delete(l.running, key)
		close(done)
	})
	return done, nil
}

// run makes one search and reports whether it found a value.
func (l *lookups) run(key string) (found bool) {
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	begin := time.Now()
	end := time.AfterFunc(lookupTime, cancel)
	defer end.Stop()
	err := l.search(ctx, key, func(raw []byte) {
		v, check, err := openValue(key, raw, l.network)
		if err != nil || check(l.now()) != nil {
			return
		}
		l.keep(v)
		if !found {
			found = true
			end.Reset(min(lookupSettle, lookupTime-time.Since(begin)))
		}
	})
	if err != nil && !found {
		l.log.Debug("DHT gave nothing to a relay's client", "err", err)
	}
	return found
}

// Close ends the searches; those who wait for one are let go.
func (l *lookups) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
}
