package transport_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// linked returns once the host has links to n homes.
func linked(t *testing.T, h *transport.Host, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		up := 0
		for _, r := range h.Status().Relays {
			if r.Home && r.Up {
				up++
			}
		}
		return up == n
	}, 10*time.Second, 10*time.Millisecond)
}

// PATH-27, PATH-18: what a relay says in its Welcome that it lets through, the
// socket knows.
func TestPATH27LimitsReachTheSocket(t *testing.T) {
	limits := newRelay(t)
	free := newHost(t, func(c *transport.Config) { c.Relay = &transport.RelayConfig{Rate: -1} })
	a := newHost(t, joining(t, limits, free))
	linked(t, a, 2)
	require.Eventually(t, func() bool { return a.LimitedBy(limits) }, 10*time.Second, 10*time.Millisecond) // told after the link is up
	require.False(t, a.LimitedBy(free))
}

// PATH-27: a relay that is closed sends its clients to their other home first,
// and closes as soon as they are gone; the packets beneath a connection that it
// carried go on without a pause.
func TestPATH27RelayDrains(t *testing.T) {
	relays := []*transport.Host{newRelay(t), newRelay(t)}
	a, b := newHost(t, joining(t, relays...)), newHost(t, joining(t, relays...))
	linked(t, a, 2)
	linked(t, b, 2)
	s, err := a.OpenStream(within(t, 10*time.Second), b.ID(), echoID)
	require.NoError(t, err)
	defer s.Close()

	var longest time.Duration
	seq := uint64(0)
	echoFor := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); seq++ {
			begin := time.Now()
			var buf [8]byte
			binary.BigEndian.PutUint64(buf[:], seq)
			_, err := s.Write(buf[:])
			require.NoError(t, err)
			require.NoError(t, s.SetReadDeadline(time.Now().Add(10*time.Second)))
			_, err = io.ReadFull(s, buf[:])
			require.NoError(t, err)
			require.Equal(t, seq, binary.BigEndian.Uint64(buf[:]))
			longest = max(longest, time.Since(begin))
			time.Sleep(time.Millisecond)
		}
	}
	echoFor(time.Second)
	served := relays[0].Status().Serving
	require.Equal(t, 2, served.Homed)
	require.Nil(t, a.Status().Serving)
	carrier, other := relays[0], relays[1]
	if a.Path(b.ID()).Relay == other.ID() {
		carrier, other = other, carrier
	}
	require.Equal(t, carrier.ID(), a.Path(b.ID()).Relay)

	require.Greater(t, carrier.Status().Serving.BytesOut, uint64(1000))
	begin, moved := time.Now(), make(chan bool, 1)
	go func() {
		_ = carrier.Close()
		t.Logf("relay closed after %s", time.Since(begin))
		moved <- a.Path(b.ID()).Relay == other.ID()
	}()
	before := longest
	longest = 0
	echoFor(3 * time.Second)
	t.Logf("longest echo %s, before that %s", longest, before)
	require.True(t, <-moved, "its clients left before it closed")
	require.Equal(t, other.ID(), a.Path(b.ID()).Relay)
}

// PATH-27: of two nodes with one key the later one stays at the relay; the
// other says why it is not there.
func TestPATH27DuplicateKeyIsSaid(t *testing.T) {
	home := newRelay(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	again := func(c *transport.Config) {
		joining(t, home)(c)
		c.Key = key
	}
	older := newHost(t, again)
	linked(t, older, 1)
	newer := newHost(t, again)
	linked(t, newer, 1)
	var away *relay.GoAwayError
	require.Eventually(t, func() bool {
		st := older.Status()
		return len(st.Relays) == 1 && !st.Relays[0].Up && !st.Online && st.Relays[0].Err != nil
	}, 10*time.Second, 10*time.Millisecond)
	require.ErrorAs(t, older.Status().Relays[0].Err, &away)
	require.Equal(t, relay.GoAwayDuplicate, away.Reason)
	require.True(t, newer.Status().Relays[0].Up)
}
