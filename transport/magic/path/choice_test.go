package path_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

// beat lets heartbeats happen for a while, on paths that answer unless lost
// says otherwise.
func beat(m *path.Machine, now time.Time, n int, lost func(path.ID) bool) time.Time {
	for range n {
		now = now.Add(3 * time.Second)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		for _, id := range m.Pings() {
			if !lost(id) {
				m.Pong(now.Add(rtt), id, now)
			}
		}
	}
	return now.Add(rtt)
}

func none(path.ID) bool { return false }

// PATH-19: a path that loses more than 20 % of its last 20 pings ranks below a
// clean relay, although data goes on to arrive; it is direct again when it has
// become clean.
func TestPATH19LossyRanksBelowACleanRelay(t *testing.T) {
	m, now := both(t)
	lose := 0
	now = beat(m, now, 60, func(id path.ID) bool { // every fourth: 25 %
		if id != home {
			return false
		}
		lose++
		return lose%4 == 0
	})
	require.Equal(t, one, best(m))
	require.Equal(t, path.Valid, m.State(home), "it works, but not well")
	beat(m, now, 40, none)
	require.Equal(t, home, best(m))
}

// PATH-19: 20 % is not too much.
func TestPATH19SomeLossIsBorne(t *testing.T) {
	m, now := both(t)
	lose := 0
	beat(m, now, 100, func(id path.ID) bool {
		if id != home {
			return false
		}
		lose++
		return lose%5 == 0
	})
	require.Equal(t, home, best(m))
}

// PATH-19: an outage is not the same as losing many pings: the path is taken
// again at once when it is over.
func TestPATH19AnOutageMakesNoPathLossy(t *testing.T) {
	m, now := both(t)
	now = fall(t, m, now)
	now = now.Add(time.Second)
	m.Found(now, home, false)
	answer(m, now, rtt)
	require.Equal(t, home, best(m))
}

// fall lets the direct path die while the relay goes on.
func fall(t *testing.T, m *path.Machine, now time.Time) time.Time {
	t.Helper()
	for i := 0; m.State(home) != path.Dead; i++ {
		require.Less(t, i, 200)
		now = now.Add(50 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now.Add(-time.Second), Unanswered: now.Add(-time.Second), Held: true})
		answer(m, now, 0, home)
	}
	require.Equal(t, one, best(m))
	return now
}

// PATH-19: flap damping. Whoever fails once is taken again at once; from the
// second failure within a minute on after 2 s, 4 s … 60 s.
func TestPATH19FlapDamping(t *testing.T) {
	m, now := both(t)
	for _, seconds := range []int{0, 2, 4, 8, 16, 32, 60, 60} {
		want := time.Duration(seconds) * time.Second
		failed := now
		now = fall(t, m, now)
		for best(m) != home {
			now = now.Add(100 * time.Millisecond)
			m.Found(now, home, false)
			m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
			answer(m, now, 0)
			require.LessOrEqual(t, now.Sub(failed), want+3*time.Second)
		}
		require.GreaterOrEqual(t, now.Sub(failed), want)
		m.Events()
	}
	now = beat(m, now, 45, none) // two minutes and more without failure
	now = fall(t, m, now)
	m.Found(now, home, false)
	answer(m, now, rtt)
	require.Equal(t, home, best(m), "forgiven")
}

// PATH-19: a damped path is better than none.
func TestPATH19DampedIsBetterThanNone(t *testing.T) {
	m, now := both(t)
	for range 3 {
		now = fall(t, m, now)
		now = now.Add(20 * time.Second)
		m.Found(now, home, false)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		now = answer(m, now, rtt)
	}
	now = fall(t, m, now)
	m.Found(now, home, false)
	now = answer(m, now, rtt)
	require.Equal(t, one, best(m))
	m.Lost(now, one, "relay link down", false)
	require.Equal(t, home, best(m))
}

// PATH-19: IPv6 is 3 ms ahead.
func TestPATH19IPv6Ahead(t *testing.T) {
	six := path.ID{Addr: netip.MustParseAddrPort("[2a04:1000::1]:4242")}
	first := path.ID{Addr: netip.MustParseAddrPort("46.22.0.3:4242")}
	for slower, want := range map[time.Duration]path.ID{2 * time.Millisecond: six, 4 * time.Millisecond: home} {
		var m path.Machine
		for _, id := range []path.ID{first, home, six} {
			m.Found(start, id, false)
		}
		now := start.Add(rtt)
		m.Pong(now, first, start)
		m.Pong(now, home, start)
		m.Pong(now, six, start.Add(-slower))
		require.Equal(t, first, best(&m))
		m.Lost(now, first, "test", false)
		require.Equal(t, want, best(&m), "%s slower", slower)
	}
}

// PATH-18: when the best path is asked because nothing comes back, so is the
// next one: whether it works is known when it is needed.
func TestPATH18RunnerUpIsAskedInTime(t *testing.T) {
	m, now := both(t)
	act := path.Activity{LastData: now, LastRecv: now.Add(-time.Millisecond), Unanswered: now, Held: true}
	m.Tick(now.Add(60*time.Millisecond), act)
	require.ElementsMatch(t, []path.ID{home, one}, m.Pings())
}

// PATH-18: a new path is asked three times more, so that the limit is that of
// its round trip and not of how little is known about it.
func TestPATH18RoundTripIsKnownSoon(t *testing.T) {
	var m path.Machine
	m.Found(start, home, false)
	now := answer(&m, start, rtt)
	first := m.Quiet()
	for range 12 {
		now = now.Add(20 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		for _, id := range m.Pings() {
			m.Pong(now.Add(rtt), id, now)
		}
	}
	require.Equal(t, 3*rtt+30*time.Millisecond+2*rtt, first)
	require.Less(t, m.Quiet(), 130*time.Millisecond)
	m.Tick(now.Add(time.Second), path.Activity{LastData: now, LastRecv: now, Held: true})
	require.Empty(t, m.Pings(), "then it is known")
}

// PATH-18: one relay may fail for one of the two peers only. What comes over
// another one does not hide that.
func TestPATH18OneSidedRelayLoss(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	now := answer(&m, start, 50*time.Millisecond)
	m.Found(now, two, false)
	now = answer(&m, now, 50*time.Millisecond)
	require.Equal(t, []path.ID{one}, m.Route())
	m.Doubt(now, two)
	require.Equal(t, []path.ID{one, two}, m.Route(), "doubled")
	began := now
	for m.State(one) != path.Suspect {
		now = now.Add(10 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, LastRecv: began, Held: true})
		require.Less(t, now.Sub(began), 400*time.Millisecond)
	}
	require.Equal(t, []path.ID{two}, m.Route())
}

// PATH-16: an address that worked until lately is knocked at every second.
func TestPATH16LostAddressIsTriedOften(t *testing.T) {
	m, now := both(t)
	now = fall(t, m, now)
	died, last, knocks := now, now, 0
	for now.Sub(died) < 25*time.Second {
		now = now.Add(50 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		if slices.Contains(m.Pings(), home) {
			last = now
			knocks++
		}
		require.LessOrEqual(t, now.Sub(last), 1100*time.Millisecond)
	}
	require.LessOrEqual(t, knocks, 35)
}

// PATH-15 to 19 as a world that loses, breaks and mends: whenever a path has
// worked for long enough and data flows, data goes over one that works; and
// what the machine asks for is bounded.
func TestMachineInAWorld(t *testing.T) {
	type link struct {
		up   bool
		rtt  time.Duration
		loss float64
	}
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		ids := []path.ID{one, two, home, {Addr: netip.MustParseAddrPort("[2a04:1000::1]:1")}}
		links := make(map[path.ID]*link)
		for _, id := range ids {
			links[id] = &link{up: true, rtt: time.Duration(5+r.IntN(80)) * time.Millisecond}
		}
		var m path.Machine
		for _, id := range ids {
			m.Found(start, id, false)
		}
		type pong struct {
			at, sent time.Time
			id       path.ID
		}
		var pongs []pong
		var act path.Activity
		act.Held = true
		changed, good, pings := start, start, 0
		for now := start; now.Sub(start) < 5*time.Minute; now = now.Add(10 * time.Millisecond) {
			if r.IntN(800) == 0 { // every 8 s
				l := links[ids[r.IntN(len(ids))]]
				if l.up = !l.up; r.IntN(4) == 0 {
					l.loss = r.Float64() / 4
				}
				changed = now
			}
			// Data goes out all the time, and is answered if its path works.
			act.LastData = now
			if act.Unanswered.IsZero() {
				act.Unanswered = now
			}
			works := false
			for i, id := range m.Route() {
				if l := links[id]; l.up && r.Float64() >= l.loss {
					works = true
					act.Unanswered = time.Time{}
					if i == 0 {
						act.LastRecv = now
					}
				}
			}
			if works {
				good = now
			}
			alive := slices.ContainsFunc(ids, func(id path.ID) bool { return links[id].up && m.State(id) != path.Dead })
			if alive && now.Sub(changed) > 3*time.Second && now.Sub(good) > 2*time.Second {
				t.Fatalf("seed %d: nothing arrives %s after the last change, route %v", seed, now.Sub(changed), m.Route())
			}
			for len(pongs) > 0 && !pongs[0].at.After(now) {
				m.Pong(now, pongs[0].id, pongs[0].sent)
				pongs = pongs[1:]
			}
			if due := m.Tick(now, act); !due.IsZero() && !due.After(now) {
				t.Fatalf("seed %d: due in the past", seed)
			}
			for _, id := range m.Pings() {
				pings++
				if l := links[id]; l.up && r.Float64() >= l.loss {
					pongs = append(pongs, pong{now.Add(l.rtt), now, id})
				}
			}
			slices.SortStableFunc(pongs, func(a, b pong) int { return a.at.Compare(b.at) })
			m.Events()
		}
		require.Less(t, pings, 5*60*10, "seed %d", seed)
	}
}
