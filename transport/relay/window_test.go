package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// line is a model of what a link runs on: a rate, a way there and back, and a
// queue without end that others may keep filled.
type line struct {
	rate   float64 // bytes per second
	way    time.Duration
	others time.Duration // what waits in it all the time
	idle   time.Time     // when it has sent all it was given
	longest,
	shortest time.Duration // that something waited for it, of late
	bytes int
	deaf  bool // nothing is answered
	pongs []pong
}

type pong struct {
	at   time.Time
	echo []byte
}

// run lets a sender that always has more fill the window for d.
func (l *line) run(t *testing.T, w *window, now time.Time, d time.Duration) time.Time {
	t.Helper()
	l.longest, l.shortest, l.bytes = 0, time.Hour, 0
	for end := now.Add(d); now.Before(end); now = now.Add(time.Millisecond) {
		for len(l.pongs) > 0 && !l.pongs[0].at.After(now) {
			if !l.deaf {
				require.True(t, w.answered(l.pongs[0].echo, now))
			}
			l.pongs = l.pongs[1:]
		}
		for range 8 {
			n := min(w.room(now), 1500)
			w.full = w.full || n == 0
			chunk := w.wrote(make([]byte, n), n, now)
			if len(chunk) == 0 {
				break
			}
			if l.idle.Before(now) {
				l.idle = now
			}
			l.idle = l.idle.Add(time.Duration(float64(len(chunk)) / l.rate * 1e9))
			l.bytes += n
			wait := l.idle.Sub(now)
			l.longest, l.shortest = max(l.longest, wait), min(l.shortest, wait)
			if len(chunk) > n {
				f, _, err := ParseFrame(chunk[n:])
				require.NoError(t, err)
				require.Equal(t, FramePing, f.Type)
				l.pongs = append(l.pongs, pong{l.idle.Add(l.way + l.others), f.Payload})
			}
		}
	}
	return now
}

// PATH-26: on lines of 4 to 64 Mbit/s, near and far, little of what is sent waits
// for the line, and it does not run dry.
func TestPATH26WindowFillsTheLineAndNoMore(t *testing.T) {
	for _, rate := range []float64{500_000, 2_500_000, 8_000_000} {
		for _, way := range []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond} {
			l, w := &line{rate: rate, way: way}, &window{limit: windowFirst}
			now := l.run(t, w, time.Now(), 20*time.Second)
			l.run(t, w, now, 5*time.Second)
			t.Logf("%.0f kB/s, %s: %.2f of the line, waiting %s at most", rate/1000, way, float64(l.bytes)/5/rate, l.longest)
			require.Greater(t, float64(l.bytes)/5, 0.95*rate)
			require.Less(t, l.longest, 65*time.Millisecond)
			require.False(t, now.Before(w.lifted))
		}
	}
}

// PATH-26: the window follows a line whose speed changes.
func TestPATH26WindowFollowsTheLine(t *testing.T) {
	l, w := &line{rate: 2_500_000, way: 50 * time.Millisecond}, &window{limit: windowFirst}
	now := l.run(t, w, time.Now(), 10*time.Second)
	l.rate = 600_000
	now = l.run(t, w, now, 10*time.Second)
	now = l.run(t, w, now, 2*time.Second)
	require.Less(t, l.longest, 60*time.Millisecond)
	l.rate = 5_000_000
	now = l.run(t, w, now, 5*time.Second)
	l.run(t, w, now, 2*time.Second)
	require.Greater(t, float64(l.bytes)/2, 0.95*l.rate)
}

// PATH-26: where others fill the line the window does not yield to them, nor
// when nothing is answered.
func TestPATH26WindowIsLifted(t *testing.T) {
	l, w := &line{rate: 2_500_000, way: 50 * time.Millisecond}, &window{limit: windowFirst}
	now := l.run(t, w, time.Now(), 5*time.Second)
	l.others = 100 * time.Millisecond
	for range 50 {
		if now = l.run(t, w, now, 100*time.Millisecond); now.Before(w.lifted) {
			break
		}
	}
	require.True(t, now.Before(w.lifted), "others fill the line")

	l, w = &line{rate: 2_500_000, way: 50 * time.Millisecond}, &window{limit: windowFirst}
	now = l.run(t, w, time.Now(), 5*time.Second)
	l.deaf = true
	now = l.run(t, w, now, windowSilent+300*time.Millisecond)
	require.True(t, now.Before(w.lifted), "nothing is answered")
	require.LessOrEqual(t, w.marks.len(), 4*windowMarks+1)
}

// PATH-26: Pongs to other Pings are none of the window's, and one to a later
// mark answers those before it.
func TestPATH26MarksAreAnswered(t *testing.T) {
	w, now := &window{limit: windowFirst}, time.Now()
	require.False(t, w.answered(make([]byte, echoSize), now))
	var marks [][]byte
	for range 3 {
		now = now.Add(10 * time.Millisecond)
		chunk := w.wrote(make([]byte, windowMark), windowMark, now)
		require.Greater(t, len(chunk), windowMark)
		marks = append(marks, chunk[len(chunk)-echoSize:])
	}
	require.False(t, w.answered([]byte("otherwise"), now))
	require.False(t, w.answered([]byte("elseping"), now))
	require.True(t, w.answered(marks[1], now))
	require.False(t, w.answered(marks[0], now))
	require.True(t, w.answered(marks[2], now))
	require.Equal(t, w.sent, w.arrived)
}
