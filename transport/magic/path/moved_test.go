package path_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

var moved = path.ID{Addr: netip.MustParseAddrPort("46.22.0.3:4242")}

// all is both with a connection to the same address beside.
func all(t *testing.T) (*path.Machine, time.Time) {
	t.Helper()
	m, now := both(t)
	m.Found(now, connection, true)
	now = answer(m, now, rtt)
	require.Equal(t, []path.ID{home}, m.Route())
	return m, now
}

// PATH-18: half the limit without an answer asks all that data may go over next:
// what ends one straight path may end the other, and the link to the relay, which
// is found out only by sending over it.
func TestPATH18SilenceAsksTheRelayToo(t *testing.T) {
	for _, lately := range []bool{true, false} { // pinged already, for another reason
		m, now := all(t)
		waiting := now
		if lately {
			now = now.Add(10 * time.Millisecond)
			m.Doubt(now, moved)
			require.Equal(t, []path.ID{home}, m.Pings())
		}
		act := path.Activity{LastData: waiting, LastRecv: waiting.Add(-time.Millisecond), Unanswered: waiting, Held: true}
		m.Tick(waiting.Add(60*time.Millisecond), act)
		pings := m.Pings()
		require.Contains(t, pings, connection)
		require.Contains(t, pings, one)
		require.True(t, lately || slices.Contains(pings, home))
		m.Tick(waiting.Add(70*time.Millisecond), act)
		pings = m.Pings()
		require.NotContains(t, pings, connection, "once")
		require.NotContains(t, pings, one, "once")
	}
}

// PATH-18: when a straight path is suspect, data goes over the relay too although
// another straight one comes next, until that one has answered.
func TestPATH18SuspicionDoublesOverTheRelay(t *testing.T) {
	for _, works := range []bool{true, false} {
		m, now := all(t)
		act := path.Activity{LastData: now, LastRecv: now.Add(-time.Millisecond), Unanswered: now, Held: true}
		for m.State(home) != path.Suspect {
			m.Pings()
			now = m.Tick(now, act)
		}
		require.Equal(t, []path.ID{connection, one}, m.Route())
		require.Contains(t, m.Pings(), connection)
		if works {
			m.Pong(now.Add(rtt), connection, now)
			require.Equal(t, []path.ID{connection}, m.Route())
			continue
		}
		m.Pong(now.Add(2*rtt), one, now)
		for end := now.Add(500 * time.Millisecond); now.Before(end); now = now.Add(10 * time.Millisecond) {
			require.Contains(t, m.Route(), one)
			m.Tick(now, act)
			m.Pings()
		}
		require.Equal(t, one, best(m))
	}
}

// PATH-18: doubts that proved unfounded make further ones rare, but not one
// about a peer that names other addresses, or answers at another one.
func TestPATH18DoubtOfAPeerThatMoved(t *testing.T) {
	m, now := both(t)
	for range 6 {
		m.Doubt(now, one)
		now = now.Add(rtt)
		m.Pong(now, home, now.Add(-rtt))
	}
	m.Doubt(now, one)
	require.Equal(t, []path.ID{home}, m.Route(), "rare")
	m.Moved()
	m.Doubt(now, one)
	require.Equal(t, []path.ID{home, one}, m.Route())
	for range 6 {
		now = now.Add(rtt)
		m.Pong(now, home, now.Add(-rtt))
		m.Doubt(now, one)
	}
	require.Equal(t, []path.ID{home}, m.Route(), "rare again")
	m.Pings()
	m.Found(now, moved, false)
	now = answer(m, now, rtt)
	m.Doubt(now, moved)
	require.Equal(t, []path.ID{home, moved, one}, m.Route())
	m.Pong(now.Add(rtt), home, now)
	m.Doubt(now.Add(rtt), moved)
	require.Equal(t, []path.ID{home}, m.Route(), "once for each")
}

// PATH-18: the peer answers at another address in a round trip, while the best
// one had two, though its answers used to vary by more.
func TestPATH18DoubtEndsSoonWhereAnswersVary(t *testing.T) {
	m, now := both(t)
	for i := range 40 {
		now = now.Add(3 * time.Second)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		now = answer(m, now, time.Duration(1+2*(i%2))*rtt) // 1 and 3
	}
	_, _, smoothed, _, _ := m.Best()
	m.Doubt(now, one)
	m.Found(now, moved, false)
	m.Pong(now.Add(rtt), moved, now)
	require.Equal(t, home, best(m), "too early")
	m.Pong(now.Add(2*smoothed+10*time.Millisecond), moved, now.Add(20*time.Millisecond))
	require.Equal(t, moved, best(m))
}
