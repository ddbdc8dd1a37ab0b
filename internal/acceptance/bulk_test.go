//go:build linux

package acceptance

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// A transfer that fills a relay leg of 20 Mbit/s, the one from the sender or
// the one to the receiver, leaves the echo beside it on the same connection
// under 150 ms over what it takes alone, before and after the relay that
// carries both is killed (PATH-26). That is 95 of 100 echoes: when TCP loses
// packets on the full line, now and then, it takes two round trips to send them
// again.
func TestPATH26BulkBesideEcho(t *testing.T) {
	for _, leg := range []struct{ name, slow string }{{"from the sender", "b"}, {"to the receiver", "a"}} {
		t.Run(leg.name, func(t *testing.T) {
			// A transfer that does not fill the line shows nothing.
			for range 6 {
				if bulkBesideEcho(t, leg.slow) {
					return
				}
			}
			t.Fatal("no transfer filled the line")
		})
	}
}

// bulkBesideEcho is one run of it, in which the cable of a host is slow. It says
// whether the transfer filled that.
func bulkBesideEcho(t *testing.T, slow string) bool {
	const (
		line   = 20_000_000
		limit  = 150 * time.Millisecond
		quiet  = 2 * time.Second
		grow   = 2 * time.Second
		settle = 3 * time.Second // for a transfer to find its rate
		look   = 6 * time.Second
	)
	lab := newLab(t, []string{"one", "two"},
		natlab.Peer{Name: "a", Kind: natlab.Symmetric},
		natlab.Peer{Name: "b", Kind: natlab.Symmetric})
	link := natlab.Link{Delay: 12 * time.Millisecond}
	for _, name := range []string{"one", "two", "a", "b"} {
		require.NoError(t, lab.SetLink(name, link))
	}
	one := newRoamer(t, lab.Host("one"), roamConfig{Relay: true})
	two := newRoamer(t, lab.Host("two"), roamConfig{Relay: true, Join: []string{one.ready.Ticket}})
	join := []string{one.ready.Ticket, two.ready.Ticket}
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: join})
	b := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Target: a.ready.Key, Rate: 10 * line, Quiet: quiet, Trips: true})
	require.True(t, b.waitPath("relayed", 5*time.Second))
	// The transfer begins on a fast cable: QUIC's slow start ends at the first
	// sign of a queue, and would take a minute to fill the line from there.
	time.Sleep(quiet + grow)
	link.Rate = line
	require.NoError(t, lab.SetLink(slow, link))
	time.Sleep(settle + look)
	carrier := one
	if b.path().Addr == two.ready.PeerID {
		carrier = two
	}
	killed := time.Now()
	require.NoError(t, lab.Kill(carrier.host.Name()))
	time.Sleep(settle + look)
	report := b.end()
	b.tell(report, nil)
	require.Empty(t, report.Errors)
	require.True(t, report.SumOK)

	begin := report.Started
	base := tripsBetween(report, begin.Add(quiet/2), begin.Add(quiet))
	before := tripsBetween(report, begin.Add(quiet+grow+settle), killed.Add(-2*limit)) // those then under way are lost
	after := tripsBetween(report, killed.Add(settle), killed.Add(settle+look))
	for _, trips := range [][]time.Duration{base, before, after} {
		require.Greater(t, len(trips), 50)
		t.Logf("echo: median %s, 95 of 100 %s, 99 of 100 %s, longest %s", quantile(trips, 0.5), quantile(trips, 0.95), quantile(trips, 0.99), quantile(trips, 1))
	}
	for _, trips := range [][]time.Duration{before, after} {
		require.LessOrEqual(t, quantile(trips, 0.95)-quantile(base, 0.5), limit)
	}
	rate := float64(report.Bytes) * 8 / report.Took.Seconds()
	t.Logf("transfer of %.1f Mbit/s", rate/1e6)
	return rate > 0.4*line // with the time a fail-over takes
}

// tripsBetween are the echoes sent in a time, the fastest first.
func tripsBetween(r *roamReport, from, to time.Time) []time.Duration {
	var out []time.Duration
	for _, trip := range r.Trips {
		if !trip.At.Before(from) && trip.At.Before(to) {
			out = append(out, trip.Took)
		}
	}
	slices.Sort(out)
	return out
}

// quantile of sorted durations; 1 is the longest.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
