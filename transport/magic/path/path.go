// Package path decides which way a peer's packets go.
//
// A [Machine] holds the paths to one peer: relays that forward by key, and
// direct addresses. It is told what happened (a candidate was found, a ping
// was answered, data went unanswered, time passed) and answers with what to do
// (send a ping, send data over these paths). It does no I/O, starts nothing
// and reads no clock, so that every rule of PATH-15 to PATH-19 can be tested
// with made-up time.
package path

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
	"time"
)

// Kind is what a path is made of.
type Kind uint8

// The kinds of path, the better last.
const (
	Relayed Kind = iota + 1 // forwarded by a relay
	Direct                  // straight to an address of the peer
)

// String names the kind as users read it.
func (k Kind) String() string {
	switch k {
	case Relayed:
		return "relayed"
	case Direct:
		return "direct"
	default:
		return "none"
	}
}

// ID names one path of a peer: by Relay, or by Addr.
type ID struct {
	Relay [32]byte       // public key of the forwarding relay
	Addr  netip.AddrPort // address of the peer itself
	TCP   bool           // a connection to Addr, not datagrams (PATH-20)
	Web   bool           // of those, one that looks like the web's: TLS and HTTP (PATH-31)
}

// Kind tells which field of the ID is set.
func (id ID) Kind() Kind {
	if id.Addr.IsValid() {
		return Direct
	}
	return Relayed
}

// rank orders what paths are made of, the better higher: what repeats lost
// packets by itself, and holds back those behind them, only where nothing else
// goes straight (PATH-20).
func (id ID) rank() int {
	switch {
	case id.Kind() == Relayed:
		return 0
	case id.Web:
		return 1
	case id.TCP:
		return 2
	default:
		return 3
	}
}

// knocked tells whether pings may open the path: those to an address that NATs
// guard.
func (id ID) knocked() bool { return id.rank() == 3 }

// State is how far a path can be trusted (PATH-15).
type State uint8

// The states of a path. An unknown path is one the machine does not hold.
const (
	Unknown State = iota
	Probing       // a ping is out, nothing came back yet
	Valid         // answered
	Suspect       // data and a ping went unanswered
	Dead          // given up, until found again
)

// String names the state.
func (s State) String() string {
	return [...]string{"unknown", "probing", "valid", "suspect", "dead"}[min(s, Dead)]
}

// Event is a change that somebody watching a peer wants to know (PATH-6).
type Event struct {
	Kind   EventKind
	Path   ID
	RTT    time.Duration
	Reason string // constant text, for people
}

// EventKind says what happened to a path.
type EventKind uint8

// The events of a path.
const (
	Opened    EventKind = iota + 1 // answered for the first time
	Selected                       // carries our data from now on
	Suspected                      // stopped answering
	Closed                         // given up
)

// String names the event.
func (k EventKind) String() string {
	return [...]string{"", "opened", "selected", "suspect", "closed"}[min(k, Closed)]
}

// Activity is what the data plane saw; times are zero when it never happened.
type Activity struct {
	LastData   time.Time // data in either direction, keep-alives apart
	LastRecv   time.Time // anything of the peer over the best path, probes included
	Unanswered time.Time // oldest data sent since that, or data over another path
	Held       bool      // a connection is open, be it idle

	// Longest is the longest that the peer was silent on the best path in the last
	// second or two; 0 if it was not heard throughout.
	Longest time.Duration
}

// beat is the time between two heartbeats, 0 for none.
func (a Activity) beat(active bool) time.Duration {
	switch {
	case active:
		return heartbeat
	case a.Held:
		return slowBeat
	default:
		return 0
	}
}

// The clockwork of PATH-15 to PATH-19.
const (
	heartbeat     = 3 * time.Second  // ping on best and runner-up (PATH-17)
	slowBeat      = 45 * time.Second // the same while idle, to keep the links open (PATH-29)
	activeFor     = 45 * time.Second // after the last data a peer is active (PATH-17)
	giveUp        = 10 * time.Second // a relay that never answered
	giveUpDirect  = 60 * time.Second // an address that never answered
	knockAgain    = 20 * time.Millisecond
	slowProbe     = 5 * time.Second  // to such an address, after the first second (PATH-16)
	lateProbe     = time.Second      // the same, while it worked not long ago
	lateFor       = 30 * time.Second // how long that is
	settled       = 4                // answers after which the round trip is known
	settleEvery   = 50 * time.Millisecond
	missesToDead  = 5           // pings a suspect may miss (PATH-18)
	pingsOfDoubt  = 4           // before a path in doubt is suspect
	maxDoubt      = time.Second // about the best path: suspect, though no other one answers
	maxDoubtAgain = 4 * time.Second
	maxDoubtRelay = 60 * time.Second
	doubtAgain    = 250 * time.Millisecond // between two doubts about the best path
	late          = 10 * time.Millisecond  // of an answer, beyond how much they vary
	missed        = 20 * time.Millisecond  // silence after which a peer heard all the time is missed
	inUse         = time.Second            // after the last data
	dwell         = 2 * time.Second        // between two changes of the best path (PATH-19)
	firstDamping  = 2 * time.Second        // of a path that failed twice within flapWithin
	lastDamping   = 60 * time.Second
	flapWithin    = 60 * time.Second
	lossWindow    = 20 // pings that tell whether a path is lossy
	lossyAbove    = 4  // of them lost
	cleanUpTo     = 2
	sixAhead      = 3 * time.Millisecond // of IPv6 before IPv4
	retryWaiting  = 250 * time.Millisecond
	retryIdle     = 5 * time.Second
	retryFor      = 30 * time.Second
	maxPaths      = 32 // candidates held for one peer
	maxTargets    = 4  // paths that carry the same packet while none is valid
)

// Machine holds the paths to one peer. It is not safe for concurrent use. The
// zero value is ready.
type Machine struct {
	paths    []*entry
	best     *entry
	selected time.Time
	doubted  time.Time // when the last doubt began
	doubtVia ID        // the path it came from
	doubts   int       // since the path was chosen; they become rarer as they prove unfounded
	doubt    time.Time // since when the peer does not seem to get what we send; zero: it does
	doubtOf  time.Time // the answer to a ping sent since then ends it
	pings    []ID
	events   []Event
}

type entry struct {
	id       ID
	state    State
	born     time.Time     // start of this probing
	since    time.Time     // start of this state
	rtt, dev time.Duration // smoothed, as RFC 6298
	samples  int
	better   int       // answers in a row that beat the best path
	pinged   time.Time // last ping
	asked    time.Time // first ping for the sake of the data that waits
	overdue  time.Time // ping after which another one left before it was answered
	answered time.Time // when the last answered ping was sent
	misses   int
	next     time.Time // next ping of the schedule, while probing
	opened   bool
	reprobe  bool      // worth another try when nothing else works
	worked   time.Time // when it was last given up after it had answered
	history  uint32    // its last pings, the latest in the lowest bit; 1: lost
	lossy    bool
	lost     time.Time // ping counted as lost when the path became suspect
	failed   time.Time // suspected while the best, and has not answered since
	blamed   time.Time // when another path answered what was asked since that
	flaps    int       // failures as the best path, the earlier ones less than flapWithin ago
	flapped  time.Time // the last one
	damped   time.Time // until when it is not chosen again, unless it is all there is
}

// Found adds a candidate, or gives a dead one another chance. reset starts a
// path anew even when it was valid: the link beneath it was replaced.
func (m *Machine) Found(now time.Time, id ID, reset bool) {
	e := m.find(id)
	if e == nil {
		if len(m.paths) >= maxPaths && !m.evict() {
			return
		}
		e = &entry{id: id}
		m.paths = append(m.paths, e)
	}
	if e.state == Unknown || e.state == Dead || reset {
		e.state, e.since, e.born, e.misses = Probing, now, now, 0
		e.reprobe = true
		m.ping(now, e)
		m.choose(now)
		return
	}
	// News of a candidate that has not answered yet, or no more: a NAT may have
	// opened by now. Knock as if it were new (PATH-16).
	if e.id.knocked() && e.state != Valid && now.Sub(e.pinged) >= knockAgain {
		if now.Sub(e.born) >= time.Second {
			e.born = now
		}
		m.ping(now, e)
	}
}

// Lost ends a path: its link went down, or the relay does not know the peer.
// It is found again by Found only, or retried while data waits when retry.
func (m *Machine) Lost(now time.Time, id ID, reason string, retry bool) {
	e := m.find(id)
	if e == nil || e.state == Dead {
		return
	}
	m.kill(now, e, reason)
	e.reprobe = retry
	m.choose(now)
}

// Pong says that a ping over the path was answered; sent is what Pinged was then.
func (m *Machine) Pong(now time.Time, id ID, sent time.Time) {
	e := m.find(id)
	if e == nil || e.state == Dead {
		return
	}
	if e.state == Suspect && sent.Before(e.since) {
		if sent.Equal(e.lost) { // it was late only
			e.history &^= 1
		}
		return // only later pings' pongs count (PATH-18)
	}
	if !e.blamed.IsZero() && now.Sub(e.blamed) > e.rtt+late {
		e.flap(e.blamed)
	}
	e.failed, e.blamed = time.Time{}, time.Time{}
	e.observe(now.Sub(sent))
	e.misses = 0
	if !e.overdue.IsZero() && !sent.Before(e.overdue) {
		if sent.After(e.overdue) {
			e.count(1) // a later one is answered
		}
		e.overdue = time.Time{}
	}
	if sent.After(e.answered) {
		e.count(0)
	}
	if e == m.best && !sent.Before(m.doubtOf) {
		m.doubt = time.Time{}
	}
	if sent.After(e.answered) {
		e.answered = sent
	}
	if e.state != Valid {
		e.state, e.since = Valid, now
	}
	m.blame(now, sent)
	if !e.opened {
		e.opened = true
		m.emit(Opened, e, "answered")
	}
	m.compare(e)
	m.choose(now)
}

// Tick lets time pass and returns when the next Tick is due at the latest; the
// zero time means never, until something else happens.
func (m *Machine) Tick(now time.Time, act Activity) time.Time {
	waiting := !act.Unanswered.IsZero() && now.Sub(act.Unanswered) < retryFor && !m.anyValid()
	active := waiting || now.Sub(act.LastData) < activeFor
	var due time.Time
	sooner := func(t time.Time) { // what is past was looked at just now
		if t.After(now) && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	later := func(e *entry) { // given up just now: perhaps nothing else wakes whoever waits
		if e.reprobe && active {
			next := e.pinged.Add(retryWaiting)
			if !next.After(now) {
				next = now.Add(time.Millisecond)
			}
			sooner(next)
		}
	}
	for _, e := range m.paths {
		switch e.state {
		case Probing:
			if now.Sub(e.born) >= e.patience() {
				m.kill(now, e, "no answer")
				later(e)
				continue
			}
			if e.id.knocked() && now.Sub(e.born) >= time.Second && (!active || m.direct()) {
				continue // no need to go on knocking (PATH-16)
			}
			if waiting && e.next.After(e.pinged.Add(retryWaiting)) {
				e.next = e.pinged.Add(retryWaiting)
			}
			if !now.Before(e.next) {
				m.ping(now, e)
			}
			sooner(e.next)
		case Valid:
			if m.judge(now, e, act) || m.unanswered(now, e, act) {
				m.suspect(now, e)
				sooner(now.Add(e.missAfter()))
				continue
			}
			if e.answered.Before(e.pinged) {
				sooner(e.pinged.Add(e.missAfter()))
			}
			used := e == m.best && now.Sub(act.LastData) < inUse
			if used && e.answered.Before(e.pinged) && !now.Before(m.expected()) {
				m.mistrust(now)
			}
			if e == m.best && !act.Unanswered.IsZero() {
				ask := act.Unanswered.Add(e.missedAfter(act.Longest))
				if now.Before(ask) {
					sooner(ask)
				} else {
					if e.pinged.Before(act.Unanswered) {
						m.ping(now, e)
						e.asked = now
					}
					for _, r := range m.spares() { // in time to know whether they work
						if r.pinged.Before(act.Unanswered) {
							m.ping(now, r)
						}
					}
					sooner(act.Unanswered.Add(e.limit()))
					sooner(e.pinged.Add(e.limit() / 2))
				}
			}
			if beat := act.beat(active); beat > 0 && (e == m.best || e == m.runnerUp()) {
				if e.samples < settled && !e.answered.Before(e.pinged) {
					beat = settleEvery
				}
				if next := e.pinged.Add(beat); now.Before(next) {
					sooner(next)
				} else {
					m.ping(now, e)
					sooner(now.Add(beat))
				}
			}
			if used && e.answered.Before(e.pinged) {
				sooner(m.expected())
				sooner(m.doubt.Add(e.missAfter()))
			}
		case Suspect:
			if now.Sub(e.pinged) >= e.missAfter() {
				if e.misses++; e.misses >= missesToDead {
					m.kill(now, e, "stopped answering")
					later(e)
					continue
				}
				m.ping(now, e)
			}
			sooner(e.pinged.Add(e.missAfter()))
		case Dead:
			if !e.reprobe || !active {
				continue
			}
			every := retryIdle
			switch {
			case waiting:
				every = retryWaiting
			case now.Sub(e.worked) < lateFor:
				every = lateProbe
			}
			if now.Sub(e.pinged) >= every {
				e.state, e.since, e.born, e.misses = Probing, now, now, 0
				m.ping(now, e)
				sooner(e.next)
				continue
			}
			sooner(e.pinged.Add(every))
		}
	}
	m.choose(now)
	return due
}

// Shake says that the network beneath changed: every path that worked must
// prove itself, and every one that did gets another chance (PATH-21).
func (m *Machine) Shake(now time.Time) {
	for _, e := range m.paths {
		switch e.state {
		case Valid:
			e.state, e.since, e.misses = Suspect, now, 0
			m.emit(Suspected, e, "network changed")
			m.ping(now, e)
		case Suspect:
			m.ping(now, e)
		case Dead:
			if e.reprobe {
				e.state, e.since, e.born, e.misses = Probing, now, now, 0
				m.ping(now, e)
			}
		}
	}
	m.choose(now)
}

// Doubt says that the peer's data comes over another path than our best one:
// perhaps ours does not reach it, or it is no longer there.
// Data is doubled over that path until the best one answers a ping (PATH-18).
func (m *Machine) Doubt(now time.Time, via ID) {
	b := m.best
	if b == nil || b.id == via || b.state != Valid || !m.doubt.IsZero() {
		return
	}
	// The first one is mostly about what was still under way over the old path.
	// Of two relays each side may well prefer another for good.
	rarest := maxDoubtAgain
	if b.id.Kind() == Relayed {
		rarest = maxDoubtRelay
	}
	if m.doubts > 1 && now.Sub(m.doubted) < min(doubtAgain<<min(m.doubts-2, 8), rarest) && !m.opened(via) {
		return
	}
	m.doubt, m.doubtOf, m.doubted, m.doubtVia = now, now, now, via
	m.doubts++
	m.ping(now, b)
	// The other path is there, since something came over it: a ping that it lost
	// before does not count against it.
	if e := m.find(via); e != nil && (e.state == Suspect || e.state == Valid && e.answered.Before(e.pinged)) {
		m.ping(now, e)
	}
}

// opened tells whether the peer answers at an address at which it did not at the
// last doubt: it may have moved there, whatever came of that one.
func (m *Machine) opened(via ID) bool {
	e := m.find(via)
	return e != nil && e.id.Kind() == Direct && e.state == Valid && e.since.After(m.doubted)
}

// Moved says that the peer names other addresses than before: that doubts proved
// unfounded where it was says nothing about the next one.
func (m *Machine) Moved() { m.doubts = 0 }

// mistrust doubts the best path of its own accord, since a ping was not answered
// in its time although data comes and goes. What is doubled until one is answered
// costs less than what would be lost until it is clear that the path fails; and
// more than one are sent, so that a lost one does not end it (PATH-18).
func (m *Machine) mistrust(now time.Time) {
	if !m.doubt.IsZero() {
		m.ping(now, m.best)
	} else if via := m.fallback(); via != nil && m.best.id.knocked() { // elsewhere packets wait in queues
		overdue := m.best.pinged
		if m.Doubt(now, via.id); m.doubt.Equal(now) {
			m.doubtOf = overdue // a late answer is one too
			if via.pinged.Before(overdue) {
				m.ping(now, via)
			}
		}
	}
}

// otherAnswers tells whether another path than the best one answers what was
// asked lately. Where all answers are late, a queue that they share has grown, or
// this process stood still, and no other path would be better.
func (m *Machine) otherAnswers(since time.Time) bool {
	return slices.ContainsFunc(m.paths, func(o *entry) bool { return o != m.best && o.state == Valid && !o.answered.Before(since) })
}

// expected is when a ping of the best path should have been answered, or in doubt
// when the next one is due.
func (m *Machine) expected() time.Time {
	if m.doubt.IsZero() {
		return m.best.pinged.Add(m.best.answerIn())
	}
	return m.best.pinged.Add(m.best.missAfter() / pingsOfDoubt)
}

// fallback is the path over which data is doubled: one that fails for another
// reason than the best, a direct one.
func (m *Machine) fallback() *entry {
	for _, e := range m.ranked() {
		if e != m.best && e.state == Valid && e.id.Kind() == Relayed {
			return e
		}
	}
	return nil
}

// Route is the ways data goes now: the best path; a suspect one and the next
// best beside it; or, while none has answered, every candidate there is.
func (m *Machine) Route() []ID {
	if m.best != nil && m.best.state == Valid {
		ids := []ID{m.best.id}
		if !m.doubt.IsZero() {
			e := m.find(m.doubtVia)
			if e != nil && (e.state == Valid || e.state == Suspect) {
				ids = append(ids, e.id)
				// What comes straight need not get there straight.
				if f := m.fallback(); f != nil && e.id.Kind() == Direct {
					ids = append(ids, f.id)
				}
			}
		}
		return ids
	}
	var ids []ID
	for _, e := range m.ranked() {
		if e.state == Valid || e.state == Suspect || (e.state == Probing && e.id.Kind() == Relayed) {
			ids = append(ids, e.id)
		}
	}
	return ids[:min(len(ids), maxTargets)]
}

// Best is the path that carries data, its state and smoothed round trip;
// ok is false while there is none.
func (m *Machine) Best() (id ID, state State, rtt time.Duration, since time.Time, ok bool) {
	if m.best == nil {
		return ID{}, Unknown, 0, time.Time{}, false
	}
	return m.best.id, m.best.state, m.best.rtt, m.selected, true
}

// Quiet is how long the peer may be silent while data waits before something
// must be wrong with the path, and what was sent lately lost (PATH-18).
func (m *Machine) Quiet() time.Duration {
	if m.best == nil {
		return retryWaiting
	}
	return m.best.limit()
}

// Missed is how long the peer may be silent before the path is asked; longest is
// that of [Activity].
func (m *Machine) Missed(longest time.Duration) time.Duration {
	if m.best == nil {
		return retryWaiting
	}
	return m.best.missedAfter(longest)
}

// State of one path.
func (m *Machine) State(id ID) State {
	if e := m.find(id); e != nil {
		return e.state
	}
	return Unknown
}

// Usable tells whether data has any way to go.
func (m *Machine) Usable() bool { return len(m.Route()) > 0 }

// Pings takes the pings to be sent since the last call.
func (m *Machine) Pings() []ID {
	p := m.pings
	m.pings = nil
	return p
}

// Pinged is the time of the last ping over a path.
func (m *Machine) Pinged(id ID) time.Time {
	if e := m.find(id); e != nil {
		return e.pinged
	}
	return time.Time{}
}

// Events takes the events since the last call.
func (m *Machine) Events() []Event {
	e := m.events
	m.events = nil
	return e
}

// IDs lists the paths held, in no order.
func (m *Machine) IDs() []ID {
	ids := make([]ID, len(m.paths))
	for i, e := range m.paths {
		ids[i] = e.id
	}
	return ids
}

func (m *Machine) find(id ID) *entry {
	for _, e := range m.paths {
		if e.id == id {
			return e
		}
	}
	return nil
}

// evict makes room by forgetting a dead path.
func (m *Machine) evict() bool {
	i := slices.IndexFunc(m.paths, func(e *entry) bool { return e.state == Dead })
	if i < 0 {
		return false
	}
	m.paths = slices.Delete(m.paths, i, i+1)
	return true
}

func (m *Machine) anyValid() bool {
	return slices.ContainsFunc(m.paths, func(e *entry) bool { return e.state == Valid })
}

// judge says whether a valid path has become suspect: its data and its ping
// both unanswered (PATH-18).
func (m *Machine) judge(now time.Time, e *entry, act Activity) bool {
	if !e.answered.Before(e.pinged) {
		return false
	}
	if e == m.best && !m.doubt.IsZero() && now.Sub(m.doubt) >= e.missAfter() {
		// What comes does not tell that ours arrives; what came another way, that
		// the peer hears us there.
		return m.doubtOf.Equal(m.doubt) || m.otherAnswers(m.doubtOf) || now.Sub(m.doubt) >= maxDoubt
	}
	return now.Sub(e.pinged) >= e.missAfter() && (e != m.best || act.LastRecv.Before(e.pinged))
}

// unanswered says whether data on the best path, and a ping sent for its sake,
// have gone unanswered for as long as the limit allows (PATH-18).
func (m *Machine) unanswered(now time.Time, e *entry, act Activity) bool {
	ping := e.pinged
	if !e.asked.Before(act.Unanswered) {
		ping = e.asked
	}
	return e == m.best && !act.Unanswered.IsZero() && now.Sub(act.Unanswered) >= e.limit() &&
		!ping.Before(act.Unanswered) && e.answered.Before(ping) && now.Sub(ping) >= e.limit()/2
}

func (m *Machine) suspect(now time.Time, e *entry) {
	e.count(1)
	e.lost = e.pinged
	e.state, e.since, e.misses, e.overdue = Suspect, now, 0, time.Time{}
	if e == m.best {
		e.failed = now
	}
	m.emit(Suspected, e, "data and ping unanswered")
	for _, o := range m.paths {
		if o.state == Valid || o.state == Suspect {
			m.ping(now, o)
		}
	}
}

// blame notes that another path answers what was asked since one failed. If that
// one then answers as soon, it was not to blame: all of them stand still together
// where a radio does, or this process (PATH-19).
func (m *Machine) blame(now, asked time.Time) {
	for _, e := range m.paths {
		if !e.failed.IsZero() && e.blamed.IsZero() && !asked.Before(e.failed) {
			e.blamed = now
		}
	}
}

func (m *Machine) kill(now time.Time, e *entry, reason string) {
	was := e.opened
	e.state, e.since, e.opened, e.samples, e.better = Dead, now, false, 0, 0
	e.history, e.lossy, e.overdue = 0, false, time.Time{}
	if e.id.TCP {
		e.reprobe = false // a connection does not come back; another may be made
	}
	if was {
		e.worked = now
		m.emit(Closed, e, reason)
	}
	if m.best == e {
		m.best, m.doubt = nil, time.Time{}
	}
}

func (m *Machine) ping(now time.Time, e *entry) {
	if e.state == Valid && e.answered.Before(e.pinged) { // the one before
		switch {
		case now.Sub(e.pinged) >= e.missAfter(): // forgiven since data came
			if !e.overdue.IsZero() {
				e.count(1)
			}
			e.count(1)
			e.overdue = time.Time{}
		case e.overdue.IsZero():
			e.overdue = e.pinged
		}
	}
	m.pings = append(m.pings, e.id)
	e.pinged = now
	if e.state == Probing {
		e.next = e.schedule(now)
	}
}

// schedule is when a candidate that was pinged now is pinged again. An address
// is knocked at often in the first second, while NATs open on both sides
// (PATH-16); a relay 0, 0.25, 0.5, 1, 2, 4 s after it was found.
func (e *entry) schedule(now time.Time) time.Time {
	if e.id.Kind() == Relayed {
		return now.Add(max(retryWaiting, now.Sub(e.born)))
	}
	for _, ms := range [...]int{20, 50, 100, 200, 400, 800} {
		if t := e.born.Add(time.Duration(ms) * time.Millisecond); t.After(now) {
			return t
		}
	}
	if now.Sub(e.worked) < lateFor {
		return now.Add(lateProbe)
	}
	return now.Add(slowProbe)
}

func (e *entry) patience() time.Duration {
	if e.id.knocked() {
		return giveUpDirect
	}
	return giveUp
}

// direct tells whether data goes straight to the peer, in datagrams.
func (m *Machine) direct() bool {
	return m.best != nil && m.best.state == Valid && m.best.id.knocked()
}

func (m *Machine) emit(k EventKind, e *entry, reason string) {
	m.events = append(m.events, Event{Kind: k, Path: e.id, RTT: e.rtt, Reason: reason})
}

// runnerUp is the path that answers and comes next to the best one.
func (m *Machine) runnerUp() *entry {
	for _, e := range m.ranked() {
		if e != m.best && e.state == Valid {
			return e
		}
	}
	return nil
}

// spares are the paths that data goes over next, those that answer: the
// runner-up and, where that goes straight as well and may fail with the best one,
// a relayed one. A link to a relay that has died is known to be so only once
// something was sent over it.
func (m *Machine) spares() []*entry {
	r := m.runnerUp()
	if r == nil {
		return nil
	}
	if o := m.fallback(); o != nil && o != r {
		return []*entry{r, o}
	}
	return []*entry{r}
}

// compare counts how often in a row a path beat the best one by enough.
func (m *Machine) compare(e *entry) {
	if m.best == nil || e == m.best || e.id.rank() != m.best.id.rank() {
		return
	}
	if margin := max(5*time.Millisecond, m.best.rtt/5); e.cost()+margin <= m.best.cost() {
		e.better++
	} else {
		e.better = 0
	}
}

// choose applies PATH-19: direct before relayed, at once upward, but not to one
// that comes and goes; within a kind only for a gain that lasts.
func (m *Machine) choose(now time.Time) {
	var top *entry
	for _, e := range m.ranked() {
		if e.state == Valid && (top == nil || now.Before(top.damped) && !now.Before(e.damped)) {
			top = e
		}
	}
	if e := m.successor(now); e != nil {
		top = e
	} else if top == nil || top == m.best {
		return
	} else if b := m.best; b != nil && b.state == Valid {
		if now.Before(top.damped) {
			return
		}
		if b.id.rank() == top.id.rank() && b.lossy == top.lossy && (top.better < 3 || now.Sub(m.selected) < dwell) {
			return
		}
	}
	failed := m.best != nil && m.best.state == Suspect && m.best.since.After(top.answered)
	m.best, m.selected, m.doubt, m.doubts = top, now, time.Time{}, 0
	// What ended one direct path may well have ended the other: data goes over the
	// relay too until it answers (PATH-18).
	if f := m.fallback(); failed && f != nil && top.id.Kind() == Direct {
		m.doubt, m.doubtOf, m.doubted, m.doubtVia = now, now, now, f.id
	}
	for _, e := range m.paths {
		e.better = 0
	}
	m.emit(Selected, top, "best of those that answer")
}

// successor is the direct path to go over to from one that is in doubt: it
// answered what was sent after the doubt began, and the best path did not in its
// time. A peer that has moved answers at another address, and no more at the one
// before (PATH-18). Where answers used to vary, twice the round trip is time
// enough, since the other one had no more. Of two relays the one that carries a
// transfer is the slower one, whichever it is: to go over would be to come back.
func (m *Machine) successor(now time.Time) *entry {
	b := m.best
	if b == nil || b.id.Kind() != Direct || b.state != Valid || m.doubt.IsZero() || now.Sub(m.doubt) < b.rtt+min(4*b.dev, b.rtt)+late {
		return nil
	}
	for _, e := range m.ranked() {
		if e != b && e.state == Valid && e.id.Kind() == Direct && !e.answered.Before(m.doubt) {
			return e
		}
	}
	return nil
}

// ranked orders the paths, best first, without regard to the present choice.
// One that loses much comes after every clean one that answers (PATH-19).
func (m *Machine) ranked() []*entry {
	order := [...]int{Unknown: 4, Valid: 0, Suspect: 1, Probing: 2, Dead: 3}
	out := slices.Clone(m.paths)
	slices.SortStableFunc(out, func(a, b *entry) int {
		return cmp.Or(
			cmp.Compare(order[a.state], order[b.state]),
			cmp.Compare(truth(a.lossy), truth(b.lossy)),
			cmp.Compare(b.id.rank(), a.id.rank()),
			cmp.Compare(a.cost(), b.cost()),
		)
	})
	return out
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// cost is the round trip by which paths of a kind compare.
func (e *entry) cost() time.Duration {
	if e.id.Addr.Addr().Is6() {
		return e.rtt - sixAhead
	}
	return e.rtt
}

// count notes whether a ping of a path that works was lost (PATH-19). What
// makes a path lossy and what makes it clean again are apart, so that one at
// the limit does not change all the time.
func (e *entry) count(lost uint32) {
	if e.state != Valid {
		return // an outage is no loss of many pings
	}
	e.history = (e.history<<1 | lost) & (1<<lossWindow - 1)
	switch n := bits.OnesCount32(e.history); {
	case n > lossyAbove:
		e.lossy = true
	case n <= cleanUpTo:
		e.lossy = false
	}
}

// flap notes a failure of the best path. The first is forgiven; from the second
// on the path has to wait before it is chosen again, ever longer (PATH-19).
func (e *entry) flap(now time.Time) {
	if now.Sub(e.flapped) > flapWithin && now.Sub(e.damped) > flapWithin {
		e.flaps = 0
	}
	e.flapped = now
	if e.flaps++; e.flaps > 1 {
		e.damped = now.Add(min(firstDamping<<min(e.flaps-2, 8), lastDamping))
	}
}

// observe smooths the round trip as RFC 6298 does.
func (e *entry) observe(rtt time.Duration) {
	if rtt < 0 {
		rtt = 0
	}
	if e.samples++; e.samples == 1 {
		e.rtt, e.dev = rtt, rtt/2
		return
	}
	e.dev += ((e.rtt - rtt).Abs() - e.dev) / 4
	e.rtt += (rtt - e.rtt) / 8
}

// limit is how long data may go unanswered before its path is in doubt
// (PATH-18).
func (e *entry) limit() time.Duration {
	l := max(100*time.Millisecond, 3*e.rtt+4*e.dev+30*time.Millisecond)
	if e.rtt < 120*time.Millisecond {
		l = min(l, 400*time.Millisecond)
	}
	return l
}

// missedAfter is how long data may go unanswered before the path is asked: half
// the limit, or less where the peer was not silent for so long lately.
func (e *entry) missedAfter(longest time.Duration) time.Duration {
	half := e.limit() / 2
	if longest == 0 {
		return half
	}
	return min(half, max(missed, 2*longest))
}

// answerIn is how long an answer takes.
func (e *entry) answerIn() time.Duration { return e.rtt + 4*e.dev + late }

// missAfter is how long a ping may go unanswered (PATH-18).
func (e *entry) missAfter() time.Duration {
	return max(200*time.Millisecond, 2*e.rtt+4*e.dev)
}
