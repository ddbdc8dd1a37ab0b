//go:build linux

package acceptance

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// PATH-24: from a network with IPv6 only, whose NAT64 leads to IPv4, a node joins
// by the ticket of a relay that has IPv4 only, and it and a peer that has IPv4
// only reach each other straight, whichever dials.
func TestPATH24NAT64MakesDirect(t *testing.T) {
	lab := newLab(t, nil,
		natlab.Peer{Name: "relay", Kind: natlab.None, NoIPv6: true},
		natlab.Peer{Name: "six", Kind: natlab.IPv6Firewalled, NAT64: true},
		natlab.Peer{Name: "four", Kind: natlab.PortRestricted})
	relay := newProc(t, lab.Host("relay"), "").up("--relay")
	ticket := relay.ticket()
	six := newProc(t, lab.Host("six"), offers).up("--join", ticket)
	four := newProc(t, lab.Host("four"), offers).up("--join", ticket)
	for _, ends := range [][2]*nodeProc{{six, four}, {four, six}} {
		from, to := ends[0], ends[1]
		from.requireDiskFree(to.key)
		out := from.mustRun("ping", "--json", "--until-direct", "10s", "--interval", "20ms", to.key)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		require.Contains(t, lines[len(lines)-1], `"result":"direct"`, from.host.Name())
		require.Regexp(t, `"direct","addr":"[0-9.]+:`, out, "the peer is known by its own address, wherever packets go")
		from.kill() // a new dial next time, by neither of an earlier connection
		to.kill()
		from.up(from.args...)
		to.up(to.args...)
	}
	checks, _ := six.doctor()
	require.Contains(t, checks["nat64"].Detail, natlab.NAT64Prefix)
	require.True(t, checks["udp6"].OK, "%+v", checks["udp6"])
	require.Contains(t, checks["mapping4"].Detail, "endpoint-independent")
	checks, _ = four.doctor()
	require.Contains(t, checks["nat64"].Detail, "none is needed")

	t.Run("moved to IPv4 and back", func(t *testing.T) {
		sub := six.subscribe(four.key, "sys/load")
		last := sub.next(t, 10*time.Second)
		for _, step := range []struct {
			to   natlab.Peer
			want string
		}{
			{natlab.Peer{Kind: natlab.PortRestricted}, "none is needed"},
			{natlab.Peer{Kind: natlab.IPv6Firewalled, NAT64: true}, natlab.NAT64Prefix},
		} {
			require.NoError(t, lab.Move("six", step.to))
			// The system's resolver is noticed to be another one within five seconds.
			require.Eventually(t, func() bool {
				checks, _ := six.doctor()
				return strings.Contains(checks["nat64"].Detail, step.want)
			}, 20*time.Second, 100*time.Millisecond, step.want)
			out := six.mustRun("ping", "--json", "--until-direct", "10s", "--interval", "20ms", four.key)
			require.Contains(t, out, `"result":"direct"`, step.want)
			for range 100 { // some of them waited here meanwhile
				next := sub.next(t, 10*time.Second)
				require.Equal(t, last.N+1, next.N, "nothing is lost")
				last = next
			}
		}
	})
}
