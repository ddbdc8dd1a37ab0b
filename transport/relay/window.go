package relay

import (
	"encoding/binary"
	"math"
	"time"
)

// A window keeps the line of a link from filling up: what waits in front of a
// line, in the kernel or in a router, can be neither overtaken nor marked, and
// once the line drops it all that follows waits for TCP to send it again, two
// round trips later.
const (
	windowFirst  = 256 << 10             // while nothing is known of the line
	windowDelay  = 15 * time.Millisecond // what our own bytes may wait for the line
	windowOwn    = 16 << 10              // bytes that may wait for the slowest of lines
	windowLeast  = 4 * maxWire
	windowMark   = 4 << 10          // bytes for which a mark is worth it
	windowMarks  = 16               // marks in a round trip
	windowTries  = 8                // round trips for the window to show effect
	windowRest   = 10 * time.Second // between tries that showed none, or doubt about them
	windowSilent = time.Second
	windowIdle   = time.Second // after which TCP, too, looks anew for what the line carries
)

// window bounds the bytes that are under way to the other end of a link, so
// that they wait little for the line and TCP, whatever its congestion control,
// fills no queue there (PATH-26). A Ping in the stream, the mark, is answered
// when all before it has arrived. From round trips longer than the shortest one
// follows how much waits. Where others make the line wait the window would only
// yield to them, so it is lifted for a while; so it is while nothing is answered.
// Not safe for concurrent use.
type window struct {
	limit   int           // bytes that may be under way
	sent    uint64        // bytes written to the link
	arrived uint64        // of them, known to be at the other end
	marked  uint64        // where the last mark stands
	last    time.Time     // when it was written
	marks   fifo[mark]    // unanswered, oldest first
	next    uint64        // number of the next mark
	base    time.Duration // shortest round trip; 0: none known
	lifted  time.Time     // until when there is no limit

	// The present round: it ends when a mark written in it is answered.
	written uint64        // sent at its begin
	low     time.Duration // shortest round trip in it
	flight  int           // what was under way then
	full    bool          // something had to wait for the window

	rate     float64   // bytes per second, of late the most
	high     int       // rounds in a row whose delay was too long
	emptying bool      // this round shows whether the line waits without us, too
	before   int       // the limit before it
	emptied  time.Time // when that was last tried
}

// mark is a Ping under way.
type mark struct {
	number uint64
	at     uint64 // bytes up to its end
	flight int    // of them, under way then
	sent   time.Time
}

// room is how many bytes may be written now.
func (w *window) room(now time.Time) int {
	if w.marks.len() > 0 && now.Sub(w.marks.items[w.marks.head].sent) > windowSilent {
		w.arrived, w.marks, w.lifted = w.sent, fifo[mark]{}, now.Add(windowRest)
	}
	if now.Before(w.lifted) {
		return math.MaxInt
	}
	return max(w.limit-int(w.sent-w.arrived), 0)
}

// wrote counts n bytes to be written now, and appends to them the mark that is due.
func (w *window) wrote(dst []byte, n int, now time.Time) []byte {
	w.sent += uint64(n)
	since := w.sent - w.marked
	soon := since < windowMark || now.Sub(w.last) < max(w.base/windowMarks, time.Millisecond)
	if since == 0 || soon && w.room(now) > 0 || w.marks.len() > 4*windowMarks {
		return dst
	}
	if w.marks.len() == 0 { // nothing was under way: no round
		w.turn()
		w.rate = 0
		if now.Sub(w.last) > windowIdle {
			w.limit = windowFirst
		}
	}
	w.next++
	dst, _ = AppendFrame(dst, Frame{Type: FramePing, Payload: binary.BigEndian.AppendUint64(nil, w.next)}) // it is short
	w.sent += uint64(lengthSize + headerSize + echoSize)
	w.marked, w.last = w.sent, now
	w.marks.push(mark{number: w.next, at: w.sent, flight: int(w.sent - w.arrived), sent: now})
	return dst
}

// answered takes a Pong, and says whether it answers a mark.
func (w *window) answered(echo []byte, now time.Time) bool {
	if len(echo) != echoSize || w.marks.len() == 0 {
		return false
	}
	number := binary.BigEndian.Uint64(echo)
	if first := w.marks.items[w.marks.head].number; number < first || number > w.next {
		return false
	}
	var m mark
	for m.number != number {
		m = w.marks.pop()
	}
	w.arrived = m.at
	trip := max(now.Sub(m.sent), 1)
	if w.base == 0 || trip < w.base {
		w.base = trip
	}
	if w.low == 0 || trip < w.low {
		w.low, w.flight = trip, m.flight
	}
	if m.at > w.written {
		w.adapt(now)
		w.turn()
	}
	return true
}

// turn begins a round.
func (w *window) turn() { w.written, w.low, w.full = w.sent, 0, false }

// adapt sets the limit by what the round that ends now has shown.
func (w *window) adapt(now time.Time) {
	rate := float64(w.flight) / w.low.Seconds() // bytes per second
	grows := rate > w.rate*5/4                  // TCP still looks for what the line carries
	w.rate = max(rate, w.rate*31/32)
	carries := rate * w.base.Seconds() // by the line, none of them waiting
	fit := int(carries + max(rate*windowDelay.Seconds(), windowOwn))
	wait := w.low - w.base
	switch {
	case w.emptying:
		w.emptying, w.emptied, w.limit, w.high = false, now, w.before, 0
		if wait > windowDelay { // it is not ours, or the way became longer
			w.base, w.lifted = w.low, now.Add(windowRest)
		}
	case wait <= windowDelay/2:
		w.high = 0
		more := min(w.flight, w.limit)
		if !grows {
			more = min(more/8, int(rate*windowDelay.Seconds()/2)) // two round trips pass before it shows
		}
		if w.full {
			w.limit += more
		}
	case grows:
		w.limit, w.high = max(w.limit, 2*fit), 0
	case wait <= 2*windowDelay:
		w.limit, w.high = max(fit, min(w.limit, w.flight)*7/8), 0 // a machine that was busy is no reason for more
	default:
		w.limit = max(fit, min(w.limit, w.flight)*3/4)
		if w.high++; w.high >= windowTries && now.Sub(w.emptied) > windowRest && !now.Before(w.lifted) {
			w.emptying, w.before, w.limit = true, w.limit, max(int(carries*3/4), windowLeast)
		}
	}
}
