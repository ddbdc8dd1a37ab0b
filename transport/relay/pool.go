package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits and timing of a pool (PATH-28, 29).
const (
	// DuplicateHold is how long a node stays away from a relay that said
	// another node has its key.
	DuplicateHold = time.Minute

	homesWanted    = 2
	maxCandidates  = 5 // relays tried and measured side by side
	maxForeign     = 32
	idleAfter      = time.Minute
	drainedAfter   = 500 * time.Millisecond // without a frame, when the relay is going down
	deniedHold     = 5 * time.Minute
	dialTimeout    = 10 * time.Second
	firstRedial    = 100 * time.Millisecond
	lastRedial     = 16 * time.Second
	plateau        = 4  // doublings, to 1.6 s
	plateauTries   = 16 // attempts that far apart
	measurePeriod  = 5 * time.Minute
	measureTimeout = 3 * time.Second
	steadyAfter    = 10 * time.Second      // a link that lasted so long forgives earlier failures
	betterBy       = 10 * time.Millisecond // and by a third
)

// Errors of a pool, matched with errors.Is.
var (
	// ErrNoLink says that no link to that relay is open.
	ErrNoLink = errors.New("no link to that relay")
	// ErrOwnKey says that a node is no relay to itself (PATH-5).
	ErrOwnKey = errors.New("the relay is this node")
)

// PoolConfig configures a Pool. Dial is required; every callback may be nil,
// must not block and must not call Close, Foreign or SetKnown.
type PoolConfig struct {
	// Key is the node's own key; it is never dialled.
	Key Key
	// BootID names this run of the node.
	BootID BootID
	// Dial opens a stream to the relay. ctx bounds the dialling only.
	Dial func(ctx context.Context, relay Key) (Stream, error)
	// OnFrame gets every Data, Disco and Attest frame; see [LinkConfig]. Links deliver
	// side by side.
	OnFrame func(relay, from Key, kind FrameType, ecn byte, payload []byte)
	// OnPeerGone hears that a key sent to is not connected to the relay.
	OnPeerGone func(relay, peer Key)
	// OnLink hears that a relay can be used, or no longer, and why: then
	// errors.As finds a *GoAwayError where the relay sent us away. The calls
	// come one after another; frames may come before the first.
	OnLink func(relay Key, up bool, reason error)
	// OnDraining hears that a relay is going down. Its link carries frames until
	// none has come for half a second and another home is up, or the relay ends
	// it.
	OnDraining func(relay Key)
	// OnWelcome gets what a relay said first, before OnLink.
	OnWelcome func(relay Key, w Welcome)
	// OnHomes hears that other relays were chosen as homes, best first. The
	// calls come one after another.
	OnHomes func(homes []Key)
	// OnState, OnHealth and OnRateHint are those of [LinkConfig].
	OnState    func(relay Key, s State)
	OnHealth   func(relay Key, problem string)
	OnRateHint func(relay Key, bytesPerSecond uint64)
	// Logger is silent when nil.
	Logger *slog.Logger
}

// HomeInfo is one relay as the pool sees it.
type HomeInfo struct {
	Key   Key
	Home  bool          // one of the two to publish; stays so while it is briefly down
	Up    bool          // a link is open
	State State         // of the link, StateDead without one
	RTT   time.Duration // zero when never measured
	Since time.Time     // when Up last changed; zero when never up
	Err   error         // why it is down, nil if unknown or up
}

// Pool keeps the links of a node: two homes among the known relays, always
// live, and foreign links for a while. All methods may be called concurrently.
// It owns one goroutine that decides and one for each link or dial.
type Pool struct {
	cfg    PoolConfig
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	wake   chan struct{} // has a token when there is something to decide

	links atomic.Pointer[map[Key]*poolLink] // open links; replaced, never changed

	// tellMu is held over a change and the callback about it, so that the
	// callbacks come in order. Taken before mu.
	tellMu sync.Mutex

	mu       sync.Mutex
	closed   bool
	known    []Key
	slots    map[Key]*slot
	homes    []Key     // chosen, those in use first
	chosen   []Key     // the same in the order of keys, as last told
	live     bool      // some link was open at the last look
	measure  time.Time // when the current measuring began; zero: none
	measured time.Time // when one last ended
}

// slot is what the pool knows of one relay.
type slot struct {
	key      Key
	link     *poolLink // open link or nil
	dial     *dial     // running attempt or nil
	told     bool      // OnLink was last told that it is up
	failures int
	next     time.Time // no attempt before, unless the network changes
	// The relay does not want us before these times: as a home, at all.
	homeHold, hold time.Time
	rtt            time.Duration
	since          time.Time
	err            error
}

// dial is one attempt; done is closed when it ended.
type dial struct {
	mode   Mode
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // valid after done
}

// again says that who waits for a foreign link should try once more: the
// attempt was cut short, or asked for more than that.
func (d *dial) again() bool {
	var away *GoAwayError
	return errors.Is(d.err, errKicked) ||
		d.mode == ModeHome && errors.As(d.err, &away) && away.Reason == GoAwayDenied
}

// errKicked ends an attempt that a change of network made pointless.
var errKicked = errors.New("network changed")

// poolLink is an open link with the time of its last use.
type poolLink struct {
	*Link
	used atomic.Int64 // unix nanoseconds
}

func (l *poolLink) touch() { l.used.Store(time.Now().UnixNano()) }

func (l *poolLink) idleSince() time.Time { return time.Unix(0, l.used.Load()) }

// usable says that the link is worth moving to.
func (l *poolLink) usable() bool {
	return l != nil && !l.Draining() && l.State() != StateDead
}

// NewPool starts a pool without relays; SetKnown names them.
func NewPool(cfg PoolConfig) *Pool {
	p := &Pool{
		cfg:   cfg,
		log:   cfg.Logger,
		wake:  make(chan struct{}, 1),
		slots: make(map[Key]*slot),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.links.Store(&map[Key]*poolLink{})
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	p.wg.Go(p.run)
	return p
}

// SetKnown names the relays to choose homes from, best guess first. Links to
// relays that are not named any more are kept as foreign ones.
func (p *Pool) SetKnown(relays []Key) {
	p.mu.Lock()
	p.known = p.known[:0]
	for _, key := range relays {
		if key == p.cfg.Key || slices.Contains(p.known, key) {
			continue
		}
		if s := p.slots[key]; s == nil {
			p.slots[key] = &slot{key: key}
			p.measured = time.Time{} // somebody new: compare
		}
		p.known = append(p.known, key)
	}
	p.mu.Unlock()
	p.nudge()
}

// Kick says that the network changed: attempts under way begin anew, those
// that wait begin now, and open links must prove themselves.
func (p *Pool) Kick() {
	p.mu.Lock()
	for _, s := range p.slots {
		if s.dial != nil {
			s.dial.cancel(errKicked)
		}
		if s.link != nil {
			s.link.Probe()
		}
		s.failures, s.next = 0, time.Time{}
	}
	p.measured = time.Time{}
	p.mu.Unlock()
	p.nudge()
}

// Homes describes every relay that is known or linked, homes first, then by
// round trip.
func (p *Pool) Homes() []HomeInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]HomeInfo, 0, len(p.slots))
	for key, s := range p.slots {
		info := HomeInfo{
			Key:   key,
			Home:  slices.Contains(p.homes, key),
			State: StateDead,
			RTT:   s.rtt,
			Since: s.since,
			Err:   s.err,
		}
		if s.link != nil {
			info.Up, info.State, info.RTT = true, s.link.State(), s.link.RTT()
		}
		out = append(out, info)
	}
	rank := func(h HomeInfo) int {
		switch {
		case h.Home:
			return slices.Index(p.homes, h.Key)
		case h.Up:
			return homesWanted
		}
		return homesWanted + 1
	}
	slices.SortFunc(out, func(a, b HomeInfo) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.RTT, b.RTT), slices.Compare(a.Key[:], b.Key[:]))
	})
	return out
}

// Send queues a frame for the key on the link to the relay; see [Link.Send].
// It fails with ErrNoLink when there is none.
func (p *Pool) Send(relay, to Key, kind FrameType, ecn byte, payload []byte) error {
	l := (*p.links.Load())[relay]
	if l == nil {
		return ErrNoLink
	}
	l.touch()
	return l.Send(to, kind, ecn, payload)
}

// Foreign returns when a link to the relay is open, opening one if there is
// none. Links that are no homes close a minute after their last use; there
// are 32 of them at most, the least recently used gives way.
func (p *Pool) Foreign(ctx context.Context, relay Key) error {
	if relay == p.cfg.Key {
		return fmt.Errorf("open foreign link: %w", ErrOwnKey)
	}
	for {
		d, evicted, err := p.foreign(relay)
		if evicted != nil {
			evicted.fail(ErrClosed)
		}
		if d == nil {
			return err
		}
		select {
		case <-d.done:
			if d.err != nil && !d.again() {
				return fmt.Errorf("open foreign link: %w", d.err)
			}
		case <-ctx.Done():
			return fmt.Errorf("open foreign link: %w", context.Cause(ctx))
		}
	}
}

// foreign returns the attempt to wait for, or nil when there is a link; and a
// link that gives way to it.
func (p *Pool) foreign(relay Key) (d *dial, evicted *poolLink, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slots[relay]
	switch {
	case p.closed:
		return nil, nil, fmt.Errorf("open foreign link: %w", ErrClosed)
	case s == nil:
		s = &slot{key: relay}
		p.slots[relay] = s
	case s.link != nil:
		s.link.touch()
		return nil, nil, nil
	case s.dial != nil:
		return s.dial, nil, nil
	case time.Now().Before(s.hold):
		return nil, nil, fmt.Errorf("open foreign link: %w", s.err)
	}
	evicted = p.makeRoom(maxForeign - 1)
	mode := ModeConnect
	if slices.Contains(p.homes, relay) && !time.Now().Before(s.homeHold) {
		mode = ModeHome // it was one, and would only be dialled twice
	}
	p.startDial(s, mode)
	return s.dial, evicted, nil
}

// makeRoom names the foreign link that was idle longest when there are more of
// them than limit.
func (p *Pool) makeRoom(limit int) *poolLink {
	var oldest *poolLink
	n := 0
	for key, s := range p.slots {
		if s.link == nil || s.link.State() == StateDead || slices.Contains(p.homes, key) {
			continue
		}
		n++
		if oldest == nil || s.link.idleSince().Before(oldest.idleSince()) {
			oldest = s.link
		}
	}
	if n <= limit {
		return nil
	}
	return oldest
}

// Close ends all links and returns after the last goroutine. It may be called
// more than once.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel(ErrClosed)
	p.wg.Wait()
	return nil
}

func (p *Pool) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run decides, whenever something happened or a time has come.
func (p *Pool) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-timer.C:
		case <-p.wake:
		}
		timer.Reset(p.decide(time.Now()))
	}
}

// decide brings the links closer to what they should be, and says when to look
// again.
func (p *Pool) decide(now time.Time) time.Duration {
	p.tellMu.Lock()
	defer p.tellMu.Unlock()
	p.mu.Lock()
	var at schedule
	if p.closed {
		p.mu.Unlock()
		return time.Hour
	}
	p.noticeOutage(now)
	candidates := p.candidates(now, &at)
	p.stepMeasure(now, candidates, &at)
	homes, changed := p.elect()
	p.dialCandidates(now, candidates, &at)
	idle := p.closeIdle(now, &at)
	p.mu.Unlock()

	for _, l := range idle {
		if l.Draining() {
			l.fail(&GoAwayError{Reason: GoAwayDraining})
		} else {
			l.fail(ErrClosed)
		}
	}
	if changed && p.cfg.OnHomes != nil {
		p.cfg.OnHomes(homes)
	}
	return at.in(now)
}

// schedule is the earliest of the times it was given.
type schedule struct{ at time.Time }

func (s *schedule) add(t time.Time) {
	if s.at.IsZero() || t.Before(s.at) {
		s.at = t
	}
}

func (s *schedule) in(now time.Time) time.Duration {
	if s.at.IsZero() {
		return time.Hour
	}
	return max(s.at.Sub(now), time.Millisecond)
}

// noticeOutage shortens all waits when the last link is lost: what waited
// leisurely beside a live relay is urgent now.
func (p *Pool) noticeOutage(now time.Time) {
	live := p.anyLive()
	if p.live && !live {
		for _, s := range p.slots {
			if soon := now.Add(jitter(firstRedial)); s.next.After(soon) {
				s.failures, s.next = 0, soon
			}
		}
	}
	p.live = live
}

func (p *Pool) anyLive() bool {
	for _, s := range p.slots {
		if s.link != nil {
			return true
		}
	}
	return false
}

// candidates are the relays worth trying and measuring: homes, then those that
// failed least, then in the order they were named.
func (p *Pool) candidates(now time.Time, at *schedule) []*slot {
	out := make([]*slot, 0, len(p.known))
	for _, key := range p.known {
		s := p.slots[key]
		if now.Before(s.homeHold) && s.link == nil {
			at.add(s.homeHold)
			continue
		}
		out = append(out, s)
	}
	rank := func(s *slot) int {
		if s.link != nil || slices.Contains(p.homes, s.key) {
			return -1
		}
		return s.failures
	}
	slices.SortStableFunc(out, func(a, b *slot) int { return cmp.Compare(rank(a), rank(b)) })
	return out[:min(len(out), maxCandidates)]
}

// stepMeasure begins a measuring every five minutes and ends it when all
// candidates have answered, failed or had their time. Its end compares.
func (p *Pool) stepMeasure(now time.Time, candidates []*slot, at *schedule) {
	if p.measure.IsZero() {
		if due := p.measured.Add(measurePeriod); !p.measured.IsZero() && now.Before(due) {
			at.add(due)
			return
		}
		if len(candidates) == 0 {
			return
		}
		p.measure = now
		for _, s := range candidates {
			if s.link != nil {
				s.link.Probe()
			}
		}
	}
	over := p.measure.Add(measureTimeout)
	waiting := slices.ContainsFunc(candidates, func(s *slot) bool {
		return s.link == nil && (s.dial != nil || s.failures == 0)
	})
	if waiting && now.Before(over) {
		at.add(over)
		return
	}
	p.measure, p.measured = time.Time{}, now
	at.add(now.Add(measurePeriod))
	p.compare()
}

// compare lets the best other relay take the place of the slowest home if it
// is better by 10 ms and by a third (PATH-28).
func (p *Pool) compare() {
	if len(p.homes) < homesWanted {
		return
	}
	worst := p.homes[len(p.homes)-1]
	for _, key := range p.homes {
		if p.rttOf(key) > p.rttOf(worst) {
			worst = key
		}
	}
	best := p.bestOther()
	if best == nil || p.slots[worst].link == nil {
		return
	}
	old, fresh := p.rttOf(worst), p.rttOf(best.key)
	if fresh+betterBy <= old && fresh <= old*2/3 {
		p.homes[slices.Index(p.homes, worst)] = best.key
	}
}

func (p *Pool) rttOf(key Key) time.Duration {
	if l := p.slots[key].link; l != nil {
		return l.RTT()
	}
	return 0
}

// bestOther is the relay that could be a home, by the fastest link, and is
// none.
func (p *Pool) bestOther() *slot {
	var best *slot
	for _, key := range p.known {
		s := p.slots[key]
		if !s.link.usable() || s.link.Mode() != ModeHome || slices.Contains(p.homes, key) {
			continue
		}
		if best == nil || s.link.RTT() < best.link.RTT() {
			best = s
		}
	}
	return best
}

// elect chooses the homes: they stay as long as they are known and usable, or
// nothing else is. It says whether others were chosen than before.
func (p *Pool) elect() (homes []Key, changed bool) {
	before := slices.Clone(p.chosen)
	p.homes = slices.DeleteFunc(p.homes, func(key Key) bool { return !slices.Contains(p.known, key) })
	for i, key := range p.homes {
		if p.slots[key].link.usable() {
			continue
		}
		if other := p.bestOther(); other != nil {
			p.homes[i] = other.key
		}
	}
	for len(p.homes) < homesWanted {
		other := p.bestOther()
		if other == nil {
			break
		}
		p.homes = append(p.homes, other.key)
	}
	slices.SortStableFunc(p.homes, func(a, b Key) int {
		up, other := p.slots[a].link.usable(), p.slots[b].link.usable()
		switch {
		case up && !other:
			return -1
		case other && !up:
			return 1
		}
		return 0
	})
	p.chosen = slices.Clone(p.homes)
	slices.SortFunc(p.chosen, func(a, b Key) int { return slices.Compare(a[:], b[:]) })
	for _, key := range before {
		// Peers may know it as a home for a while: it is kept like any other.
		if l := p.slots[key].link; l != nil && !slices.Contains(p.chosen, key) {
			l.touch()
		}
	}
	return slices.Clone(p.homes), !slices.Equal(before, p.chosen)
}

// dialCandidates starts the attempts that are due: to all candidates while
// measuring or while a home is missing, then also to those that are linked as
// foreign relays only.
func (p *Pool) dialCandidates(now time.Time, candidates []*slot, at *schedule) {
	usable := 0
	for _, key := range p.homes {
		if p.slots[key].link.usable() {
			usable++
		}
	}
	all := usable < homesWanted || !p.measure.IsZero()
	for _, s := range candidates {
		upgrade := s.link != nil && s.link.Mode() != ModeHome && usable < homesWanted
		switch {
		case s.dial != nil || s.link != nil && !upgrade || s.link == nil && !all || now.Before(s.homeHold):
		case now.Before(s.next):
			at.add(s.next)
		default:
			p.startDial(s, ModeHome)
		}
	}
}

// closeIdle names the links to close and forgets relays that are of no
// interest any more.
func (p *Pool) closeIdle(now time.Time, at *schedule) []*poolLink {
	var idle []*poolLink
	for key, s := range p.slots {
		home := slices.Contains(p.homes, key)
		switch {
		case s.link != nil && s.link.Draining() && (!home || p.otherHome(key)):
			if end := s.link.idleSince().Add(drainedAfter); now.Before(end) {
				at.add(end)
			} else {
				idle = append(idle, s.link)
			}
		case home:
		case s.link != nil:
			if end := s.link.idleSince().Add(idleAfter); now.Before(end) {
				at.add(end)
			} else {
				idle = append(idle, s.link)
			}
		case s.dial == nil && !slices.Contains(p.known, key):
			if now.Before(s.hold) {
				at.add(s.hold)
			} else {
				delete(p.slots, key)
			}
		}
	}
	if l := p.makeRoom(maxForeign); l != nil && !slices.Contains(idle, l) {
		idle = append(idle, l)
	}
	return idle
}

// otherHome says that a home beside that one can be used.
func (p *Pool) otherHome(key Key) bool {
	return slices.ContainsFunc(p.homes, func(o Key) bool { return o != key && p.slots[o].link.usable() })
}

// startDial begins an attempt. Called with mu held, while not closed.
func (p *Pool) startDial(s *slot, mode Mode) {
	ctx, cancel := context.WithCancelCause(p.ctx)
	d := &dial{mode: mode, cancel: cancel, done: make(chan struct{})}
	s.dial = d
	p.wg.Go(func() { p.keep(ctx, s, d) })
}

// keep makes one attempt and stays with the link until it ends.
func (p *Pool) keep(ctx context.Context, s *slot, d *dial) {
	defer p.nudge()
	l, welcome, err := p.open(ctx, s.key, d.mode)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		d.cancel(nil)
		p.failed(s, d, err)
		return
	}
	d.cancel(nil)
	p.attach(s, d, l, welcome)
	p.nudge()
	select {
	case <-l.Done():
	case <-p.ctx.Done():
	}
	_ = l.Close()
	p.detach(s, l)
}

func (p *Pool) open(ctx context.Context, relay Key, mode Mode) (*poolLink, Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	stream, err := p.cfg.Dial(ctx, relay)
	if err != nil {
		return nil, Welcome{}, fmt.Errorf("dial relay %s: %w", relay, err)
	}
	l := new(poolLink)
	l.touch()
	cfg := LinkConfig{
		Relay:  relay,
		BootID: p.cfg.BootID,
		Mode:   mode,
		OnFrame: func(from Key, kind FrameType, ecn byte, payload []byte) {
			l.touch()
			if p.cfg.OnFrame != nil {
				p.cfg.OnFrame(relay, from, kind, ecn, payload)
			}
		},
		OnGoAway: func(reason GoAwayReason) {
			if reason == GoAwayDraining {
				l.touch() // for what is under way
				if p.cfg.OnDraining != nil {
					p.cfg.OnDraining(relay)
				}
			}
			p.nudge()
		},
		Logger: p.log,
	}
	if f := p.cfg.OnPeerGone; f != nil {
		cfg.OnPeerGone = func(peer Key) { f(relay, peer) }
	}
	if f := p.cfg.OnState; f != nil {
		cfg.OnState = func(s State) { f(relay, s) }
	}
	if f := p.cfg.OnHealth; f != nil {
		cfg.OnHealth = func(problem string) { f(relay, problem) }
	}
	if f := p.cfg.OnRateHint; f != nil {
		cfg.OnRateHint = func(n uint64) { f(relay, n) }
	}
	var welcome Welcome
	l.Link, welcome, err = NewLink(ctx, stream, cfg)
	return l, welcome, err
}

// attach makes the link the one to its relay.
func (p *Pool) attach(s *slot, d *dial, l *poolLink, welcome Welcome) {
	p.tellMu.Lock()
	defer p.tellMu.Unlock()
	p.mu.Lock()
	old := s.link
	s.link, s.dial = l, nil
	s.err, s.hold = nil, time.Time{}
	if d.mode == ModeHome {
		s.homeHold = time.Time{}
	}
	if !s.told {
		s.since = time.Now()
	}
	p.publish()
	p.mu.Unlock()
	close(d.done)

	if old != nil {
		old.fail(ErrClosed)
	}
	p.log.Debug("relay link up", "relay", s.key)
	if p.cfg.OnWelcome != nil {
		p.cfg.OnWelcome(s.key, welcome)
	}
	p.tell(s, true, nil)
}

// tell calls OnLink if that is news. Called with tellMu held, and not mu.
func (p *Pool) tell(s *slot, up bool, reason error) {
	if s.told == up {
		return
	}
	s.told = up
	if p.cfg.OnLink != nil {
		p.cfg.OnLink(s.key, up, reason)
	}
}

// failed notes an attempt that came to nothing.
func (p *Pool) failed(s *slot, d *dial, err error) {
	p.tellMu.Lock()
	defer p.tellMu.Unlock()
	p.mu.Lock()
	s.dial = nil
	linked := s.link != nil
	if !errors.Is(err, errKicked) {
		s.failures++
		s.err = err
		p.postpone(s, d.mode, err)
	}
	p.mu.Unlock()
	p.log.Debug("relay link failed", "relay", s.key, "err", err)
	d.err = err
	close(d.done)
	if !linked {
		p.tell(s, false, err)
	}
}

// detach notes the end of a link.
func (p *Pool) detach(s *slot, l *poolLink) {
	p.tellMu.Lock()
	defer p.tellMu.Unlock()
	p.mu.Lock()
	if s.link != l {
		p.mu.Unlock()
		return // replaced
	}
	now := time.Now()
	if now.Sub(s.since) > steadyAfter {
		s.failures = 0
	} else {
		s.failures++
	}
	s.link, s.rtt, s.since, s.err = nil, l.RTT(), now, l.Err()
	p.postpone(s, l.Mode(), s.err)
	if s.failures <= 1 && !p.anyLive() {
		// The change of network that broke it is over, as a rule. Only an attempt
		// that fails makes us patient.
		s.next = now.Add(rand.N(firstRedial / 5))
	}
	p.publish()
	// Where an attempt in another mode makes the relay drop this link, the new
	// one is up in a moment, or the attempt fails and tells.
	var away *GoAwayError
	upgrading := s.dial != nil && errors.As(s.err, &away) && away.Reason == GoAwayReplaced
	p.mu.Unlock()

	p.log.Debug("relay link down", "relay", s.key, "err", l.Err())
	if !upgrading {
		p.tell(s, false, l.Err())
	}
}

// redialAfter doubles from 0.1 s to 1.6 s, stays there for half a minute, since
// a relay that is only restarted should be missed no longer than that, and goes
// on to double to 16 s.
func redialAfter(failures int) time.Duration {
	n := max(failures-1, 0)
	if n > plateau {
		n = max(plateau, n-plateauTries)
	}
	return min(firstRedial<<min(n, 10), lastRedial)
}

// postpone sets when the relay is tried again (PATH-28).
func (p *Pool) postpone(s *slot, mode Mode, err error) {
	now := time.Now()
	if p.anyLive() {
		s.next = now.Add(time.Second + rand.N(9*time.Second))
	} else {
		s.next = now.Add(jitter(redialAfter(s.failures)))
	}
	var away *GoAwayError
	if !errors.As(err, &away) {
		return
	}
	switch away.Reason {
	case GoAwayDuplicate:
		s.homeHold = now.Add(DuplicateHold)
		s.hold = s.homeHold
	case GoAwayDenied, GoAwayVersion:
		s.homeHold = now.Add(deniedHold)
		if mode == ModeConnect {
			s.hold = s.homeHold
		}
	}
}

// publish makes the open links visible to Send. Called with mu held.
func (p *Pool) publish() {
	links := make(map[Key]*poolLink)
	for key, s := range p.slots {
		if s.link != nil {
			links[key] = s.link
		}
	}
	p.links.Store(&links)
}

// jitter spreads d over its upper half.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
