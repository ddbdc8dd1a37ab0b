package natlab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	defaultQueue = 100 * time.Millisecond
	maxDelay     = time.Minute
	minMTU       = 1280 // of IPv6: with less it is off
	maxMTU       = 1500
	etherHeader  = 14
)

// Link is the quality of a cable, the same in both directions; each value is
// for one direction. A path between two sites crosses two cables, so a round
// trip takes four times Delay. Packets never overtake each other. [Lab.Deaf]
// and [Lab.Mute] break one direction alone.
type Link struct {
	// Delay is how long a packet travels, at most a minute.
	Delay time.Duration
	// Jitter adds a random time below it to the delay of each packet.
	Jitter time.Duration
	// Loss is the share of packets that vanish, 0 to 1.
	Loss float64
	// Rate is the line's speed in bits per second. Default: no limit.
	Rate int64
	// Queue is how long a packet waits for a line with a Rate before it is
	// dropped. Default 100 ms.
	Queue time.Duration
	// MTU is the largest IP packet the line takes, 1280 to 1500. The devices at
	// both ends know it, as routers do: what is larger they cut into fragments
	// or, when that is forbidden, refuse by ICMP. Default 1500.
	MTU int
	// BlackHole lets packets over MTU vanish without a word instead.
	BlackHole bool
}

func (l Link) check() error {
	switch {
	case l.Delay < 0 || l.Delay > maxDelay, l.Jitter < 0 || l.Jitter > maxDelay, l.Queue < 0 || l.Queue > maxDelay:
		return fmt.Errorf("delay %v, jitter %v, queue %v: want 0 to %v", l.Delay, l.Jitter, l.Queue, maxDelay)
	case !(l.Loss >= 0 && l.Loss <= 1):
		return fmt.Errorf("loss %v: want 0 to 1", l.Loss)
	case l.Rate < 0:
		return fmt.Errorf("rate %d: want bits per second", l.Rate)
	case l.MTU != 0 && (l.MTU < minMTU || l.MTU > maxMTU):
		return fmt.Errorf("MTU %d: want %d to %d", l.MTU, minMTU, maxMTU)
	case l.BlackHole && l.MTU == 0:
		return errors.New("a black hole without an MTU")
	default:
		return nil
	}
}

// shaped reports whether each packet counts, so that the kernel must not hand
// over many in one.
func (l Link) shaped() bool { return l.Loss > 0 || l.Rate > 0 || l.BlackHole }

// deviceMTU is the MTU of the devices at both ends.
func (l Link) deviceMTU() int {
	if l.MTU == 0 || l.BlackHole {
		return maxMTU
	}

	return l.MTU
}

// lane is the memory of one direction of a cable.
type lane struct {
	idle time.Time // when the line has sent all it was given
	last time.Time // when the latest packet arrives
}

// admit decides about a packet that enters at now in a frame of size bytes:
// when it arrives, or that it is lost.
func (a *lane) admit(l Link, now time.Time, size int) (due time.Time, ok bool) {
	if l.BlackHole && size-etherHeader > l.MTU {
		return time.Time{}, false
	}
	if l.Loss > 0 && rand.Float64() < l.Loss {
		return time.Time{}, false
	}

	due = now
	if l.Rate > 0 {
		queue := l.Queue
		if queue == 0 {
			queue = defaultQueue
		}
		if a.idle.Before(now) {
			a.idle = now
		}
		if a.idle.Sub(now) > queue {
			return time.Time{}, false
		}
		a.idle = a.idle.Add(time.Duration(int64(size) * 8 * int64(time.Second) / l.Rate))
		due = a.idle
	}

	due = due.Add(l.Delay)
	if l.Jitter > 0 {
		due = due.Add(rand.N(l.Jitter))
	}
	if due.Before(a.last) {
		due = a.last
	}
	a.last = due

	return due, true
}
