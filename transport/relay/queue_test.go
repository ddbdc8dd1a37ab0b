package relay

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// queues are tested from inside: what leaves first is no business of users.
func newTestQueue(limits queueLimits) *queue {
	return newQueue(limits, new(atomic.Uint64), new(atomic.Uint64))
}

func (q *queue) takeAll(t *testing.T, now time.Time) (out []Frame) {
	t.Helper()
	for {
		raw, frames, last := q.take(nil, writeChunk, now)
		n := 0
		for len(raw) > 0 {
			f, size, err := ParseFrame(raw)
			require.NoError(t, err)
			out = append(out, f)
			raw = raw[size:]
			n++
		}
		require.Equal(t, frames, n)
		if n == 0 || last {
			require.True(t, last || q.frames == 0 && q.bytes == 0 && len(q.flows) == 0)
			return out
		}
	}
}

func payloads(frames []Frame) (out []string) {
	for _, f := range frames {
		out = append(out, string(f.Payload))
	}
	return out
}

var wide = queueLimits{frames: 512, bytes: 768 << 10, age: 100 * time.Millisecond}

func data(s string) Frame { return Frame{Type: FrameData, Payload: []byte(s)} }

func TestPATH26ControlFirst(t *testing.T) {
	q, now := newTestQueue(wide), time.Now()
	q.put(Key{1}, data("one"), now)
	q.put(Key{1}, data("two"), now)
	q.put(Key{1}, Frame{Type: FrameDisco, Payload: []byte("probe")}, now)
	q.putControl(Frame{Type: FramePong, Payload: []byte("12345678")})
	require.Equal(t, []string{"12345678", "probe", "one", "two"}, payloads(q.takeAll(t, now)))
}

func TestPATH26OldestDropped(t *testing.T) {
	q, now := newTestQueue(queueLimits{frames: 3, bytes: 1 << 20, age: time.Second}), time.Now()
	for _, s := range []string{"1", "2", "3", "4", "5"} {
		q.put(Key{1}, data(s), now)
	}
	require.Equal(t, []string{"3", "4", "5"}, payloads(q.takeAll(t, now)))
	require.EqualValues(t, 2, q.full.Load())

	// Data goes before probes do.
	q.put(Key{1}, Frame{Type: FrameDisco, Payload: []byte("probe")}, now)
	for _, s := range []string{"1", "2", "3"} {
		q.put(Key{1}, data(s), now)
	}
	require.Equal(t, []string{"probe", "2", "3"}, payloads(q.takeAll(t, now)))
	for range 5 {
		q.put(Key{1}, Frame{Type: FrameDisco}, now)
	}
	require.Len(t, q.takeAll(t, now), 3)

	q = newTestQueue(queueLimits{frames: 512, bytes: 100, age: time.Second})
	for _, s := range []string{"1", "2", "3", "4", "5"} {
		q.put(Key{1}, data(s), now) // 37 bytes each
	}
	require.Equal(t, []string{"4", "5"}, payloads(q.takeAll(t, now)))
}

func TestPATH26Age(t *testing.T) {
	q, now := newTestQueue(wide), time.Now()
	q.put(Key{1}, data("old"), now)
	q.put(Key{2}, data("old too"), now)
	q.put(Key{1}, data("new"), now.Add(time.Millisecond))
	require.Equal(t, []string{"new"}, payloads(q.takeAll(t, now.Add(101*time.Millisecond))))
	require.EqualValues(t, 2, q.old.Load())
}

// PATH-27: a pair that floods takes room and time from itself only.
func TestPATH27FairnessOfPairs(t *testing.T) {
	q, now := newTestQueue(wide), time.Now()
	for range 2000 {
		q.put(Key{1}, Frame{Type: FrameData, Key: Key{1}, Payload: make([]byte, 1500)}, now)
	}
	for range 5 {
		q.put(Key{2}, Frame{Type: FrameData, Key: Key{2}, Payload: make([]byte, 1500)}, now)
	}
	for range 100 {
		q.put(Key{3}, Frame{Type: FrameData, Key: Key{3}, Payload: make([]byte, 100)}, now)
	}
	got := map[Key]int{}
	var order []Key
	for _, f := range q.takeAll(t, now) {
		got[f.Key]++
		order = append(order, f.Key)
	}
	require.Equal(t, 5, got[Key{2}], "the quiet pair lost nothing")
	require.Equal(t, 100, got[Key{3}], "nor did the one of small frames")
	sent := map[Key]int{}
	for _, k := range order[:len(order)/2] {
		sent[k]++
		if sent[Key{2}] < 5 {
			require.LessOrEqual(t, sent[Key{1}], sent[Key{2}]+2, "turns by bytes")
		}
	}
	require.Equal(t, 5, sent[Key{2}])
	require.Equal(t, 100, sent[Key{3}])
}

func TestControlIsBounded(t *testing.T) {
	q := newTestQueue(wide)
	for range 1000 {
		q.putControl(Frame{Type: FramePong, Payload: make([]byte, 8)})
	}
	require.Len(t, q.takeAll(t, time.Now()), maxControl)
}

func TestNothingFollowsGoAway(t *testing.T) {
	q, now := newTestQueue(wide), time.Now()
	q.put(Key{1}, data("left behind"), now)
	q.finish(GoAwayDuplicate)
	q.finish(GoAwayDraining)
	q.putControl(Frame{Type: FramePong})
	q.put(Key{1}, data("too late"), now)
	got := q.takeAll(t, now)
	require.Len(t, got, 1)
	require.Equal(t, []byte{byte(GoAwayDuplicate)}, got[0].Payload)
}

func TestFIFO(t *testing.T) {
	var f fifo[int]
	next, want := 0, 0
	for range 200 {
		for range 7 {
			f.push(next)
			next++
		}
		for range 5 {
			require.Equal(t, want, f.pop())
			want++
		}
	}
	for f.len() > 0 {
		require.Equal(t, want, f.pop())
		want++
	}
	require.Equal(t, want, next)
	require.Less(t, cap(f.items), 2*1024)
}

// PATH-26: writes to a stream that is slow are small, 64 of them waiting behind it; those to one that takes whatever comes are large.
func TestPATH26WritesAreAsLargeAsTheStreamIsFast(t *testing.T) {
	p, now := pace{size: paceFirst}, time.Now()
	p.begin = now
	write := func(bytesPerSecond int, d time.Duration) {
		for end := now.Add(d); now.Before(end); {
			n := max(p.size, 1300) // a frame at least
			to := now.Add(time.Duration(n) * time.Second / time.Duration(bytesPerSecond))
			p.wrote(n, now, to)
			now = to
		}
	}
	write(1<<30, time.Second)
	require.Equal(t, writeChunk, p.size)
	write(5_000_000, time.Second)
	require.InDelta(t, 2000, p.size, 10)
	write(10_000, 10*time.Second)
	require.Less(t, p.size, 1300, "a frame each time")
	write(1<<30, time.Second)
	require.Equal(t, writeChunk, p.size, "and large again")
}

// PATH-26: where the packets of a flow wait for longer than a burst, one is
// marked before they are dropped, if their sender understands that (RFC 3168),
// and the next one when he has had time to hear of it.
func TestPATH26WaitingIsMarked(t *testing.T) {
	q, now := newTestQueue(wide), time.Now()
	marks := func(wait time.Duration) (marks []byte) {
		for ecn := range byte(4) {
			q.put(Key{1}, Frame{Type: FrameData, Flags: ecn}, now.Add(-wait))
		}
		q.put(Key{1}, Frame{Type: FrameData}, now) // it stays: a flow that runs dry is a new one
		for range 4 {
			raw, _, _ := q.take(nil, 1, now)
			f, _, err := ParseFrame(raw)
			require.NoError(t, err)
			marks = append(marks, f.Flags)
		}
		return marks
	}
	rest := func() {
		q.flows[Key{1}].data.pop()
		q.frames--
		q.bytes -= lengthSize + headerSize
		q.flows[Key{1}].bytes -= lengthSize + headerSize
	}
	const long, short = markAfter + time.Millisecond, markAfter
	asSent, marked := []byte{0, 1, 2, 3}, []byte{0, 3, 2, 3}
	for _, step := range []struct {
		after, wait time.Duration
		want        []byte
	}{
		{0, long, asSent}, // a burst
		{markWithin - time.Millisecond, long, asSent},
		{time.Millisecond, long, marked},
		{markWithin - time.Millisecond, long, asSent}, // he was told
		{time.Millisecond, long, marked},
		{time.Second, short, asSent}, // over
		{0, long, asSent},
	} {
		now = now.Add(step.after)
		require.Equal(t, step.want, marks(step.wait), step)
		rest()
	}
}
