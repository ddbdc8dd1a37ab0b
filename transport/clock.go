package transport

import (
	"log/slog"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

const (
	clockOff       = 5 * time.Minute // of a clock that is said to be wrong, and corrected (PATH-25)
	maxCorrections = 8               // of the clock while the host runs
)

// noClock is a time that no clock which is right shows any more.
var noClock = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock tells the time by which address records and hand-overs are signed and
// judged: this machine's, corrected by what the home relays tell when that is
// more than clockOff away (PATH-25). A node without a battery for its clock
// could else neither be found nor find anybody until its clock is set.
//
// Nothing that grants a right goes by it: by a time that relays tell, a token, a
// ticket or an old key that has expired would be good again, or a new one void.
// A record gives a hint and no right; what is at its addresses has to prove its
// key.
//
// A relay that lies shall gain nothing. The homes alone are asked, not the
// relays that this node links to because a peer names them. The smallest of the corrections that they tell is made, and none when they do not
// tell the same direction: one honest relay of two keeps a clock right that is
// right. One relay alone is believed only if there is no other that could
// contradict it, or if the clock cannot be right. Such a one could keep this
// node from being found anyway; what it has of the lie is records for another
// time, which bring callers to the relays that were this node's homes when it
// signed them. There are few: each is 45 minutes from the last, as ever, and
// maxCorrections bounds how often another time is taken.
//
// All methods may be called concurrently.
type clock struct {
	local func() time.Time   // this machine's clock
	homes func() []relay.Key // the home relays that are linked
	alone func() bool        // no relay is known but one
	log   *slog.Logger       // of corrections

	mu    sync.Mutex
	told  map[relay.Key]moment // by relays that are linked
	held  moment               // the last correction that was made; zero = none
	count int                  // corrections so far
}

// moment is what another clock showed once, how far it was ahead of this
// machine's then, and when that was on the clock that nobody sets.
type moment struct {
	theirs time.Time
	first  time.Duration
	at     time.Time
}

// newMoment notes what another clock shows while this machine's shows now.
func newMoment(theirs, now time.Time) moment {
	theirs, now = theirs.Round(0), now.Round(0) // as they show it
	return moment{theirs, theirs.Sub(now), time.Now()}
}

// ahead is how far the other clock is ahead of this machine's, which shows now:
// the lesser of what it was and of what it must be by now. The two differ when
// this machine's clock was set meanwhile, and when it slept.
func (m moment) ahead(now time.Time) time.Duration {
	return lesser(m.first, m.theirs.Add(time.Since(m.at)).Sub(now.Round(0)))
}

// lesser is the one that is nearer to zero; zero if they are on either side of it.
func lesser(a, b time.Duration) time.Duration {
	if a > 0 && b > 0 {
		return min(a, b)
	}
	if a < 0 && b < 0 {
		return max(a, b)
	}
	return 0
}

func newClock(h *Host) *clock {
	c := &clock{local: h.cfg.now, homes: h.links.linkedHomes, alone: h.links.alone, log: h.log, told: make(map[relay.Key]moment)}
	if c.local == nil {
		c.local = time.Now
	}
	return c
}

// tell notes the time a relay told in its Welcome. One that is long past is no
// evidence.
func (c *clock) tell(k relay.Key, theirs time.Time) {
	ours := c.local()
	c.mu.Lock()
	defer c.mu.Unlock()
	if theirs.After(noClock) {
		c.told[k] = newMoment(theirs, ours)
	}
}

// forget drops what a relay told whose link has ended.
func (c *clock) forget(k relay.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.told, k)
}

// differences are how far the clocks of the linked relays are ahead.
func (c *clock) differences() (ahead []time.Duration) {
	now := c.local()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.told {
		ahead = append(ahead, m.ahead(now))
	}
	return ahead
}

// now is the corrected time.
func (c *clock) now() time.Time {
	homes, alone, now := c.homes(), c.alone(), c.local()
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Add(c.correction(homes, alone, now))
}

// corrected tells whether now differs from this machine's clock.
func (c *clock) corrected() bool {
	c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held != moment{} && c.count <= maxCorrections
}

// correction decides by how much to correct. The caller holds mu.
func (c *clock) correction(homes []relay.Key, alone bool, now time.Time) time.Duration {
	var words []time.Duration
	for _, k := range homes {
		if m, ok := c.told[k]; ok {
			words = append(words, m.ahead(now))
		}
	}
	told, held := len(words), c.held != moment{}
	if told < 2 && held { // what two said goes on when the link to one ends
		words = append(words, c.held.ahead(now))
	}
	if len(words) == 0 || len(words) == 1 && !held && !alone && now.After(noClock) {
		return 0
	}
	by := words[0]
	for _, w := range words[1:] {
		by = lesser(by, w)
	}
	if by.Abs() <= clockOff {
		c.held = moment{}
		return 0
	}
	if told > 0 {
		c.hold(by, now)
	}
	if c.count > maxCorrections {
		return 0
	}
	return by
}

// hold notes a correction. The caller holds mu.
func (c *clock) hold(by time.Duration, now time.Time) {
	// Small changes are none, and do not add up: relays would lead the clock on.
	if c.held != (moment{}) && (by-c.held.first).Abs() <= clockOff {
		by = c.held.first
	} else if c.count++; c.count <= maxCorrections {
		c.log.Info("clock corrected for address records, by what the home relays tell", "by", by)
	} else if c.count == maxCorrections+1 {
		c.log.Warn("clock not corrected any more: the home relays told too many times")
	}
	c.held = newMoment(now.Add(by), now)
}
