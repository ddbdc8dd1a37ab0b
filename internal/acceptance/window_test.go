//go:build linux

package acceptance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// PATH-22: a connection that was on a slow relay is as fast as a fresh one soon
// after it became direct: it does not go on with the window it learnt there.
func TestPATH22WindowAfterARelay(t *testing.T) {
	const size = 40 // MiB
	lab := newLab(t, []string{"relay"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.PortRestricted})
	for _, name := range []string{"relay", "a", "b"} {
		require.NoError(t, lab.SetLink(name, natlab.Link{Delay: 12 * time.Millisecond}))
	}
	relay := startBulk(t, lab.Host("relay"), bulkConfig{Kind: "slow-relay"})
	cfg := bulkConfig{Kind: "direct", Join: relay.ready.Ticket}
	a, b := startBulk(t, lab.Host("a"), cfg), startBulk(t, lab.Host("b"), cfg)
	direct := func(from, to *bulkProc) time.Duration {
		return from.order(bulkOrder{Peer: to.ready.Peer, Path: "direct", MiB: size}).Took
	}
	relayed := func(from, to *bulkProc) time.Duration {
		return from.order(bulkOrder{Peer: to.ready.Peer, Path: "relayed", MiB: 4}).Took
	}
	require.NoError(t, lab.Cut("a", "b", 0))
	t.Logf("4 MiB relayed: dialler %s, dialled %s", relayed(b, a), relayed(a, b))
	require.NoError(t, lab.Mend("a", "b"))
	dialler, dialled := direct(b, a), direct(a, b)
	// Of new processes: a fresh connection.
	c, d := startBulk(t, lab.Host("a"), cfg), startBulk(t, lab.Host("b"), cfg)
	freshDialler := direct(d, c)
	e, f := startBulk(t, lab.Host("a"), cfg), startBulk(t, lab.Host("b"), cfg)
	f.order(bulkOrder{Peer: e.ready.Peer, Path: "direct", MiB: 0})
	freshDialled := direct(e, f)
	t.Logf("%d MiB: dialler %s, fresh %s; dialled %s, fresh %s", size, dialler, freshDialler, dialled, freshDialled)
	require.Less(t, dialler, 3*freshDialler)
	require.Less(t, dialled, 3*freshDialled)
}
