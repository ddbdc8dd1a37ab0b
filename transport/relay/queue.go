package relay

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// writeChunk is how much is gathered into one write at most; one frame more.
const writeChunk = 32 << 10

// maxControl bounds the control frames waiting in a queue.
const maxControl = 64

// A flow is told by an ECN mark, if its sender understands it, when all its
// packets of the last markWithin waited longer than markAfter (as RFC 8289 decides to drop): that he
// sends less is better than that what he sends comes late or is dropped. A burst
// is no reason. One mark tells him, and he needs a round trip to hear of it: a
// second one in the meantime would make him slow down twice. markAfter is what
// he may lose by one mark on a round trip of 100 ms before the line runs dry.
const (
	markAfter  = 15 * time.Millisecond
	markWithin = 100 * time.Millisecond
)

// queueLimits bound a queue (PATH-26). What is over them is dropped, oldest
// first.
type queueLimits struct {
	frames int
	bytes  int
	age    time.Duration
}

// queue holds the frames that wait for one stream. Putting never blocks.
// Control frames leave first. The others are kept per flow, a flow being one
// (source, target) pair, and flows take turns by bytes, so that no pair can
// starve another (PATH-27); in a flow probes leave before data. It is safe for
// concurrent use.
type queue struct {
	limits    queueLimits
	full, old *atomic.Uint64 // frames dropped for want of room, and by age

	// wake has a token whenever there may be something to take.
	wake chan struct{}

	pace pace // of the one goroutine that writes

	mu      sync.Mutex
	control fifo[item]
	flows   map[Key]*flow
	turns   fifo[*flow] // flows in the order of their turns; one that ran dry leaves at its turn
	window  window
	spare   *flow // an empty one for the next pair, with its memory
	frames  int
	bytes   int
	last    bool // a GoAway is in, after which nothing follows
}

// item is one frame in its wire form.
type item struct {
	buf *[maxWire]byte
	n   int
	at  time.Time
}

// mark says that there was congestion on the way (RFC 3168, section 5), if the
// packet's ECN mark says that its sender wants to know, and whether it does.
func (it item) mark() bool {
	const flags = lengthSize + headerSize - 1
	if it.buf[flags]&ECNMask == 0 {
		return false
	}
	it.buf[flags] |= ECNMask
	return true
}

type flow struct {
	key    Key
	disco  fifo[item]
	data   fifo[item]
	bytes  int
	credit int // bytes it may still send in this turn

	late time.Time // since when every frame waited longer than markAfter, or its sender was told; zero: they do not
}

// congested takes how long the frame that leaves now has waited, and says
// whether the sender is to hear of it.
func (fl *flow) congested(wait time.Duration, now time.Time) bool {
	switch {
	case wait <= markAfter:
		fl.late = time.Time{}
	case fl.late.IsZero():
		fl.late = now
	}
	return !fl.late.IsZero() && now.Sub(fl.late) >= markWithin
}

// fifo is a first-in first-out list.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

func (f *fifo[T]) pop() T {
	var zero T
	v := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	} else if f.head >= 64 && f.head*2 >= len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return v
}

func newQueue(limits queueLimits, full, old *atomic.Uint64) *queue {
	return &queue{
		limits: limits,
		full:   full,
		old:    old,
		wake:   make(chan struct{}, 1),
		pace:   pace{size: paceFirst, begin: time.Now()},
		flows:  make(map[Key]*flow),
		window: window{limit: windowFirst},
	}
}

// buffers recycles the memory of queued frames. A pool has no state that
// anybody could observe.
var buffers = sync.Pool{New: func() any { return new([maxWire]byte) }}

// put queues a data, disco or attest frame in the flow named by pair. The frame's
// payload is copied; it is at most MaxPayload long.
func (q *queue) put(pair Key, f Frame, now time.Time) {
	it := encode(f, now)
	q.mu.Lock()
	if q.last {
		q.mu.Unlock()
		buffers.Put(it.buf)
		return
	}
	fl := q.flows[pair]
	if fl == nil {
		if fl, q.spare = q.spare, nil; fl == nil {
			fl = new(flow)
		}
		fl.key, fl.credit, fl.late = pair, 0, time.Time{}
		q.flows[pair] = fl
		q.turns.push(fl)
	}
	if f.Type != FrameData {
		fl.disco.push(it)
	} else {
		fl.data.push(it)
	}
	fl.bytes += it.n
	q.frames++
	q.bytes += it.n
	for q.frames > q.limits.frames || q.bytes > q.limits.bytes {
		q.dropOldest()
	}
	q.mu.Unlock()
	q.signal()
}

// putControl queues a frame between client and relay.
func (q *queue) putControl(f Frame) { q.enqueueControl(f, false) }

// finish queues a GoAway after which nothing is taken any more.
func (q *queue) finish(reason GoAwayReason) {
	q.enqueueControl(Frame{Type: FrameGoAway, Payload: []byte{byte(reason)}}, true)
}

func (q *queue) enqueueControl(f Frame, last bool) {
	it := encode(f, time.Time{})
	q.mu.Lock()
	if q.last {
		q.mu.Unlock()
		buffers.Put(it.buf)
		return
	}
	if q.control.len() == maxControl {
		buffers.Put(q.control.pop().buf)
		q.full.Add(1)
	}
	q.control.push(it)
	q.last = last
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take appends waiting frames to dst until it holds limit bytes, or a frame
// more, and says how many, and whether they end with the last frame of the link.
func (q *queue) take(dst []byte, limit int, now time.Time) (out []byte, frames int, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.control.len() > 0 {
		dst = emit(dst, q.control.pop())
		frames++
	}
	if q.last {
		return dst, frames, true
	}
	for q.turns.len() > 0 && len(dst) < limit {
		fl := q.turns.pop()
		fl.credit = min(fl.credit+maxWire, maxWire)
		for fl.credit > 0 && len(dst) < limit {
			it, ok := q.popFrame(fl)
			if !ok {
				break
			}
			wait := now.Sub(it.at)
			if wait > q.limits.age {
				buffers.Put(it.buf)
				q.old.Add(1)
				continue
			}
			if fl.congested(wait, now) && it.mark() {
				fl.late = now // the next one not before another markWithin
			}
			fl.credit -= it.n
			dst = emit(dst, it)
			frames++
		}
		if fl.bytes == 0 {
			delete(q.flows, fl.key)
			q.spare = fl
		} else {
			q.turns.push(fl)
		}
	}
	return dst, frames, false
}

// room is how much is to be written at once now; nothing but control frames
// when it is 0.
func (q *queue) room(now time.Time) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := min(q.window.room(now), q.pace.size, max(q.window.limit/8, maxWire))
	q.window.full = q.window.full || room == 0 && q.frames > 0
	return room
}

// mark counts what is about to be written, and appends a Ping to it when one is due.
func (q *queue) mark(chunk []byte, now time.Time) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.window.wrote(chunk, len(chunk), now)
}

// lift lets everything out, for the last words.
func (q *queue) lift() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.window.lifted = time.Now().Add(farewell)
}

// answered takes a Pong and says whether it answers a Ping of the window.
func (q *queue) answered(echo []byte, now time.Time) bool {
	q.mu.Lock()
	ours := q.window.answered(echo, now)
	q.mu.Unlock()
	if ours {
		q.signal()
	}
	return ours
}

// popFrame takes the next frame of the flow.
func (q *queue) popFrame(fl *flow) (item, bool) {
	var it item
	switch {
	case fl.disco.len() > 0:
		it = fl.disco.pop()
	case fl.data.len() > 0:
		it = fl.data.pop()
	default:
		return item{}, false
	}
	fl.bytes -= it.n
	q.frames--
	q.bytes -= it.n
	return it, true
}

// dropOldest makes room: the flow that holds most loses its oldest frame,
// data before probes.
func (q *queue) dropOldest() {
	var most *flow
	for _, fl := range q.turns.items[q.turns.head:] {
		if most == nil || fl.bytes > most.bytes {
			most = fl
		}
	}
	from := &most.data
	if from.len() == 0 {
		from = &most.disco
	}
	it := from.pop()
	most.bytes -= it.n
	q.frames--
	q.bytes -= it.n
	buffers.Put(it.buf)
	q.full.Add(1)
}

func encode(f Frame, at time.Time) item {
	buf := buffers.Get().(*[maxWire]byte)
	out, err := AppendFrame(buf[:0], f)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return item{buf: buf, n: len(out), at: at}
}

func emit(dst []byte, it item) []byte {
	dst = append(dst, it.buf[:it.n]...)
	buffers.Put(it.buf)
	return dst
}

// chunks recycles the buffers that writes are gathered in, so that an idle
// link holds none.
var chunks = sync.Pool{New: func() any {
	b := make([]byte, 0, writeChunk+maxWire)
	return &b
}}

// drainTo writes the queue to the stream until stop is closed, a write fails or
// the last frame is out, and says whether it is. wrote, if set, hears of every
// write.
func (q *queue) drainTo(s Stream, stop <-chan struct{}, timeout time.Duration, wrote func(frames, bytes int)) (last bool, err error) {
	for {
		select {
		case <-q.wake:
		case <-stop:
			return false, nil
		}
		// One yield lets the frames of a burst arrive, so that they share a
		// write: worth a factor of two in throughput.
		runtime.Gosched()
		if last, err = q.drainBurst(s, timeout, wrote); last || err != nil {
			return last, err
		}
	}
}

func (q *queue) drainBurst(s Stream, timeout time.Duration, wrote func(frames, bytes int)) (last bool, err error) {
	chunk := chunks.Get().(*[]byte)
	defer chunks.Put(chunk)
	for {
		now := time.Now()
		var frames int
		*chunk, frames, last = q.take((*chunk)[:0], q.room(now), now)
		if *chunk = q.mark(*chunk, now); len(*chunk) == 0 {
			return last, nil
		}
		if last {
			timeout = finishTimeout
		}
		if timeout > 0 {
			if err := s.SetWriteDeadline(now.Add(timeout)); err != nil {
				return last, err
			}
		}
		if _, err := s.Write(*chunk); err != nil {
			return last, err
		}
		q.pace.wrote(len(*chunk), now, time.Now())
		if wrote != nil {
			wrote(frames, len(*chunk))
		}
		if last {
			return true, nil
		}
	}
}

// Little may wait behind the writes to a slow stream, where nothing can be
// dropped any more and no probe overtakes: libp2p's yamux holds 64 of them,
// which are to be gone in 25 ms.
const (
	paceFirst = 2 << 10
	paceWrite = 400 * time.Microsecond
	paceLook  = 20 * time.Millisecond
)

// pace adapts the size of writes to how fast the stream takes them: large ones
// are cheap, small ones wait less (PATH-26).
type pace struct {
	size  int
	begin time.Time     // of the present look
	bytes int           // written in it
	spent time.Duration // in these writes
}

// wrote notes a write that began and ended at the times given.
func (p *pace) wrote(n int, from, to time.Time) {
	p.bytes += n
	p.spent += to.Sub(from)
	if to.Sub(p.begin) < paceLook {
		return
	}
	fit := float64(p.bytes) / max(p.spent, 1).Seconds() * paceWrite.Seconds()
	p.size = max(1, int(min(fit, float64(2*p.size), writeChunk)))
	p.begin, p.bytes, p.spent = to, 0, 0
}
