package path_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

var connection = path.ID{Addr: home.Addr, TCP: true}

// PATH-19, PATH-20: TCP before relays and UDP before TCP, however fast they are,
// at once.
func TestPATH20TCPRanksBetweenRelaysAndUDP(t *testing.T) {
	var m path.Machine
	m.Found(start, one, false)
	now := answer(&m, start, 10*time.Millisecond)
	m.Found(now, connection, true)
	require.Equal(t, []path.ID{one}, m.Route(), "nothing before it answers (PATH-12)")
	now = answer(&m, now, 200*time.Millisecond)
	require.Equal(t, connection, best(&m))
	require.Equal(t, path.Direct, best(&m).Kind())
	m.Found(now, home, false)
	now = answer(&m, now, 400*time.Millisecond)
	require.Equal(t, home, best(&m))
	m.Lost(now, home, "gone", false)
	require.Equal(t, connection, best(&m))
}

// PATH-20: with a path by TCP UDP is still tried, for as long as an address that
// never answers is.
func TestPATH20UDPIsTriedBesideTCP(t *testing.T) {
	var m path.Machine
	m.Found(start, connection, true)
	m.Found(start, home, false)
	now := answer(&m, start, 10*time.Millisecond, home)
	knocks := 0
	for range 300 {
		now = now.Add(100 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, LastRecv: now, Held: true})
		for _, id := range m.Pings() {
			if id == home {
				knocks++
			} else {
				m.Pong(now, id, now)
			}
		}
	}
	require.Greater(t, knocks, 6)
}

// PATH-20: a connection that stopped answering is dead for good, even while
// data waits: only a new one is a path again.
func TestPATH20DeadConnectionIsNotPinged(t *testing.T) {
	var m path.Machine
	m.Found(start, connection, true)
	now := answer(&m, start, 10*time.Millisecond)
	waiting := now
	for range 200 {
		now = now.Add(50 * time.Millisecond)
		m.Tick(now, path.Activity{LastData: now, LastRecv: start, Unanswered: waiting, Held: true})
		if m.State(connection) == path.Dead {
			m.Pings()
		}
	}
	require.Equal(t, path.Dead, m.State(connection))
	require.Empty(t, m.Pings())
	m.Found(now, connection, true)
	answer(&m, now, 10*time.Millisecond)
	require.Equal(t, connection, best(&m))
}

// PATH-20: what looks like the web's is of the last choice among what goes
// straight, and before relays all the same.
func TestPATH20WebRanksLastOfDirect(t *testing.T) {
	web := path.ID{Addr: home.Addr, TCP: true, Web: true}
	var m path.Machine
	m.Found(start, one, false)
	now := answer(&m, start, 10*time.Millisecond)
	m.Found(now, web, true)
	now = answer(&m, now, 400*time.Millisecond)
	require.Equal(t, web, best(&m))
	require.Equal(t, path.Direct, best(&m).Kind())
	m.Found(now, connection, true)
	now = answer(&m, now, 400*time.Millisecond)
	require.Equal(t, connection, best(&m))
	m.Lost(now, connection, "gone", false)
	require.Equal(t, web, best(&m))
}
