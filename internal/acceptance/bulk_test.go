//go:build linux

package acceptance

import (
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var bulkOver = flag.Duration("bulk.over", 0, "how much longer 95 of 100 echoes beside a transfer may take than alone; 0 for any")

// A transfer that fills a relay leg of 20 Mbit/s, the one from the sender or the
// one to the receiver, and an echo beside it on the same connection, before and
// after the relay that carries both is killed (PATH-26): neither is lost. How
// long the echoes take is measured; -bulk.over makes it a bound.
func TestPATH26BulkBesideEcho(t *testing.T) {
	for _, leg := range []struct{ name, slow string }{{"from the sender", "b"}, {"to the receiver", "a"}} {
		t.Run(leg.name, func(t *testing.T) { bulkBesideEcho(t, leg.slow) })
	}
}

// bulkBesideEcho is one run of it, in which the cable of a host is slow.
func bulkBesideEcho(t *testing.T, slow string) {
	const (
		line   = 20_000_000
		quiet  = 2 * time.Second
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
	link.Rate = line
	require.NoError(t, lab.SetLink(slow, link))
	one := newRoamer(t, lab.Host("one"), roamConfig{Relay: true})
	two := newRoamer(t, lab.Host("two"), roamConfig{Relay: true, Join: []string{one.ready.Ticket}})
	join := []string{one.ready.Ticket, two.ready.Ticket}
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: join})
	b := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Target: a.ready.Key, Rate: 10 * line, Quiet: quiet, Trips: true})
	require.True(t, b.waitPath("relayed", 5*time.Second))
	time.Sleep(quiet + settle + look)
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
	before := tripsBetween(report, begin.Add(quiet+settle), killed.Add(-300*time.Millisecond)) // those then under way are lost
	after := tripsBetween(report, killed.Add(settle), killed.Add(settle+look))
	for _, trips := range [][]time.Duration{base, before, after} {
		require.Greater(t, len(trips), 50)
		t.Logf("echo: median %s, 95 of 100 %s, 99 of 100 %s, longest %s", quantile(trips, 0.5), quantile(trips, 0.95), quantile(trips, 0.99), quantile(trips, 1))
	}
	t.Logf("transfer of %.1f Mbit/s", float64(report.Bytes)*8/report.Took.Seconds()/1e6)
	if *bulkOver > 0 {
		for _, trips := range [][]time.Duration{before, after} {
			require.LessOrEqual(t, quantile(trips, 0.95)-quantile(base, 0.5), *bulkOver)
		}
	}
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
