package path_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

const rtt = 24 * time.Millisecond

// both makes a machine with a valid relay and a valid direct path, which is
// the best.
func both(t *testing.T) (*path.Machine, time.Time) {
	t.Helper()
	var m path.Machine
	m.Found(start, one, false)
	now := answer(&m, start, 2*rtt)
	m.Found(now, home, false)
	now = answer(&m, now, rtt)
	for range 20 { // the variation settles
		now = now.Add(3 * time.Second)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		now = answer(&m, now, rtt)
	}
	require.Equal(t, []path.ID{home}, m.Route())
	m.Events()
	return &m, now
}

// PATH-18: data and the ping sent after half the limit are both unanswered: at
// the limit, 102 ms here, data moves, and no miss of a ping is waited for.
func TestPATH18SuspectAtTheLimit(t *testing.T) {
	m, now := both(t)
	act := path.Activity{LastData: now, LastRecv: now.Add(-time.Millisecond), Unanswered: now, Held: true}
	var pinged, moved time.Duration
	for next := now; moved == 0; {
		due := m.Tick(next, act)
		if pinged == 0 && slices.Contains(m.Pings(), home) {
			pinged = next.Sub(now)
		}
		if m.State(home) == path.Suspect {
			moved = next.Sub(now)
		}
		require.True(t, due.After(next))
		require.Less(t, next.Sub(now), time.Second)
		next = due
	}
	require.InDelta(t, 51*time.Millisecond, pinged, float64(5*time.Millisecond))
	require.InDelta(t, 102*time.Millisecond, moved, float64(10*time.Millisecond))
	require.Contains(t, m.Route(), one)
}

// PATH-18: the peer sends over the relay, so ours may not arrive. What comes
// from it does not clear the doubt, an answered ping does.
func TestPATH18DoubtOfOneDirection(t *testing.T) {
	m, now := both(t)
	m.Doubt(now, one)
	require.Equal(t, []path.ID{home, one}, m.Route())
	require.Equal(t, []path.ID{home}, m.Pings())
	m.Pong(now.Add(rtt), home, now)
	require.Equal(t, []path.ID{home}, m.Route(), "unfounded")

	now = now.Add(rtt)
	m.Doubt(now, one)
	m.Pong(now.Add(rtt), home, now)
	m.Doubt(now.Add(rtt), one)
	require.Equal(t, []path.ID{home}, m.Route(), "not for ever at once")
	m.Pings()
	now = now.Add(300 * time.Millisecond)
	m.Doubt(now, one)
	require.Equal(t, []path.ID{home, one}, m.Route(), "though pinged lately")
	for i := range 20 {
		now = now.Add(50 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		m.Pings()
		if m.State(home) == path.Suspect {
			require.Less(t, i, 6)
			return
		}
	}
	t.Fatal("data is doubled for ever")
}

// PATH-18: the peer sends from another address that has answered: it moved.
func TestPATH18DoubtOfAnAddress(t *testing.T) {
	m, now := both(t)
	other := path.ID{Addr: netip.MustParseAddrPort("46.22.0.3:4242")}
	m.Doubt(now, other)
	require.Equal(t, []path.ID{home}, m.Route(), "that has not answered")
	m, now = both(t)
	m.Found(now, other, false)
	now = answer(m, now, rtt)
	m.Doubt(now, other)
	require.Equal(t, []path.ID{home, other, one}, m.Route(), "perhaps it only sends there")
}

// PATH-18: a peer that moved is heard over the relay and answers at another
// address. That is taken at once, though it is slower and the one before was
// chosen just now; not if that one answers too.
func TestPATH18DoubtEndsWhereThePeerAnswers(t *testing.T) {
	other := path.ID{Addr: netip.MustParseAddrPort("46.22.0.3:4242")}
	for _, moved := range []bool{true, false} {
		m, now := both(t)
		m.Doubt(now, one)
		m.Found(now, other, false)
		if !moved {
			m.Pong(now.Add(rtt), home, now)
		}
		m.Pong(now.Add(2*rtt), other, now)
		if moved {
			require.Equal(t, []path.ID{other}, m.Route())
		} else {
			require.Equal(t, []path.ID{home}, m.Route())
		}
	}
}

// PATH-18: of two relays the one that carries a transfer answers late. It is
// doubled over the other one, and not left for it.
func TestPATH18DoubtBetweenRelays(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	m.Found(start, two, false)
	now := answer(&m, start, rtt)
	for range 20 {
		now = now.Add(3 * time.Second)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		now = answer(&m, now, rtt)
	}
	require.Equal(t, []path.ID{one}, m.Route())
	m.Doubt(now, two)
	asked := now
	m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
	for range 15 {
		now = now.Add(10 * time.Millisecond)
		m.Pong(now, two, asked)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		require.Equal(t, []path.ID{one, two}, m.Route())
	}
	m.Pong(now, one, asked)
	require.Equal(t, []path.ID{one}, m.Route())
}

// PATH-18: the peer's relay link was down for a moment, and lost a ping. What
// comes over it now is doubled over it all the same until the direct path, where
// the peer is no more, is given up.
func TestPATH18DoubtOutlivesALostPing(t *testing.T) {
	m, now := both(t)
	m.Tick(now.Add(3*time.Second), path.Activity{LastData: now, LastRecv: now, Held: true})
	require.ElementsMatch(t, []path.ID{home, one}, m.Pings())
	now = now.Add(3*time.Second + 150*time.Millisecond) // neither is answered
	m.Doubt(now, one)
	require.ElementsMatch(t, []path.ID{home, one}, m.Pings())
	for end := now.Add(190 * time.Millisecond); now.Before(end); now = now.Add(10 * time.Millisecond) {
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		require.Contains(t, m.Route(), one)
	}
}

// PATH-16: news of an address that did not answer so far is a reason to knock
// at once: its NAT may let us in by now.
func TestPATH16NewsOfACandidate(t *testing.T) {
	var m path.Machine
	m.Found(start, home, false)
	now := start
	for now.Sub(start) < 2*time.Second {
		m.Pings()
		now = now.Add(10 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, Held: true})
	}
	require.Empty(t, m.Pings())
	m.Found(now, home, false)
	require.Equal(t, []path.ID{home}, m.Pings())
	m.Found(now.Add(time.Millisecond), home, false)
	require.Empty(t, m.Pings(), "not for every packet")
}

// PATH-18: while data waits and nothing works, addresses are pinged every
// 250 ms.
func TestPATH18WaitingKnocksOften(t *testing.T) {
	var m path.Machine
	m.Found(start, home, false)
	now, last := start, start
	for now.Sub(start) < 20*time.Second {
		now = now.Add(10 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, Unanswered: start, Held: true})
		if len(m.Pings()) > 0 {
			last = now
		}
		require.LessOrEqual(t, now.Sub(last), 410*time.Millisecond)
	}
}

// PATH-18: the same, when nothing but the machine's own times wakes it: QUIC is
// silent for ever longer meanwhile.
func TestPATH18WaitingWakesItself(t *testing.T) {
	m, now := both(t)
	begin, last := now, now
	for now.Sub(begin) < 20*time.Second {
		due := m.Tick(now, path.Activity{LastData: begin, LastRecv: begin, Unanswered: begin, Held: true})
		if len(m.Pings()) > 0 {
			last = now
		}
		require.False(t, due.IsZero(), "after %s", now.Sub(begin))
		require.True(t, due.After(now))
		require.LessOrEqual(t, due.Sub(last), 410*time.Millisecond)
		now = due
	}
}
