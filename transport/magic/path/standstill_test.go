package path_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

// PATH-19: when all paths stand still, as a radio's do, and then answer, the best
// one is not to blame: it is taken again at once each time, and loses nothing that
// counts. When only it stands still, it has to wait from the second time on.
func TestPATH19StandstillOfAllPaths(t *testing.T) {
	for all, lasts := range map[bool]time.Duration{true: 150 * time.Millisecond, false: 300 * time.Millisecond} {
		m, now := both(t)
		for i := range 3 {
			act := path.Activity{LastData: now, LastRecv: now.Add(-time.Millisecond), Unanswered: now, Held: true}
			type ping struct {
				id   path.ID
				sent time.Time
			}
			var held []ping
			for end := now.Add(lasts); now.Before(end); now = now.Add(5 * time.Millisecond) {
				m.Tick(now, act)
				for _, id := range m.Pings() {
					if !all && id == one {
						m.Pong(now, id, now)
						continue
					}
					held = append(held, ping{id, now})
				}
			}
			require.Equal(t, path.Suspect, m.State(home))
			for _, p := range held {
				m.Pong(now, p.id, p.sent)
			}
			if !all && i == 1 {
				require.Equal(t, one, best(m))
				break
			}
			require.Equal(t, home, best(m))
			for range 40 {
				m.Tick(now, flow(now))
				now = answer(m, now, rtt)
				now = now.Add(time.Second)
			}
		}
	}
}

// PATH-18: where a queue has grown, or this process stood still, the answers of
// all paths are late. That makes no path suspect while data comes, for a second.
func TestPATH18AllAnswersAreLate(t *testing.T) {
	for _, c := range []struct {
		home, one time.Duration
		suspect   bool
	}{
		{500 * time.Millisecond, 520 * time.Millisecond, false},
		{500 * time.Millisecond, 2 * rtt, true},
		{2 * time.Second, 2 * time.Second, true},
	} {
		m, now := both(t)
		now = now.Add(3 * time.Second)
		type ping struct {
			id       path.ID
			sent, at time.Time
		}
		var under []ping
		doubled, suspect := false, false
		for end := now.Add(1500 * time.Millisecond); now.Before(end); now = now.Add(5 * time.Millisecond) {
			m.Tick(now, flow(now))
			for _, id := range m.Pings() {
				took := c.one
				if id == home {
					took = c.home
				}
				under = append(under, ping{id, now, now.Add(took)})
			}
			for i := 0; i < len(under); {
				if p := under[i]; !now.Before(p.at) {
					m.Pong(now, p.id, p.sent)
					under = append(under[:i], under[i+1:]...)
					continue
				}
				i++
			}
			doubled = doubled || len(m.Route()) > 1
			suspect = suspect || m.State(home) == path.Suspect
		}
		require.True(t, doubled)
		require.Equal(t, c.suspect, suspect, "%s and %s", c.home, c.one)
	}
}

// PATH-18: a late answer ends the doubt that its lateness began.
func TestPATH18LateAnswerEndsTheDoubt(t *testing.T) {
	m, now := both(t)
	now = now.Add(3 * time.Second)
	due := m.Tick(now, flow(now))
	m.Pong(due, one, now)
	m.Tick(due, flow(due))
	require.Equal(t, []path.ID{home, one}, m.Route())
	m.Pong(due.Add(time.Millisecond), home, now)
	require.Equal(t, []path.ID{home}, m.Route())
}
