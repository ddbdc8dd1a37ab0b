package path

import "time"

// Width finds out whether a direct path carries wide packets in our direction,
// or narrow ones only (PATH-9). The zero value is ready; it is not safe for
// concurrent use.
//
// On a path taken for wide every ping is a pair, a wide one and a narrow one
// behind it. A narrow one that is answered although the wide one before it is
// not says that wide packets no longer pass. That may be plain loss: the path
// is then asked again at once, and is narrow for a round trip only.
type Width struct {
	oldest, latest time.Time // wide pings without an answer: the first and the last
	next           time.Time // when a narrow path is asked again
	tries          int       // of a narrow path, since it last proved wide
}

const (
	firstWidthTry = time.Second // after one at once; then ever later
	lastWidthTry  = 60 * time.Second
)

// Due says that a narrow path should be sent a wide ping.
func (w *Width) Due(now time.Time) bool { return !now.Before(w.next) }

// Asked notes that a wide ping leaves, on a path taken for wide or for narrow.
func (w *Width) Asked(now time.Time, wide bool) {
	if w.oldest.IsZero() {
		w.oldest = now
	}
	w.latest = now
	if !wide {
		w.next = now.Add(min(firstWidthTry<<min(w.tries, 8), lastWidthTry))
		w.tries++
	}
}

// Carried notes the answer to the wide ping that left at sent: the path is wide.
func (w *Width) Carried(sent time.Time) {
	w.tries = 0
	switch {
	case !sent.Before(w.latest):
		w.oldest = time.Time{}
	case !sent.Before(w.oldest):
		w.oldest = w.latest // those between do not matter any more
	}
}

// Failed notes the answer to a narrow ping that left at sent over a path taken
// for wide, and says whether it shows the path to be narrow.
func (w *Width) Failed(sent time.Time) bool {
	if w.oldest.IsZero() || w.oldest.After(sent) {
		return false
	}
	*w = Width{}
	return true
}
