package path_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	one   = path.ID{Relay: [32]byte{1}}
	two   = path.ID{Relay: [32]byte{2}}
	home  = path.ID{Addr: netip.MustParseAddrPort("31.21.0.2:4242")}
)

// answer lets every ping that is out be answered rtt later.
func answer(m *path.Machine, now time.Time, rtt time.Duration, silent ...path.ID) time.Time {
	pings := m.Pings()
	now = now.Add(rtt)
	for _, id := range pings {
		mute := false
		for _, s := range silent {
			mute = mute || s == id
		}
		if !mute {
			m.Pong(now, id, now.Add(-rtt))
		}
	}
	return now
}

func best(m *path.Machine) path.ID {
	id, _, _, _, _ := m.Best()
	return id
}

// PATH-15: unknown → probing → valid, pinged at once.
func TestPATH15CandidateBecomesValid(t *testing.T) {
	var m path.Machine
	require.Equal(t, path.Unknown, m.State(one))
	m.Found(start, one, false)
	require.Equal(t, path.Probing, m.State(one))
	require.True(t, m.Usable(), "data goes by relay before the first answer")
	answer(&m, start, 50*time.Millisecond)
	require.Equal(t, path.Valid, m.State(one))
	require.Equal(t, []path.ID{one}, m.Route())
	events := m.Events()
	require.Len(t, events, 2)
	require.Equal(t, path.Opened, events[0].Kind)
	require.Equal(t, path.Selected, events[1].Kind)
}

// PATH-9, PATH-12: no data over a direct address that has not answered.
func TestPATH12DirectCarriesNothingBeforeItAnswers(t *testing.T) {
	var m path.Machine
	m.Found(start, home, false)
	require.Empty(t, m.Route())
	answer(&m, start, 20*time.Millisecond)
	require.Equal(t, []path.ID{home}, m.Route())
}

// PATH-19: direct before relayed, at once.
func TestPATH19DirectBeforeRelayed(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	now := answer(&m, start, 10*time.Millisecond)
	m.Found(now, home, false)
	now = answer(&m, now, 200*time.Millisecond)
	require.Equal(t, home, best(&m), "slower, but direct")
	m.Lost(now, home, "closed", false)
	require.Equal(t, one, best(&m))
}

// PATH-19: within a kind only a lasting gain of 5 ms and 20 % moves the path,
// and not within 2 s of the last move.
func TestPATH19HysteresisWithinAKind(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	now := answer(&m, start, 100*time.Millisecond)
	m.Found(now, two, false)
	now = answer(&m, now, 40*time.Millisecond)
	require.Equal(t, one, best(&m))
	for range 2 {
		m.Pong(now, two, now.Add(-40*time.Millisecond))
	}
	require.Equal(t, one, best(&m), "dwell")
	now = now.Add(3 * time.Second)
	m.Pong(now, two, now.Add(-40*time.Millisecond))
	require.Equal(t, two, best(&m))
}

// PATH-18: data and a ping unanswered make a path suspect; data is doubled
// over the other one, and five missed pings end it.
func TestPATH18SilenceMovesTheData(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	m.Found(start, two, false)
	now := answer(&m, start, 50*time.Millisecond)
	first := best(&m)
	other := two
	if first == two {
		other = one
	}
	sent := now
	act := path.Activity{LastData: sent, LastRecv: now.Add(-time.Millisecond), Unanswered: sent}
	suspected := time.Time{}
	for i := 0; i < 200 && m.State(first) != path.Dead; i++ {
		now = now.Add(10 * time.Millisecond)
		act.LastData = now
		m.Tick(now, act)
		if m.State(first) == path.Suspect && suspected.IsZero() {
			suspected = now
		}
		for _, id := range m.Pings() {
			if id == other {
				m.Pong(now, id, now)
			}
		}
	}
	require.False(t, suspected.IsZero())
	require.LessOrEqual(t, suspected.Sub(sent), 500*time.Millisecond)
	require.Equal(t, other, best(&m))
	require.Equal(t, []path.ID{other}, m.Route())
	require.Equal(t, path.Dead, m.State(first))
}

// A relay whose link came back is tried at once.
func TestLinkReplacedStartsAnew(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	now := answer(&m, start, 50*time.Millisecond)
	m.Lost(now, one, "relay link down", false)
	require.False(t, m.Usable())
	m.Found(now.Add(2*time.Second), one, true)
	require.True(t, m.Usable())
	answer(&m, now.Add(2*time.Second), 50*time.Millisecond)
	require.Equal(t, one, best(&m))
}

// PATH-17: nobody is pinged for ever: an idle peer's machine asks for no tick.
func TestPATH17IdleGoesCold(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	now := answer(&m, start, 50*time.Millisecond)
	act := path.Activity{LastData: now, LastRecv: now}
	beats := 0
	for range 200 {
		due := m.Tick(now, act)
		beats += len(m.Pings())
		m.Pong(now, one, now)
		if due.IsZero() {
			require.Greater(t, now.Sub(start), 40*time.Second)
			require.GreaterOrEqual(t, beats, 10, "heartbeats while active")
			return
		}
		require.True(t, due.After(now), "a tick is never due in the past")
		now = due
	}
	t.Fatal("still ticking")
}

// PATH-29: an open connection, be it idle, keeps a path and a second one warm.
func TestPATH29IdleConnectionKeepsBothHomes(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	m.Found(start, two, false)
	now := answer(&m, start, 50*time.Millisecond)
	act := path.Activity{LastData: now.Add(-time.Hour), LastRecv: now, Held: true}
	pings := map[path.ID]int{}
	for now.Sub(start) < 10*time.Minute {
		due := m.Tick(now, act)
		for _, id := range m.Pings() {
			pings[id]++
			m.Pong(now, id, now)
		}
		require.False(t, due.IsZero())
		now = due
	}
	require.InDelta(t, 13+3, pings[one], 1, "and three when it was new")
	require.InDelta(t, 13+3, pings[two], 1)
}

// Whatever happens in whatever order: the route names only paths the machine
// holds and never a direct one that has not answered; the best path is not
// dead; ticks are due in the future; what is held is bounded.
func TestMachineModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m path.Machine
		now := start
		ids := []path.ID{one, two, home, {Relay: [32]byte{3}}, {Addr: netip.MustParseAddrPort("[2a04:1000::1]:1")}}
		answered := map[path.ID]bool{}
		var act path.Activity
		id := rapid.SampledFrom(ids)
		t.Repeat(map[string]func(*rapid.T){
			"found": func(t *rapid.T) { m.Found(now, id.Draw(t, "id"), rapid.Bool().Draw(t, "reset")) },
			"lost": func(t *rapid.T) {
				i := id.Draw(t, "id")
				m.Lost(now, i, "test", rapid.Bool().Draw(t, "retry"))
			},
			"pong": func(t *rapid.T) {
				i := id.Draw(t, "id")
				m.Pong(now, i, now.Add(-time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms"))*time.Millisecond))
				answered[i] = true
			},
			"pass": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond)
			},
			"send": func(*rapid.T) {
				act.LastData = now
				if act.Unanswered.IsZero() {
					act.Unanswered = now
				}
			},
			"receive": func(*rapid.T) { act.LastData, act.LastRecv, act.Unanswered = now, now, time.Time{} },
			"tick": func(t *rapid.T) {
				if due := m.Tick(now, act); !due.IsZero() && !due.After(now) {
					t.Fatalf("due in the past")
				}
			},
			"": func(t *rapid.T) {
				m.Pings()
				m.Events()
				for _, r := range m.Route() {
					s := m.State(r)
					if s == path.Unknown || s == path.Dead {
						t.Fatalf("route over a %s path", s)
					}
					if r.Kind() == path.Direct && !answered[r] {
						t.Fatalf("data over an address that never answered")
					}
				}
				if b, s, _, _, ok := m.Best(); ok && (s == path.Dead || m.State(b) != s) {
					t.Fatalf("best path is %s", s)
				}
				if n := len(m.IDs()); n > 32 {
					t.Fatalf("%d paths held", n)
				}
			},
		})
	})
}
