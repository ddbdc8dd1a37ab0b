package socket

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

// A simulation of two peers with a direct path and a relay between them: their
// machines, told by nodes what peer tells them, in made-up time. It shows what
// the doubts of PATH-18 cost on paths that work.

var (
	straight = path.ID{Addr: netip.MustParseAddrPort("31.22.0.2:4242")}
	detour   = path.ID{Relay: [32]byte{1}}
)

// weather is how long a packet is on its way now, and whether it is lost.
type weather func(w *world, from *node, id path.ID) (took time.Duration, lost bool)

type world struct {
	now    time.Time
	random *rand.Rand
	events events
	seq    int
	way    weather
	last   map[lane]time.Time // nothing overtakes what was sent before it the same way
	a, b   *node
}

type lane struct {
	from *node
	id   path.ID
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

func newWeather(way weather) *world {
	w := &world{now: time.Unix(1e9, 0), random: rand.New(rand.NewPCG(3, 4)), way: way, last: make(map[lane]time.Time)}
	w.a, w.b = &node{w: w}, &node{w: w}
	w.a.other, w.b.other = w.b, w.a
	for _, n := range []*node{w.a, w.b} {
		n.m.Found(w.now, detour, false)
		n.m.Found(w.now, straight, false)
		n.apply()
		n.tick()
	}
	return w
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.events, event{w.now.Add(d), w.seq, do})
}

func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.events) > 0 && !w.events[0].at.After(end) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

// in is how much of the present period has passed.
func (w *world) in(period time.Duration) time.Duration {
	return time.Duration(w.now.UnixNano()) % period
}

// node is a peer as the other one sees it; its fields are those of peer.
type node struct {
	w                            *world
	other                        *node
	m                            path.Machine
	route                        []path.ID
	lastData, lastSent, bestRecv time.Time
	unanswered, doubted, due     time.Time
	longest                      time.Duration
	silences                     silences
	loop                         int
	paused                       time.Time // until then nothing runs
	got                          func(n int)

	tally
	came time.Time
}

// tally is what happened since it was set to zero.
type tally struct {
	sent, relayed, suspected int
	gap                      time.Duration // longest between two packets that came
}

func (n *node) transmit(id path.ID, do func()) {
	took, lost := n.w.way(n.w, n, id)
	if lost {
		return
	}
	at, before := n.w.now.Add(took), n.w.last[lane{n, id}]
	if at.Before(before) {
		at = before
	}
	n.w.last[lane{n, id}] = at
	n.w.after(at.Sub(n.w.now), func() { n.other.awake(do) })
}

// awake runs what comes as soon as the process is not paused; its timers run
// before that.
func (n *node) awake(do func()) {
	if n.w.now.Before(n.paused) {
		n.w.after(n.paused.Sub(n.w.now)+100*time.Microsecond, do)
		return
	}
	do()
}

func (n *node) send(number, size int) {
	now := n.w.now
	n.lastSent = now
	if size > keepAliveSize {
		n.lastData = now
	}
	if n.unanswered.IsZero() {
		n.unanswered = now
	}
	if n.due.Sub(now) > 2*busyTick {
		n.tick()
	}
	n.sent++
	for i, id := range n.route {
		if i > 0 || id != straight {
			n.relayed++
		}
		n.transmit(id, func() { n.other.data(id, number, size) })
	}
}

func (n *node) heard(id path.ID, data bool) {
	ours := len(n.route) > 0 && n.route[0] == id
	if ours {
		n.longest = max(n.longest, n.w.now.Sub(n.bestRecv))
		n.bestRecv = n.w.now
	}
	if ours || data {
		n.unanswered = time.Time{}
	}
}

func (n *node) cameOver(id path.ID) {
	if len(n.route) != 1 || n.route[0] == id || n.w.now.Sub(n.doubted) < busyTick {
		return
	}
	n.doubted = n.w.now
	n.m.Doubt(n.w.now, id)
	n.apply()
}

func (n *node) data(id path.ID, number, size int) {
	n.cameOver(id)
	n.heard(id, true)
	if size > keepAliveSize {
		n.lastData = n.w.now
	}
	if !n.came.IsZero() {
		n.gap = max(n.gap, n.w.now.Sub(n.came))
	}
	n.came = n.w.now
	n.got(number)
}

func (n *node) apply() {
	for _, id := range n.m.Pings() {
		sent := n.w.now
		n.transmit(id, func() { n.other.asked(id, sent) })
	}
	for _, e := range n.m.Events() {
		if e.Kind == path.Suspected && e.Path == straight {
			n.suspected++
		}
	}
	n.route = n.m.Route()
}

func (n *node) asked(id path.ID, sent time.Time) {
	n.transmit(id, func() {
		n.other.heard(id, false)
		n.other.m.Pong(n.w.now, id, sent)
		n.other.apply()
	})
	if id.Kind() == path.Relayed {
		if !n.unanswered.IsZero() && n.w.now.Sub(n.unanswered) > min(n.m.Quiet()/4, n.m.Missed(n.silences.longest())) {
			n.cameOver(id)
		}
		n.heard(id, false)
	}
	n.m.Found(n.w.now, id, false)
	n.apply()
}

func (n *node) tick() {
	now := n.w.now
	n.loop++
	loop := n.loop
	n.silences.note(n.longest, now.UnixNano())
	n.longest = 0
	due := n.m.Tick(now, path.Activity{LastData: n.lastData, LastRecv: n.bestRecv, Unanswered: n.unanswered, Held: true, Longest: n.silences.longest()})
	n.apply()
	wait := coldAfter
	if !due.IsZero() {
		wait = due.Sub(now)
	}
	if now.Sub(n.lastSent) < time.Second {
		wait = min(wait, busyTick, n.m.Missed(n.silences.longest()))
	}
	n.due = now.Add(wait)
	n.w.after(wait, func() {
		n.w.after(max(0, n.paused.Sub(n.w.now)), func() {
			if n.loop == loop {
				n.tick()
			}
		})
	})
}

// pauses stops the node now and then.
func (n *node) pauses(every, lasts time.Duration) {
	n.w.after(every/2+time.Duration(n.w.random.Int64N(int64(every))), func() {
		n.paused = n.w.now.Add(lasts)
		n.pauses(every, lasts)
	})
}

// bulk lets a send a packet each millisecond, 300 of them in flight at most, and
// b acknowledge every other one.
func (w *world) bulk() {
	var next, acked, seen, backoff int
	progress := w.now
	w.b.got = func(n int) {
		if n > seen {
			if seen = n; n%2 == 0 {
				w.b.send(n, 40)
			}
		}
	}
	w.a.got = func(n int) {
		if n > acked {
			acked, progress, backoff = n, w.now, 0
		}
	}
	var step func()
	step = func() {
		packets := 0
		switch {
		case w.now.Before(w.a.paused):
		case next-acked < 300:
			packets = 1
		case w.now.Sub(progress) > 200*time.Millisecond<<backoff:
			packets = 2
			backoff++
		}
		for range packets {
			next++
			w.a.send(next, 1200)
		}
		w.after(time.Millisecond, step)
	}
	step()
}

// steady is 6 ms straight and 15 ms by the relay, one way.
func steady(_ *world, _ *node, id path.ID) (time.Duration, bool) {
	if id == straight {
		return 6 * time.Millisecond, false
	}
	return 15 * time.Millisecond, false
}

// loses loses a part of what goes straight.
func loses(fromA, fromB float64) weather {
	return func(w *world, from *node, id path.ID) (time.Duration, bool) {
		part := fromB
		if from == w.a {
			part = fromA
		}
		took, _ := steady(w, from, id)
		return took, id == straight && w.random.Float64() < part
	}
}

// slower adds to the time of what goes straight, and by the relay too if all.
func slower(all bool, more func(w *world, from *node) time.Duration) weather {
	return func(w *world, from *node, id path.ID) (time.Duration, bool) {
		took, _ := steady(w, from, id)
		if all || id == straight {
			took += more(w, from)
		}
		return took, false
	}
}

// stalls lets nothing arrive for a while in each period, as a radio does.
func stalls(period, lasts time.Duration) weather {
	return slower(true, func(w *world, _ *node) time.Duration { return max(0, lasts-w.in(period)) })
}

// bloats lets a queue grow at a's uplink for 5 s of each period.
func bloats(period, rises, to time.Duration) weather {
	return slower(true, func(w *world, from *node) time.Duration {
		const lasts = 5 * time.Second
		switch at := w.in(period); {
		case from == w.b || at >= lasts+time.Second:
			return 0
		case at >= lasts: // it drains
			return part(to, lasts+time.Second-at, time.Second)
		default:
			return part(to, min(at, rises), rises)
		}
	})
}

// part is d times at, which is of all.
func part(d, at, all time.Duration) time.Duration {
	return time.Duration(float64(d) * float64(at) / float64(all))
}

// fails lets one direction of the direct path fail for 5 s of 40.
func fails(from func(w *world) *node) weather {
	return func(w *world, f *node, id path.ID) (time.Duration, bool) {
		took, _ := steady(w, f, id)
		return took, id == straight && f == from(w) && w.in(40*time.Second) > 35*time.Second
	}
}

// PATH-18, PATH-19: beneath a transfer, paths that lose, stall, queue or jump, and
// nodes that pause, send little over the relay and leave the direct path rarely
// or not at all; a direction that fails is noticed all the same.
func TestPATH18DoubtsOfPathsThatWork(t *testing.T) {
	t.Parallel()
	const ms, s = time.Millisecond, time.Second
	pause := func(n func(w *world) *node, every, lasts time.Duration) func(w *world) {
		return func(w *world) { n(w).pauses(every, lasts) }
	}
	a, b := func(w *world) *node { return w.a }, func(w *world) *node { return w.b }
	jitter := func(w *world, _ *node) time.Duration { return time.Duration(w.random.ExpFloat64() * float64(40*ms)) }
	jump := func(w *world, _ *node) time.Duration {
		if w.in(10*s) < 5*s {
			return 0
		}
		return 70 * ms
	}
	for name, c := range map[string]struct {
		way       weather
		also      func(w *world)
		relayed   float64 // per cent
		suspected int     // times, in 80 s
		gap       time.Duration
	}{
		"steady":                   {way: steady, gap: 3 * ms},
		"loses one in ten one way": {way: loses(.1, .01), relayed: 0.5, gap: 20 * ms},
		"varies by 40 ms":          {way: slower(false, jitter), relayed: 0.5, gap: 600 * ms},
		"stalls often":             {way: stalls(2300*ms, 100*ms), relayed: 10, suspected: 36, gap: 110 * ms},
		"stalls":                   {way: stalls(11*s, 100*ms), relayed: 2.5, suspected: 8, gap: 110 * ms},
		"stalls longer":            {way: stalls(11*s, 150*ms), relayed: 2.5, suspected: 8, gap: 160 * ms},
		"queues fast":              {way: bloats(17*s, 100*ms, 400*ms), relayed: 2, gap: 10 * ms},
		"queues":                   {way: bloats(23*s, s, 250*ms), relayed: 1, gap: 10 * ms},
		"jumps by 140 ms":          {way: slower(false, jump), relayed: 2, gap: 80 * ms},
		"receiver pauses":          {way: steady, also: pause(b, s, 50*ms), relayed: 0.1, gap: 60 * ms},
		"sender pauses long":       {way: steady, also: pause(a, 5*s, 300*ms), relayed: 0.1, suspected: 8, gap: 310 * ms},
		"not heard any more":       {way: fails(a), relayed: 16, suspected: 2, gap: 80 * ms},
		"hears nothing any more":   {way: fails(b), relayed: 16, suspected: 2, gap: 80 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWeather(c.way)
			w.run(2 * s)
			w.bulk()
			if c.also != nil {
				c.also(w)
			}
			w.run(3 * s)
			w.a.tally, w.b.tally = tally{}, tally{}
			w.run(80 * s)
			for _, n := range []*node{w.a, w.b} {
				relayed := 100 * float64(n.relayed) / float64(n.sent)
				t.Logf("%d sent, %.3f %% relayed, suspected %d times, longest gap %s", n.sent, relayed, n.suspected, n.gap)
				require.LessOrEqual(t, relayed, c.relayed)
				require.LessOrEqual(t, n.suspected, c.suspected)
				require.LessOrEqual(t, n.gap, c.gap)
			}
		})
	}
}
