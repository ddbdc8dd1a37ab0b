//go:build linux

package acceptance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// PATH-20: two homes between which no UDP passes have a direct path by TCP.
// Streams live on when it is cut, over the relay, and when it is mended they are
// direct again; also after the NAT has forgotten the connection.
func TestPATH20StreamsOutliveTheTCPPath(t *testing.T) {
	lab := natlab.Start(t, natlab.Config{
		Public: []string{"relay"}, Required: *required,
		Peers: []natlab.Peer{{Name: "a", Kind: natlab.UDPBlocked}, {Name: "b", Kind: natlab.PortRestricted}},
		Link:  natlab.Link{Delay: oneWay},
	})
	relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
	join := []string{relay.ready.Ticket}
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: join})
	b := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Target: a.ready.Key, Rate: *roamRate, Bytes: *roamBytes})
	overTCP := func(within time.Duration) {
		t.Helper()
		require.True(t, b.waitPath("direct", within), "not direct")
		require.Contains(t, b.path().Addr, "/tcp/")
	}
	overTCP(10 * time.Second)
	require.NoError(t, lab.Cut("a", "b", 0))
	require.True(t, b.waitPath("relayed", 10*time.Second), "not relayed")
	require.NoError(t, lab.Mend("a", "b"))
	overTCP(20 * time.Second)
	require.NoError(t, lab.NATReset("b"))
	time.Sleep(time.Second) // for that to be noticed
	overTCP(20 * time.Second)
	report := b.end()
	b.tell(report, nil)
	require.Empty(t, report.Errors)
	require.True(t, report.SumOK)
	require.Positive(t, report.Echoes)
}
