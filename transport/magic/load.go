package magic

import (
	"sync"
	"time"
)

// Urgencies of streams (RFC 9218), the lower the sooner.
const (
	sparse int8 = 2
	busy   int8 = 3 // QUIC's default
)

// A stream with more than this to say at once, or per second, is busy until it
// has been quiet for most of a second.
const (
	sparseBytes = 64 << 10
	sparseAgain = sparseBytes / 4
)

// load tells from what a stream sends whether somebody waits for each of its
// bytes or for all of them: a call beside a transfer, the sparse flows of
// RFC 8290. Without it a fail-over mends all of the transfer's losses before the
// call's one. The zero value is a stream that has sent nothing; it is safe for
// concurrent use.
type load struct {
	mu    sync.Mutex
	level float64 // bytes, drained at sparseBytes per second
	at    time.Time
	now   int8
}

// add counts n bytes. It returns the stream's urgency and whether it is another
// one than before.
func (l *load) add(n int, now time.Time) (urgency int8, changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = max(0, l.level-now.Sub(l.at).Seconds()*sparseBytes)
	l.at = now
	l.level = min(l.level+float64(n), 2*sparseBytes)
	before := l.now
	switch {
	case l.level > sparseBytes:
		l.now = busy
	case l.now == 0, l.level < sparseAgain:
		l.now = sparse
	}
	return l.now, l.now != before
}
