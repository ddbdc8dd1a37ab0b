package punch

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits of what others can make a node try (PATH-23).
const (
	// Memory is how long a try counts.
	Memory = 10 * time.Minute

	failuresPerIP = 3  // towards one IP, whoever is said to be there
	failuresAll   = 30 // in all
	triesAll      = 240
	again         = 5 * time.Second // after one that helped
)

// Reasons not to try.
var (
	ErrBusy    = errors.New("other tries are under way")
	ErrTried   = errors.New("tried lately")
	ErrTooMuch = errors.New("too many tries lately")
)

// Ledger holds the tries of the last ten minutes, and says whether another one
// may be made: one that failed is not made again for the same run of a peer at
// the same IP until then. Failures count towards the IP and in all as well, so
// that nobody gains by other keys or by starting often. All methods may be
// called concurrently.
type Ledger struct {
	// Slots is how many tries may be under way at once.
	Slots int

	mu    sync.Mutex
	tries []*Try
	open  int
}

// Who is whom a try is for: one run of a peer, and the IP it is said to be at.
type Who struct {
	Peer [32]byte
	Boot [16]byte
	IP   netip.Addr
}

// Try is one entry. End it.
type Try struct {
	ledger *Ledger
	who    Who
	at     time.Time // of its begin, then of its end
	open   bool
	helped bool
	void   bool // begun before a Reset
}

// Begin enters a try, or says why none may be made.
func (l *Ledger) Begin(now time.Time, who Who) (*Try, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tries = slices.DeleteFunc(l.tries, func(t *Try) bool { return !t.open && now.Sub(t.at) >= Memory })
	failed, failedThere := 0, 0
	for _, t := range l.tries {
		switch {
		case t.open && t.who.Peer == who.Peer:
			return nil, ErrBusy
		case t.open:
		case t.helped:
			if t.who == who && now.Sub(t.at) < again {
				return nil, ErrTried
			}
		default:
			if t.who == who {
				return nil, ErrTried
			}
			failed++
			if t.who.IP == who.IP {
				failedThere++
			}
		}
	}
	switch {
	case failed >= failuresAll, failedThere >= failuresPerIP, len(l.tries) >= triesAll:
		return nil, ErrTooMuch
	case l.open >= l.Slots:
		return nil, ErrBusy
	}
	t := &Try{ledger: l, who: who, at: now, open: true}
	l.tries = append(l.tries, t)
	l.open++
	return t, nil
}

// End closes the try; helped, that a direct path came of it.
func (t *Try) End(now time.Time, helped bool) {
	t.ledger.mu.Lock()
	defer t.ledger.mu.Unlock()
	if !t.open {
		return
	}
	t.open, t.at, t.helped = false, now, helped
	t.ledger.open--
	if t.void {
		t.ledger.tries = slices.DeleteFunc(t.ledger.tries, func(o *Try) bool { return o == t })
	}
}

// Reset forgets every try, those under way once they end: this node is on
// another network.
func (l *Ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tries = slices.DeleteFunc(l.tries, func(t *Try) bool { return !t.open })
	for _, t := range l.tries {
		t.void = true
	}
}
