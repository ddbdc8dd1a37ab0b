package discovery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

const (
	// depositGap is the least time between two records of one key; those that
	// come meanwhile are one.
	depositGap = 10 * time.Second

	// A record that no other DHT server took is tried again, so often that its
	// peer, which publishes hourly, brings a newer one before the last time.
	depositTries    = 9
	depositRetry    = 10 * time.Second
	depositRetryMax = 10 * time.Minute

	depositsWaiting      = 4096
	depositsAtOnce       = 16
	depositsPerSecond    = 20
	depositsOfPeer       = 1 // brought by one peer, a second
	depositsOfPeerAtOnce = 10
)

// deposits are the records that a relay puts into the DHT for those who gave
// them to it and do not speak to the DHT themselves (PATH-38). It owns one
// cancel and one WaitGroup; Close returns after the last put.
type deposits struct {
	put   func(context.Context, value) error
	log   *slog.Logger
	limit *limiter      // by who brings a record
	pace  *rate.Limiter // of what goes out

	cancel context.CancelFunc
	wg     sync.WaitGroup
	added  chan struct{}

	mu      sync.Mutex
	waiting map[string]*deposit
	taken   *lru[string, takenDeposit]
}

// deposit is the newest value under a key that is to be put.
type deposit struct {
	value value
	due   time.Time
	tries int
}

// takenDeposit says what was put for a key last.
type takenDeposit struct {
	order uint64 // 0 when it failed for good: the same value may come again
	at    time.Time
}

// startDeposits begins in the background. put must end soon after its context,
// and fails when no other server could be asked.
func startDeposits(log *slog.Logger, put func(context.Context, value) error) *deposits {
	ctx, cancel := context.WithCancel(context.Background())
	d := &deposits{
		put:     put,
		log:     log,
		limit:   newLimiter(addrOpens, depositsOfPeer, depositsOfPeerAtOnce),
		pace:    rate.NewLimiter(depositsPerSecond, depositsAtOnce),
		cancel:  cancel,
		added:   make(chan struct{}, 1),
		waiting: make(map[string]*deposit),
		taken:   newLRU(2*depositsWaiting, 2*depositsWaiting, func(string, takenDeposit) int { return 1 }),
	}
	d.wg.Go(func() { d.run(ctx) })
	return d
}

// add takes in a value that carrier brought. It never blocks: when there are
// too many the value is passed over, and comes again within the hour.
func (d *deposits) add(carrier peer.ID, v value) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w, ok := d.waiting[v.key]; ok {
		if v.newer(w.value) {
			w.value, w.tries = v, 0
			if due := d.dueLocked(v.key); due.Before(w.due) {
				w.due = due
				d.wake()
			}
		}
		return
	}
	if last, ok := d.taken.get(v.key); ok && v.order <= last.order {
		return
	}
	if len(d.waiting) >= depositsWaiting || !d.limit.allow(carrier) {
		d.log.Debug("record not put into the DHT: too many", "peer", carrier)
		return
	}
	d.waiting[v.key] = &deposit{value: v, due: d.dueLocked(v.key)}
	d.wake()
}

// Close gives up what waits.
func (d *deposits) Close() {
	d.cancel()
	d.wg.Wait()
}

// run puts what is due, some at once.
func (d *deposits) run(ctx context.Context) {
	slots := make(chan struct{}, depositsAtOnce)
	for d.waitDue(ctx) {
		if d.pace.Wait(ctx) != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		w := d.take()
		d.wg.Go(func() {
			defer func() { <-slots }()
			if err := d.put(ctx, w.value); err != nil {
				d.failed(w, err)
			}
		})
	}
}

// waitDue returns true when a record is due, false when ctx has ended.
func (d *deposits) waitDue(ctx context.Context) bool {
	for {
		var timer <-chan time.Time
		d.mu.Lock()
		if w := d.firstLocked(); w != nil {
			wait := time.Until(w.due)
			if wait <= 0 {
				d.mu.Unlock()
				return ctx.Err() == nil
			}
			timer = time.After(wait)
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return false
		case <-d.added:
		case <-timer:
		}
	}
}

// take removes the record that has been due for the longest; there is one, for
// nobody else takes any.
func (d *deposits) take() *deposit {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.firstLocked()
	delete(d.waiting, w.value.key)
	d.taken.put(w.value.key, takenDeposit{order: w.value.order, at: time.Now()})
	return w
}

func (d *deposits) firstLocked() (first *deposit) {
	for _, w := range d.waiting {
		if first == nil || w.due.Before(first.due) {
			first = w
		}
	}
	return first
}

// dueLocked is when a new value under key may be put.
func (d *deposits) dueLocked(key string) time.Time {
	now := time.Now()
	if last, ok := d.taken.get(key); ok {
		if next := last.at.Add(depositGap); next.After(now) {
			return next
		}
	}
	return now
}

// wake makes run look again at what is due.
func (d *deposits) wake() {
	select {
	case d.added <- struct{}{}:
	default:
	}
}

// failed lets w be tried again, unless a newer one waits or it was tried often.
func (d *deposits) failed(w *deposit, err error) {
	key := w.value.key
	d.log.Debug("record not put into the DHT", "err", err)
	d.mu.Lock()
	defer d.mu.Unlock()
	if last, ok := d.taken.get(key); ok && last.order > w.value.order {
		return
	}
	w.tries++
	if w.tries < depositTries && len(d.waiting) < depositsWaiting {
		if _, ok := d.waiting[key]; !ok {
			w.due = time.Now().Add(min(depositRetry<<(w.tries-1), depositRetryMax))
			d.waiting[key] = w
			d.wake()
		}
		return
	}
	d.taken.put(key, takenDeposit{at: time.Now()})
}
