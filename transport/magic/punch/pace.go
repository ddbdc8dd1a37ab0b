package punch

import "time"

// The budget of one try, in probes (PATH-23). Rates stay a little below what
// the rule allows, so that no second that one looks at holds more.
const (
	Round   = 512              // probes of a round; after it a moment to hear of success
	FastFor = 2 * time.Second  // at most 1,000 a second
	SlowFor = 10 * time.Second // after that, at most 100 a second
	MaxSent = 3000             // in all

	fastRate = 920
	fastHold = 40 // probes that may be made up for after a delay
	slowRate = 90
	slowHold = 5
	rest     = 50 * time.Millisecond // between rounds
	tick     = 10 * time.Millisecond
)

// Pace says how many probes of one try may leave when. It must not be used
// concurrently.
type Pace struct {
	start, last time.Time
	until       time.Time // no probe before: a round is over
	credit      float64
	round, sent int
	slow        bool
}

// NewPace returns the pace of a try that begins now.
func NewPace(now time.Time) *Pace { return &Pace{start: now, last: now} }

// Slow tells that the fast part is over, in which nearly all that can be met is met.
func (p *Pace) Slow() bool { return p.slow }

// Take says how many probes may leave now and when to ask again; over, that
// the try is at its end.
func (p *Pace) Take(now time.Time) (n int, next time.Time, over bool) {
	if now.Sub(p.start) >= FastFor+SlowFor || p.sent >= MaxSent {
		return 0, time.Time{}, true
	}
	rate, hold := float64(fastRate), float64(fastHold)
	if now.Sub(p.start) >= FastFor {
		rate, hold = slowRate, slowHold
		if !p.slow {
			p.slow, p.credit, p.last, p.round = true, 0, now, 0
			// What left just before counts in the second that begins now.
			p.until = now.Add(time.Second)
		}
	}
	if now.Before(p.until) {
		p.last = now
		return 0, p.until, false
	}
	p.credit = min(p.credit+now.Sub(p.last).Seconds()*rate, hold)
	p.last = now
	n = min(int(p.credit), Round-p.round, MaxSent-p.sent)
	p.credit -= float64(n)
	p.round += n
	p.sent += n
	if p.round == Round {
		p.round, p.credit, p.until = 0, 0, now.Add(rest)
		return n, p.until, false
	}
	return n, now.Add(tick), false
}
