//go:build linux

package acceptance

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var (
	dialRuns  = flag.Int("dial.runs", 20, "dials of ours that the medians are taken of")
	dialStock = flag.Int("dial.stock", 5, "dials of stock go-libp2p beside them")
)

// dialOnce starts a node, waits until it is reachable, dials the peer and says
// what each took.
func dialOnce(ctx context.Context, n *node.Node, cfg roamConfig) (took dialled, err error) {
	begin := time.Now()
	if err := n.Start(ctx); err != nil {
		return took, err
	}
	if err := n.Online(ctx); err != nil {
		return took, err
	}
	took.Online = time.Since(begin)
	time.Sleep(cfg.Quiet) // a warm node has been up for a while
	id, err := peer.Decode(cfg.PeerID)
	if err != nil {
		return took, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin = time.Now()
	direct := make(chan time.Duration, 1)
	go func() {
		for ctx.Err() == nil {
			if n.Path(id).Kind == transport.PathDirect {
				direct <- time.Since(begin)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	replies, result := n.Ping(ctx, cfg.Target, node.PingOptions{UntilDirect: 5 * time.Second, Interval: 10 * time.Millisecond})
	for range replies {
	}
	if result.FirstByte == nil {
		return took, fmt.Errorf("not reached: %w", result.Err)
	}
	took.First = time.Duration(*result.FirstByte * float64(time.Millisecond))
	select {
	case took.Direct = <-direct:
	case <-time.After(time.Second):
	}
	return took, nil
}

// dialRun is dialOnce in the program.
func dialRun(n *node.Node, cfg roamConfig) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	took, err := dialOnce(ctx, n, cfg)
	if err != nil {
		return err
	}
	return newLines().tell(roamLine{Dialled: &took})
}

// PATH-33, in the situation it speaks of: two home routers, 25 ms on every
// cable, R the round trip peer, relay, peer. First byte within 2.5 R and direct
// within 2 R of the dial with a cached record; without one a look-up comes on
// top, two round trips to the relay; from start to reachable within 1 s and 3
// round trips to the relay. A stock go-libp2p pair stands in the same table.
func TestPATH33DialTable(t *testing.T) {
	lab := newLab(t, []string{"relay", "stock"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.PortRestricted})
	r := roundTrip(t, lab.Host("b"), lab.Host("relay"))
	relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
	join := []string{relay.ready.Ticket}
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: join})
	cache := filepath.Join(t.TempDir(), "cache")
	ours := func(cache string) dialled {
		return newRoamer(t, lab.Host("b"), roamConfig{Join: join, Dial: true, Target: a.ready.Key, PeerID: a.ready.PeerID, Cache: cache, Quiet: 500 * time.Millisecond}).dialled()
	}
	stockRelayed := newRoamer(t, lab.Host("stock"), roamConfig{Stock: stockRelay})
	stockJoin := []string{stockRelayed.ready.Ticket}
	stockA := newRoamer(t, lab.Host("a"), roamConfig{Stock: stockListen, Join: stockJoin})

	var warm, cold, others []dialled
	ours(cache) // fills the cache
	for i := range *dialRuns {
		warm = append(warm, ours(cache))
		cold = append(cold, ours(""))
		if i < *dialStock {
			others = append(others, newRoamer(t, lab.Host("b"), roamConfig{Stock: stockDial, Join: stockJoin, Target: stockA.ready.PeerID}).dialled())
		}
	}
	for _, d := range slices.Concat(warm, cold, others) {
		t.Logf("first byte %s, direct %s, start to reachable %s", d.First.Round(time.Millisecond), d.Direct.Round(time.Millisecond), d.Online.Round(time.Millisecond))
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\n\tdials\tfirst byte\tdirect\tstart to reachable")
	for _, row := range []struct {
		name, online string
		of           []dialled
	}{
		{"ours, cached record", inR(warm, r, online), warm},
		{"ours, cold", inR(cold, r, online), cold},
		{"stock go-libp2p, DCUtR", "-", others},
	} {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", row.name, len(row.of), inR(row.of, r, first), inR(row.of, r, direct), row.online)
	}
	w.Flush()
	t.Logf("R %s%s", r.Round(time.Millisecond), b.String())

	toRelay := r / 2
	require.LessOrEqual(t, median(warm, first), r*5/2)
	require.LessOrEqual(t, median(warm, direct), 2*r)
	require.LessOrEqual(t, median(cold, first), r*5/2+2*toRelay)
	require.LessOrEqual(t, median(cold, direct), 2*r+2*toRelay)
	require.LessOrEqual(t, median(warm, online), time.Second+3*toRelay)
	require.LessOrEqual(t, median(cold, online), time.Second+3*toRelay)
}

func first(d dialled) time.Duration  { return d.First }
func direct(d dialled) time.Duration { return d.Direct }
func online(d dialled) time.Duration { return d.Online }

// median of what was measured; what never came to be is longest.
func median(of []dialled, what func(dialled) time.Duration) time.Duration {
	var all []time.Duration
	for _, d := range of {
		if v := what(d); v > 0 {
			all = append(all, v)
		} else {
			all = append(all, time.Hour)
		}
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// inR is a median for people.
func inR(of []dialled, r time.Duration, what func(dialled) time.Duration) string {
	if len(of) == 0 {
		return "-"
	}
	m := median(of, what)
	if m == time.Hour {
		return "never"
	}
	return fmt.Sprintf("%s (%.2f R)", m.Round(time.Millisecond), float64(m)/float64(r))
}

// dialled waits for the program's end and returns what it measured.
func (r *roamer) dialled() dialled {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		r.t.Fatalf("%s does not end", r.host.Name())
	}
	require.NoError(r.t, r.err, r.errs)
	r.mu.Lock()
	defer r.mu.Unlock()
	require.NotNil(r.t, r.took)
	return *r.took
}
