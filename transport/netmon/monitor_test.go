package netmon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// network is a source in which a test makes things happen.
type network struct {
	mu     sync.Mutex
	state  State
	err    error
	reads  int
	closed bool

	events chan int
	done   chan struct{}
}

func (n *network) read() (State, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reads++
	return n.state.clone(), n.err
}

func (n *network) watch(changed func(down int) bool) {
	for {
		select {
		case down := <-n.events:
			if !changed(down) {
				return
			}
		case <-n.done:
			return
		}
	}
}

func (n *network) stop() { close(n.done) }

func (n *network) close() { n.closed = true }

// happen makes the network another and reports it so many times.
func (n *network) happen(reports int, interfaces ...Interface) {
	n.mu.Lock()
	n.state = State{interfaces}
	n.mu.Unlock()
	for range reports {
		n.events <- 0
	}
}

var eth0 = iface(2, "eth0", "192.168.1.5/24", "4")

// start returns a running Monitor on a network with eth0.
func start(t *testing.T) (*Monitor, *network) {
	t.Helper()
	n := &network{state: State{[]Interface{eth0}}, events: make(chan int), done: make(chan struct{})}
	m := New(Config{})
	m.open = func(*slog.Logger) (source, error) { return n, nil }
	require.NoError(t, m.Start(t.Context()))
	return m, n
}

// pending returns the change that is to be had now, if any.
func pending(m *Monitor) (Change, bool) {
	synctest.Wait()
	select {
	case c := <-m.Changes():
		return c, true
	default:
		return Change{}, false
	}
}

func TestPATH21Settles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := start(t)
		defer m.Close()
		require.Equal(t, State{[]Interface{eth0}}, m.State())

		other := iface(2, "eth0", "192.168.1.6/24", "4")
		n.happen(20, other)
		time.Sleep(settleTime - time.Millisecond)
		_, ok := pending(m)
		require.False(t, ok, "more may follow")
		time.Sleep(2 * time.Millisecond)
		c, ok := pending(m)
		require.True(t, ok)
		require.Equal(t, Change{"192.168.1.5/24 on eth0 is gone, 192.168.1.6/24 on eth0 is new", true}, c)
		require.Equal(t, State{[]Interface{other}}, m.State())
		require.Equal(t, 2, n.reads, "many reports, one look")

		// Steady reports do not put it off.
		n.happen(1, eth0)
		begin := time.Now()
		for range 100 {
			time.Sleep(10 * time.Millisecond)
			n.events <- 0
			if c, ok = pending(m); ok {
				break
			}
		}
		require.True(t, ok)
		require.True(t, c.Major)
		require.LessOrEqual(t, time.Since(begin), settleTime+10*time.Millisecond)
	})
}

func TestReportsOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := start(t)
		defer m.Close()
		for range 50 {
			n.happen(3, eth0)
			time.Sleep(time.Second)
			_, ok := pending(m)
			require.False(t, ok)
		}
	})
}

// Nobody reads: nothing waits, and what happened becomes one change.
func TestPATH21Coalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := start(t)
		defer m.Close()
		for range 100 {
			n.happen(1)
			time.Sleep(time.Second)
			n.happen(1, eth0)
			time.Sleep(time.Second)
		}
		c, ok := pending(m)
		require.True(t, ok)
		require.True(t, c.Major)
		require.Contains(t, c.Reason, "no way out for IPv4, 192.168.1.5/24 on eth0 is gone, IPv4 leaves by eth0, and ")
		_, ok = pending(m)
		require.False(t, ok)
	})
}

func TestPATH21ShortLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := start(t)
		defer m.Close()
		n.events <- eth0.Index
		n.events <- 0
		time.Sleep(2 * settleTime)
		c, ok := pending(m)
		require.True(t, ok)
		require.Equal(t, Change{"eth0 was down for a moment", true}, c)
		n.events <- 0
		time.Sleep(2 * settleTime)
		_, ok = pending(m)
		require.False(t, ok, "once is enough")
	})
}

func TestPATH21Woke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{state: State{[]Interface{eth0}}, events: make(chan int), done: make(chan struct{})}
		m := New(Config{})
		m.open = func(*slog.Logger) (source, error) { return n, nil }
		var mu sync.Mutex
		asleep := time.Duration(0)
		awake := m.now
		m.now = func() reading {
			mu.Lock()
			defer mu.Unlock()
			r := awake()
			r.wall += asleep
			return r
		}
		require.NoError(t, m.Start(t.Context()))
		defer m.Close()

		time.Sleep(time.Hour)
		_, ok := pending(m)
		require.False(t, ok)

		mu.Lock()
		asleep = 8 * time.Hour
		mu.Unlock()
		time.Sleep(sleepCheck)
		c, ok := pending(m)
		require.True(t, ok)
		require.Equal(t, Change{"woke from sleep", true}, c)
		time.Sleep(time.Hour)
		_, ok = pending(m)
		require.False(t, ok, "once")
		require.Equal(t, 2, n.reads, "a look around after sleep")
	})
}

func TestUnreadableStateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := start(t)
		defer m.Close()
		n.mu.Lock()
		n.err = errors.New("dump interrupted")
		n.mu.Unlock()
		n.happen(1)
		time.Sleep(10 * retryTime)
		_, ok := pending(m)
		require.False(t, ok)
		require.Equal(t, State{[]Interface{eth0}}, m.State(), "the last that is known")
		require.Equal(t, 1+10, n.reads)
		n.mu.Lock()
		n.err = nil
		n.mu.Unlock()
		time.Sleep(retryTime)
		c, ok := pending(m)
		require.True(t, ok)
		require.True(t, c.Major)
		require.Empty(t, m.State().Interfaces)
	})
}

func TestLifecycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := start(t)
		require.Error(t, m.Start(t.Context()), "a second time")
		n.happen(1) // news that nobody takes
		time.Sleep(time.Second)
		require.NoError(t, m.Close())
		require.NoError(t, m.Close())
		require.True(t, n.closed)
		_, ok := <-m.Changes()
		require.False(t, ok)
		require.ErrorIs(t, m.Start(t.Context()), ErrClosed)

		m = New(Config{})
		require.Empty(t, m.State().Interfaces)
		require.NoError(t, m.Close())
		_, ok = <-m.Changes()
		require.False(t, ok)
		require.ErrorIs(t, m.Start(t.Context()), ErrClosed)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		m = New(Config{})
		require.ErrorIs(t, m.Start(ctx), context.Canceled)
		m.open = func(*slog.Logger) (source, error) { return nil, errors.New("no") }
		require.EqualError(t, m.Start(t.Context()), "no")
		broken := &network{err: errors.New("unreadable")}
		m.open = func(*slog.Logger) (source, error) { return broken, nil }
		require.EqualError(t, m.Start(t.Context()), "unreadable")
		require.True(t, broken.closed)
		require.NoError(t, m.Close())

		// The context of Start bounds starting only.
		ctx, cancel = context.WithCancel(t.Context())
		m = New(Config{})
		n = &network{events: make(chan int), done: make(chan struct{})}
		m.open = func(*slog.Logger) (source, error) { return n, nil }
		require.NoError(t, m.Start(ctx))
		cancel()
		n.happen(1, eth0)
		time.Sleep(2 * settleTime)
		_, ok = pending(m)
		require.True(t, ok)
		require.NoError(t, m.Close())
	})
}

// What this machine has, read for real.
func TestRealMonitor(t *testing.T) {
	m := New(Config{})
	require.NoError(t, m.Start(t.Context()))
	s := m.State()
	require.NotEmpty(t, s.Interfaces)
	for i, ifi := range s.Interfaces {
		require.NotEmpty(t, ifi.Name)
		require.Positive(t, ifi.Index)
		if i > 0 {
			require.Greater(t, ifi.Index, s.Interfaces[i-1].Index)
		}
	}
	require.NoError(t, m.Close())
}

func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPoll()
		begin := time.Now()
		looks := 0
		p.watch(func(down int) bool {
			require.Zero(t, down)
			looks++
			return looks < 10
		})
		require.Equal(t, 10*pollEvery, time.Since(begin))
		p.stop()
		p.stop()
		p.watch(func(int) bool { t.Error("called after stop"); return false })
		p.close()
	})
}
