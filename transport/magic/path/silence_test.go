package path_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

// flow is data that goes both ways all the time.
func flow(now time.Time) path.Activity {
	return path.Activity{LastData: now, LastRecv: now, Held: true}
}

// PATH-18: a peer that is heard all the time is missed after 20 ms, one that was
// silent for a while lately after twice that, and at half the limit in any case.
func TestPATH18HeardOftenSoonMissed(t *testing.T) {
	for longest, want := range map[time.Duration]time.Duration{
		0:                     51 * time.Millisecond,
		time.Millisecond:      20 * time.Millisecond,
		15 * time.Millisecond: 30 * time.Millisecond,
		40 * time.Millisecond: 51 * time.Millisecond,
	} {
		m, begin := both(t)
		act := path.Activity{LastData: begin, LastRecv: begin.Add(-time.Millisecond), Unanswered: begin, Held: true, Longest: longest}
		now, pings := begin, []path.ID(nil)
		for len(pings) == 0 && now.Sub(begin) < time.Second {
			now = m.Tick(now, act)
			m.Tick(now, act)
			pings = m.Pings()
		}
		require.ElementsMatch(t, []path.ID{home, one}, pings)
		require.InDelta(t, want, now.Sub(begin), float64(5*time.Millisecond), "%s", longest)
	}
}

// PATH-18: a ping that is not answered in its time makes data go over the relay
// too, though more of the peer comes: it may be that only ours does not arrive.
// The answer to another one ends that.
func TestPATH18PingNotAnsweredInTime(t *testing.T) {
	m, now := both(t)
	now = now.Add(3 * time.Second)
	due := m.Tick(now, flow(now))
	require.ElementsMatch(t, []path.ID{home, one}, m.Pings())
	require.InDelta(t, rtt+10*time.Millisecond, due.Sub(now), float64(5*time.Millisecond))
	require.Equal(t, []path.ID{home}, m.Route())
	m.Pong(due, one, now)
	now = due
	m.Tick(now, flow(now))
	require.Equal(t, []path.ID{home, one}, m.Route())
	require.Equal(t, []path.ID{home}, m.Pings(), "asked again")
	m.Pong(now.Add(rtt), home, now)
	require.Equal(t, []path.ID{home}, m.Route())
}

// PATH-18: and if that is not answered either, the path is suspect soon.
func TestPATH18PingsNotAnswered(t *testing.T) {
	m, begin := both(t)
	begin = begin.Add(3 * time.Second)
	for now := begin; m.State(home) != path.Suspect; now = now.Add(5 * time.Millisecond) {
		require.Less(t, now.Sub(begin), 300*time.Millisecond)
		m.Tick(now, flow(now))
		answer(m, now, 0, home)
	}
	require.Equal(t, []path.ID{one}, m.Route())
}

// PATH-18: where a second direct path is the runner-up, the relay is asked as well
// when the peer is missed: the peer hears there that something is wrong. And the
// second direct path is not trusted alone before it has answered.
func TestPATH18TwoDirectPaths(t *testing.T) {
	for _, works := range []bool{true, false} {
		m, begin := both(t)
		tcp := path.ID{Addr: home.Addr, TCP: true}
		m.Found(begin, tcp, false)
		begin = answer(m, begin, rtt)
		require.Equal(t, []path.ID{home}, m.Route())
		act := path.Activity{LastData: begin, LastRecv: begin.Add(-time.Millisecond), Unanswered: begin, Held: true}
		asked := map[path.ID]bool{}
		now := begin
		for ; m.State(home) != path.Suspect; now = now.Add(5 * time.Millisecond) {
			require.Less(t, now.Sub(begin), 200*time.Millisecond)
			m.Tick(now, act)
			for _, id := range m.Pings() {
				asked[id] = true
				if id == one {
					m.Pong(now, id, now)
				}
			}
		}
		require.Equal(t, map[path.ID]bool{home: true, tcp: true, one: true}, asked)
		require.Equal(t, tcp, best(m))
		require.Equal(t, []path.ID{tcp, one}, m.Route())
		if works {
			m.Pong(now.Add(rtt), tcp, now)
			require.Equal(t, []path.ID{tcp}, m.Route())
			continue
		}
		for begin = now; m.State(tcp) != path.Suspect; now = now.Add(5 * time.Millisecond) {
			require.Less(t, now.Sub(begin), 300*time.Millisecond)
			require.Contains(t, m.Route(), one)
			m.Tick(now, act)
			answer(m, now, 0, home, tcp)
		}
		require.Equal(t, []path.ID{one}, m.Route())
	}
}

// PATH-18: a late answer costs nothing while no data is under way, and where
// there is no relay that works.
func TestPATH18LateAnswerWithoutData(t *testing.T) {
	for _, c := range []struct {
		idle time.Duration
		lost bool
	}{{2 * time.Second, false}, {0, true}} {
		m, now := both(t)
		if c.lost {
			m.Lost(now, one, "test", false)
		}
		act := flow(now)
		now = now.Add(3 * time.Second)
		act.LastData = now.Add(-c.idle)
		m.Tick(now, act)
		m.Pings()
		now = now.Add(100 * time.Millisecond)
		m.Tick(now, act)
		require.Equal(t, []path.ID{home}, m.Route())
		require.Empty(t, m.Pings())
	}
}

// PATH-18, PATH-19: on a path that loses one packet in a hundred each way, data
// is doubled for less than a thousandth of the time, and the path stays the best.
func TestPATH18DoubtsOfALossyPathAreRare(t *testing.T) {
	m, begin := both(t)
	random := rand.New(rand.NewPCG(1, 2))
	type ping struct {
		id       path.ID
		sent, at time.Time
	}
	var under []ping
	var doubled time.Duration
	const step = 5 * time.Millisecond
	const lasts = 20 * time.Minute
	for now := begin; now.Sub(begin) < lasts; now = now.Add(step) {
		m.Tick(now, flow(now))
		for _, id := range m.Pings() {
			if id == home && random.IntN(50) == 0 {
				continue
			}
			under = append(under, ping{id, now, now.Add(rtt)})
		}
		for len(under) > 0 && !now.Before(under[0].at) {
			m.Pong(now, under[0].id, under[0].sent)
			under = under[1:]
		}
		if len(m.Route()) > 1 {
			doubled += step
		}
		require.Equal(t, home, best(m))
	}
	require.Greater(t, doubled, time.Duration(0))
	require.Less(t, doubled, lasts/1000)
	t.Logf("doubled for %s of %s", doubled, lasts)
}

// PATH-19: lost pings count whether others are answered at once or later.
func TestPATH19LossCountsThoughAskedAgain(t *testing.T) {
	m, begin := both(t)
	lose := 0
	for now := begin; now.Sub(begin) < 3*time.Minute; now = now.Add(5 * time.Millisecond) {
		m.Tick(now, flow(now))
		for _, id := range m.Pings() {
			if id == home {
				lose++
				if lose%3 == 0 {
					continue
				}
			}
			m.Pong(now, id, now)
		}
	}
	require.Equal(t, one, best(m))
}
