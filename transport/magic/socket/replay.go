package socket

import (
	"sync"
	"time"
)

const (
	replayLen = 8                // packets kept for the first path that works
	replayFor = 30 * time.Second // QUIC sends ever more rarely while nothing comes back
	smallLen  = 128              // small ones kept besides
	smallSize = 128              // bytes of the largest of them
	smallFor  = time.Second
)

// ring keeps the last packets sent, for a path that did not exist, or was not
// known to be broken, when they were (PATH-18). Small ones it keeps for longer:
// they are many to a kilobyte, somebody waits for them, and when they were lost
// together with much else QUIC sends them after all that.
type ring struct {
	mu    sync.Mutex
	next  int
	kept  [replayLen]kept
	small *smalls // nil while little is sent
}

type kept struct {
	data [MaxPacket]byte
	n    int
	ecn  byte
	at   int64
}

// smalls are the small ones that are not among the last any more, the oldest at
// next.
type smalls struct {
	next int
	kept [smallLen]struct {
		data [smallSize]byte
		n    int
		ecn  byte
		at   int64
	}
}

func (r *ring) keep(b []byte, ecn byte, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := &r.kept[r.next]
	r.next = (r.next + 1) % replayLen
	if e.n > 0 && e.n <= smallSize && time.Duration(now-e.at) < smallFor {
		r.keepSmall(e)
	}
	e.n, e.ecn, e.at = copy(e.data[:], b), ecn, now
}

func (r *ring) keepSmall(k *kept) {
	if r.small == nil {
		r.small = new(smalls)
	}
	e := &r.small.kept[r.small.next]
	r.small.next = (r.small.next + 1) % smallLen
	e.n, e.ecn, e.at = copy(e.data[:], k.data[:k.n]), k.ecn, k.at
}

// eachSmall calls f for every small packet younger than smallFor that is not
// among the last ones, the oldest first.
func (r *ring) eachSmall(now int64, f func(b []byte, ecn byte)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.small == nil {
		return
	}
	for i := range smallLen {
		if e := &r.small.kept[(r.small.next+i)%smallLen]; e.n > 0 && time.Duration(now-e.at) < smallFor {
			f(e.data[:e.n], e.ecn)
		}
	}
}

// each calls f for every one of the last packets younger than replayFor, the
// oldest first.
func (r *ring) each(now int64, f func(b []byte, ecn byte)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range replayLen {
		if e := &r.kept[(r.next+i)%replayLen]; e.n > 0 && time.Duration(now-e.at) < replayFor {
			f(e.data[:e.n], e.ecn)
		}
	}
}

// forget drops the small ones, which are old once nothing was sent for smallFor.
func (r *ring) forget() {
	r.mu.Lock()
	r.small = nil
	r.mu.Unlock()
}
