//go:build linux

package acceptance

import (
	"crypto/ed25519"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var netsEvents = flag.Bool("networks.events", false, "let all events happen, not only a few")

// eventFigures is one row of the table of events.
type eventFigures struct {
	Event string   `json:"event"`
	Gap   float64  `json:"longest_gap_s"`  // of an echo every 10 ms
	After *float64 `json:"direct_again_s"` // 0: it was all the time, but for the gap
	Path  string   `json:"path"`           // at the end
}

// eventTable collects the rows of all its runs.
type eventTable struct{ rows []eventFigures }

func (e *eventTable) String() string {
	var b strings.Builder
	fmt.Fprint(&b, "| event | longest gap s | direct again after s | path at the end |\n|---|---|---|---|\n")
	for _, r := range e.rows {
		after := figure(r.After)
		if r.After != nil && *r.After == 0 {
			after = "kept"
		}
		fmt.Fprintf(&b, "| %s | %.2f | %s | %s |\n", r.Event, r.Gap, after, r.Path)
	}
	return b.String()
}

// eventRun is a pair with an echo between them, to which things happen.
type eventRun struct {
	t    *testing.T
	lab  *natlab.Lab
	a, b *roamer // b dials a
	all  []happening
}

// newEventRun starts a relay and a pair that knows each other, so that private
// addresses count wherever they are (PATH-14).
func newEventRun(t *testing.T, a, b natlab.Peer) *eventRun {
	t.Helper()
	a.Name, b.Name = "a", "b"
	var keys [2]ed25519.PrivateKey
	var names [2]string
	for i := range keys {
		public, private, err := ed25519.GenerateKey(nil)
		require.NoError(t, err)
		keys[i], names[i] = private, fmt.Sprintf("ed25519:%x", public)
	}
	lab := natlab.Start(t, natlab.Config{Public: []string{"relay"}, Peers: []natlab.Peer{a, b}, Link: natlab.Link{Delay: *roamDelay}, Required: *required})
	relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
	e := &eventRun{t: t, lab: lab}
	join := []string{relay.ready.Ticket}
	e.a = newRoamer(t, lab.Host("a"), roamConfig{Join: join, Seed: keys[0].Seed(), Known: names[1]})
	e.b = newRoamer(t, lab.Host("b"), roamConfig{Join: join, Seed: keys[1].Seed(), Known: names[0], Target: e.a.ready.Key})
	require.True(t, e.wait(func(p roamPath) bool { return p.Kind != "" }, 20*time.Second))
	if *netsEvents {
		time.Sleep(2 * time.Second) // what the dial began is over
	}
	return e
}

// wait waits for a path, and says whether it came.
func (e *eventRun) wait(want func(roamPath) bool, within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if want(e.b.path()) {
			return true
		}
	}
	return false
}

// do lets something happen, waits for the path that is wanted, and goes on for
// a while. It says whether the path came.
func (e *eventRun) do(name string, want func(roamPath) bool, event func() error) bool {
	e.t.Helper()
	const (
		first  = 500 * time.Millisecond // before which nothing old is believed
		within = 20 * time.Second
	)
	var settle time.Duration
	if *netsEvents {
		settle = 3 * time.Second
	}
	h := happening{name: name, begin: time.Now()}
	require.NoError(e.t, event(), name)
	time.Sleep(first)
	came := e.wait(want, within)
	h.took = max(0, e.b.path().At.Sub(h.begin))
	time.Sleep(settle)
	h.end = time.Now()
	e.all = append(e.all, h)
	e.t.Logf("%s: %v %s", name, came, e.b.path())
	return came
}

// end ends the echo and adds the rows.
func (e *eventRun) end(table *eventTable) {
	e.t.Helper()
	report := e.b.end()
	for _, h := range e.all {
		row := eventFigures{Event: h.name, Gap: h.longest(report.Gaps).Seconds()}
		last, since := e.b.directSince(h)
		if row.Path = last.String(); last.Kind == "direct" {
			// A path that is dead is said to be direct until that is noticed.
			for _, gap := range report.Gaps {
				noticed := gap.From.Add(noteGap)
				if noticed.After(h.begin) && noticed.Before(h.end) && gap.To.Sub(gap.From) > goodGap && gap.To.After(since) {
					since = gap.To
				}
			}
			after := max(h.took, since.Sub(h.begin)).Seconds()
			row.After = &after
		}
		table.rows = append(table.rows, row)
	}
	require.Empty(e.t, report.Errors)
	require.Greater(e.t, report.Echoes, 100)
}

// directSince is the path at the end of h, and since when there was no other
// kind.
func (r *roamer) directSince(h happening) (last roamPath, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.paths {
		if p.At.After(h.end) {
			break
		}
		if p.Kind != last.Kind {
			since = p.At
		}
		last = p
	}
	return last, since
}

// String leaves the port of an address out.
func (p roamPath) String() string {
	if addr, err := netip.ParseAddrPort(p.Addr); err == nil {
		return p.Kind + " " + addr.Addr().String()
	}
	if p.Kind == "direct" {
		return p.Kind + " " + p.Addr
	}
	return p.Kind
}

func isDirect(p roamPath) bool { return p.Kind == "direct" }

// What happens to networks beneath a running stream, as iroh's tests let it
// happen: uplinks change their family, a strict NAT is replaced, a faster link
// appears and goes, and a line gets worse by degrees. No stream fails (PATH-18,
// PATH-21). All events with -networks.events; a few without.
func TestPATH21NetworksChange(t *testing.T) {
	var table eventTable
	t.Run("uplink", func(t *testing.T) { changeUplinks(t, &table) })
	t.Run("faster link", func(t *testing.T) {
		e := newEventRun(t, natlab.Peer{}, natlab.Peer{})
		require.True(t, e.wait(isDirect, 20*time.Second))
		private := func(p roamPath) bool {
			addr, err := netip.ParseAddrPort(p.Addr)
			return isDirect(p) && err == nil && addr.Addr().IsPrivate()
		}
		require.True(t, e.do("a faster link appears", private, func() error { return e.lab.Connect("a", "b") }))
		require.True(t, e.do("the faster link goes", func(p roamPath) bool { return isDirect(p) && !private(p) },
			func() error { return e.lab.Disconnect("a", "b") }))
		e.end(&table)
	})
	if *netsEvents {
		t.Run("strict NAT", func(t *testing.T) { replaceNATs(t, &table) })
		t.Run("other ports", func(t *testing.T) {
			e := newEventRun(t, natlab.Peer{}, natlab.Peer{})
			require.True(t, e.wait(isDirect, 20*time.Second))
			e.do("the dialled one's NAT gives other ports", isDirect, func() error { return e.lab.NATRemap("a") })
			e.do("the dialler's NAT gives other ports", isDirect, func() error { return e.lab.NATRemap("b") })
			e.end(&table)
		})
		t.Run("degraded", func(t *testing.T) { degrade(t, &table) })
		t.Run("relay of one family", func(t *testing.T) { relayOfOneFamily(t, &table) })
	}
	t.Logf("\n%s", &table)
	if *netsJSON != "" && *netsEvents {
		text, err := json.MarshalIndent(table.rows, "", "\t")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(*netsJSON, append(text, '\n'), 0o600))
	}
}

// changeUplinks moves each side between networks of IPv4, IPv6 and both, while
// the other side has both. So many changes in a row do not use up the
// connections that the relay lets one peer have.
func changeUplinks(t *testing.T, table *eventTable) {
	t.Helper()
	four, six, dual := natlab.Peer{}, natlab.Peer{Kind: natlab.IPv6Firewalled}, natlab.Peer{IPv6: true}
	e := newEventRun(t, dual, dual)
	require.True(t, e.wait(isDirect, 20*time.Second))
	sides := []struct{ host, name string }{{"b", "dialler"}, {"a", "dialled"}}
	steps := []struct {
		name string
		to   natlab.Peer
	}{
		{"IPv4 and IPv6 to IPv4", four},
		{"IPv4 to IPv6", six},
		{"IPv6 to both", dual},
		{"both to IPv6", six},
		{"IPv6 to IPv4", four},
		{"IPv4 to both", dual},
	}
	for _, side := range sides {
		for _, step := range steps {
			came := e.do(side.name+": "+step.name, isDirect, func() error { return e.lab.Move(side.host, step.to) })
			require.True(t, came || *netsEvents, "not direct again")
		}
	}
	e.end(table)
}

// replaceNATs plugs strict homes into moderate routers and back.
func replaceNATs(t *testing.T, table *eventTable) {
	t.Helper()
	strict, moderate := natlab.Peer{Kind: natlab.Symmetric}, natlab.Peer{}
	e := newEventRun(t, strict, strict)
	relayed := func(p roamPath) bool { return p.Kind == "relayed" }
	e.do("dialled one: strict to moderate NAT, the other strict", isDirect, func() error { return e.lab.Move("a", moderate) })
	e.do("dialler: strict to moderate NAT, the other moderate", isDirect, func() error { return e.lab.Move("b", moderate) })
	e.do("dialler: moderate to strict NAT, the other moderate", isDirect, func() error { return e.lab.Move("b", strict) })
	e.do("dialled one: moderate to strict NAT, the other strict", relayed, func() error { return e.lab.Move("a", strict) })
	e.end(table)
}

// degrade makes the line of the dialled one worse, by steps, in one respect
// after the other.
func degrade(t *testing.T, table *eventTable) {
	t.Helper()
	e := newEventRun(t, natlab.Peer{}, natlab.Peer{})
	require.True(t, e.wait(isDirect, 20*time.Second))
	good := natlab.Link{Delay: *roamDelay}
	step := func(name string, change func(*natlab.Link)) {
		link := good
		change(&link)
		e.do(name, isDirect, func() error { return e.lab.SetLink("a", link) })
	}
	for _, rate := range []int64{20, 5, 1} {
		step(fmt.Sprintf("%d Mbit/s", rate), func(l *natlab.Link) { l.Rate = rate * 1_000_000 })
	}
	for _, ms := range []int{25, 50, 100, 200} {
		step(fmt.Sprintf("%d ms one way", ms), func(l *natlab.Link) { l.Delay = time.Duration(ms) * time.Millisecond })
	}
	for _, ms := range []int{10, 50, 100} {
		step(fmt.Sprintf("jitter up to %d ms", ms), func(l *natlab.Link) { l.Jitter = time.Duration(ms) * time.Millisecond })
	}
	for _, loss := range []float64{0.01, 0.05, 0.1, 0.2} {
		step(fmt.Sprintf("loss of %.0f %%, each way", loss*100), func(l *natlab.Link) { l.Loss = loss })
	}
	step("1 Mbit/s, 100 ms, jitter 30 ms, loss 3 %", func(l *natlab.Link) {
		*l = natlab.Link{Rate: 1_000_000, Delay: 100 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.03}
	})
	step("good again", func(*natlab.Link) {})
	e.end(table)
}

// relayOfOneFamily dials over a relay that has IPv4 only, or IPv6 only.
func relayOfOneFamily(t *testing.T, table *eventTable) {
	t.Helper()
	four, six, dual := natlab.Peer{}, natlab.Peer{Kind: natlab.IPv6Firewalled}, natlab.Peer{IPv6: true}
	relay4 := natlab.Peer{Name: "relay", Kind: natlab.None, NoIPv6: true}
	relay6 := natlab.Peer{Name: "relay", Kind: natlab.None, NoIPv4: true}
	for _, c := range []struct {
		name        string
		relay, a, b natlab.Peer
	}{
		{"relay of IPv4 only: both have both", relay4, dual, dual},
		{"relay of IPv4 only: both have IPv4", relay4, four, four},
		{"relay of IPv4 only: IPv4 dials both", relay4, dual, four},
		{"relay of IPv6 only: both have both", relay6, dual, dual},
		{"relay of IPv6 only: both have IPv6", relay6, six, six},
		{"relay of IPv6 only: IPv6 dials both", relay6, dual, six},
		{"relay of both: IPv4 dials IPv6", natlab.Peer{Name: "relay", Kind: natlab.None}, six, four},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.a.Name, c.b.Name = "a", "b"
			lab := natlab.Start(t, natlab.Config{Peers: []natlab.Peer{c.relay, c.a, c.b}, Link: natlab.Link{Delay: *roamDelay}, Required: *required})
			relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
			join := []string{relay.ready.Ticket}
			a := newRoamer(t, lab.Host("a"), roamConfig{Join: join})
			d := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Dial: true, Target: a.ready.Key, PeerID: a.ready.PeerID}).dialled()
			row := eventFigures{Event: c.name, Gap: d.First.Seconds(), Path: "relayed"}
			if after := d.Direct.Seconds(); d.Direct > 0 {
				row.After, row.Path = &after, "direct"
			}
			t.Logf("first byte %s, direct %s", d.First, d.Direct)
			table.rows = append(table.rows, row)
		})
	}
}
