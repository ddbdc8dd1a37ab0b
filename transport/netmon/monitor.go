// Package netmon tells when the network this machine is on changes: addresses,
// links, the way to the internet, and sleep, after which none of them may be
// what it was (PATH-21).
//
// On Linux the kernel reports changes. Elsewhere, and where Linux does not let
// us listen, the interfaces are compared every few seconds.
package netmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Timing of a Monitor.
const (
	// settleTime is how long reports are gathered: one event of the network
	// makes several of the kernel's.
	settleTime = 50 * time.Millisecond
	retryTime  = time.Second // after the state could not be read
	sleepCheck = time.Second
)

// maxReasons is how many reasons a Change names.
const maxReasons = 3

// ErrClosed is returned by Start after Close.
var ErrClosed = errors.New("network monitor is closed")

// Change says that the network changed since the last one.
type Change struct {
	// Reason says what happened, for logs and people.
	Reason string
	// Major says that what worked may not work any more: an address or link
	// went, packets to the internet leave another way, or the machine slept.
	// Sockets, mappings and links to relays are to be tried anew. Otherwise
	// there may be something more to use.
	Major bool
}

// Config configures a Monitor.
type Config struct {
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Monitor watches the network. All methods may be called concurrently.
type Monitor struct {
	log     *slog.Logger
	open    func(*slog.Logger) (source, error)
	now     func() reading
	changes chan Change
	state   atomic.Pointer[State]

	mu      sync.Mutex
	started bool
	closed  bool
	source  source
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// source is where a Monitor learns of the network.
type source interface {
	// read returns the network as it is. It is not called concurrently.
	read() (State, error)
	// watch calls changed whenever the network may be another than before,
	// with the index of an interface that lost its link, or 0. It returns
	// after stop, and once changed returns false.
	watch(changed func(down int) bool)
	// stop ends watch; it may be called when watch never was.
	stop()
	// close frees what the source holds, after the last call of the others.
	close()
}

// New returns a Monitor that watches nothing yet.
func New(c Config) *Monitor {
	m := &Monitor{log: c.Logger, open: openSource, now: clocks(), changes: make(chan Change)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.state.Store(&State{})
	return m
}

// Start reads the state and begins to watch; ctx bounds only that. On Linux it
// watches the network namespace of the calling thread, from then on. A Monitor
// starts once.
func (m *Monitor) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return ErrClosed
	case m.started:
		return errors.New("network monitor: started already")
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	src, err := m.open(m.log)
	if err != nil {
		return err
	}
	state, err := src.read()
	if err != nil {
		src.close()
		return err
	}

	m.started, m.source = true, src
	m.state.Store(&state)
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	events := make(chan int)
	m.wg.Go(func() {
		src.watch(func(down int) bool {
			select {
			case events <- down:
				return true
			case <-run.Done():
				return false
			}
		})
	})
	m.wg.Go(func() {
		defer close(m.changes)
		m.run(run, events)
	})
	return nil
}

// Close ends watching, closes the channel of changes and returns after the
// last goroutine. It may be called twice.
func (m *Monitor) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if !m.started {
		close(m.changes)
		return nil
	}
	m.cancel()
	m.source.stop()
	m.wg.Wait()
	m.source.close()
	return nil
}

// Changes returns the channel of changes, which Close closes. Nothing waits
// for its reader: what happens meanwhile becomes one Change.
func (m *Monitor) Changes() <-chan Change { return m.changes }

// State returns the network as it was found last; before Start it is empty.
func (m *Monitor) State() State { return m.state.Load().clone() }

// run turns events into changes until ctx ends.
func (m *Monitor) run(ctx context.Context, events <-chan int) {
	check := time.NewTicker(sleepCheck)
	defer check.Stop()
	settle := time.NewTimer(settleTime)
	settle.Stop()
	defer settle.Stop()

	settling := false
	flapped := make(map[int]bool)
	last := m.now()
	var news digest
	for {
		var out chan<- Change // only with news
		var change Change
		if news.count > 0 {
			out, change = m.changes, news.change()
		}
		select {
		case <-ctx.Done():
			return
		case down := <-events:
			if down != 0 {
				flapped[down] = true
			}
			if !settling {
				settling = true
				settle.Reset(settleTime)
			}
		case <-settle.C:
			settling = m.refresh(&news, flapped)
			if settling {
				settle.Reset(retryTime)
			}
			clear(flapped)
		case <-check.C:
			now := m.now()
			if slept(last, now) {
				news.add("woke from sleep", true)
				settling = true
				settle.Reset(settleTime)
			}
			last = now
		case out <- change:
			news = digest{}
		}
	}
}

// refresh reads the state anew and adds what is different to the news. It
// reports whether it must be called again.
func (m *Monitor) refresh(n *digest, flapped map[int]bool) (again bool) {
	state, err := m.source.read()
	if err != nil {
		m.log.Debug("network state not read", "err", err)
		return true
	}
	compare(*m.state.Load(), state, flapped, func(reason string, major bool) {
		m.log.Debug("network changed", "reason", reason, "major", major)
		n.add(reason, major)
	})
	m.state.Store(&state)
	return false
}

// digest is what happened since the last Change was taken.
type digest struct {
	major, minor []string // the first maxReasons of each
	count        int
}

func (n *digest) add(reason string, major bool) {
	n.count++
	list := &n.minor
	if major {
		list = &n.major
	}
	if len(*list) < maxReasons {
		*list = append(*list, reason)
	}
}

func (n *digest) change() Change {
	reasons := slices.Concat(n.major, n.minor)
	reasons = reasons[:min(len(reasons), maxReasons)]
	text := strings.Join(reasons, ", ")
	if n.count > len(reasons) {
		text += fmt.Sprintf(", and %d more", n.count-len(reasons))
	}
	return Change{Reason: text, Major: len(n.major) > 0}
}
