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
	wantedFor     = 6 * time.Second // those who wait ask every five
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
// that nobody gains by other keys or by starting often; those of known peers and
// those of others apart, so that strangers cannot use up what friends need. All
// methods may be called concurrently.
type Ledger struct {
	// Slots is how many tries may be under way at once.
	Slots int

	mu     sync.Mutex
	tries  []*Try
	open   int
	wanted time.Time // when somebody was last refused for want of a slot, and nobody has got one since
}

// Who is whom a try is for: one run of a peer, and the IP it is said to be at.
type Who struct {
	Peer [32]byte
	Boot [16]byte
	IP   netip.Addr
	// Known says that the peer is no stranger: this node dialled it, or has it in
	// its registry.
	Known bool
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
	failed, failedThere, all := 0, 0, 0
	for _, t := range l.tries {
		if t.who.Known == who.Known {
			all++
		}
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
			if t.who.Known != who.Known {
				continue
			}
			failed++
			if t.who.IP == who.IP {
				failedThere++
			}
		}
	}
	switch {
	case failed >= failuresAll, failedThere >= failuresPerIP, all >= triesAll:
		return nil, ErrTooMuch
	case l.open >= l.Slots:
		l.wanted = now
		return nil, ErrBusy
	}
	l.wanted = time.Time{}
	t := &Try{ledger: l, who: who, at: now, open: true}
	l.tries = append(l.tries, t)
	l.open++
	return t, nil
}

// Wanted tells that somebody waits for a slot.
func (l *Ledger) Wanted(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.wanted.IsZero() && now.Sub(l.wanted) < wantedFor
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
