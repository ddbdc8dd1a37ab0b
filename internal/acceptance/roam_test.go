//go:build linux

package acceptance

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var (
	roamNode  = flag.String("roam.node", "", "be a node of a roaming test, with this configuration (for the test itself)")
	roamDelay = flag.Duration("roam.delay", 6*time.Millisecond, "of every cable")
	roamRate  = flag.Int("roam.rate", 20_000_000, "bits per second of the transfer")
	roamBytes = flag.Int64("roam.bytes", 0, "least size of the transfer; it lasts as long as the events")
	roamOnly  = flag.String("roam.only", "", "regular expression of the events to let happen; all by default")
	roamGap   = flag.Duration("roam.gap", 0, "longest gap between echoes that is no failure, a second after the dark at least; 0 for any")
	roamLogs  = flag.String("roam.logs", "", "folder in which to leave the nodes' logs")
)

// roamer is a running program of roamer_test.go.
type roamer struct {
	t     *testing.T
	ready roamReady
	host  *natlab.Host
	stdin io.WriteCloser
	log   string
	done  chan struct{}
	err   error
	proc  *os.Process
	errs  *syncBuffer

	mu     sync.Mutex
	paths  []roamPath
	report *roamReport
	took   *dialled
	held   []holding
}

func newRoamer(t *testing.T, host *natlab.Host, cfg roamConfig) *roamer {
	t.Helper()
	dir := *roamLogs
	if dir == "" {
		dir = t.TempDir()
	}
	r := &roamer{t: t, host: host, log: filepath.Join(dir, host.Name()+".log"), done: make(chan struct{})}
	cfg.Log = r.log
	text, err := json.Marshal(cfg)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := host.Command(context.Background(), self, "-roam.node="+string(text))
	errs := &syncBuffer{}
	r.errs, cmd.Stderr = errs, errs
	r.stdin, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r.proc = cmd.Process
	ready := make(chan struct{})
	go func() {
		defer close(r.done)
		for dec := json.NewDecoder(out); ; {
			var line roamLine
			if dec.Decode(&line) != nil {
				break
			}
			r.mu.Lock()
			switch {
			case line.Ready != nil:
				r.ready = *line.Ready
				close(ready)
			case line.Path != nil:
				r.paths = append(r.paths, *line.Path)
			case line.Report != nil:
				r.report = line.Report
			case line.Load != nil:
				r.held = append(r.held, *line.Load)
			case line.Dialled != nil:
				r.took = line.Dialled
			}
			r.mu.Unlock()
		}
		r.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-r.done
		if t.Failed() {
			t.Logf("%s: %v %s", host.Name(), r.err, errs)
		}
	})
	select {
	case <-ready:
	case <-r.done:
		if cfg.Dial {
			break
		}
		t.Fatalf("%s did not start: %v %s", host.Name(), r.err, errs)
	}
	return r
}

// end lets the program finish and returns its report.
func (r *roamer) end() *roamReport {
	r.t.Helper()
	require.NoError(r.t, r.stdin.Close())
	select {
	case <-r.done:
	case <-time.After(2 * time.Minute):
		r.t.Fatalf("%s does not end", r.host.Name())
	}
	require.NoError(r.t, r.err)
	require.NotNil(r.t, r.report)
	return r.report
}

func (r *roamer) signal(s os.Signal) error { return r.proc.Signal(s) }

// path is the present path.
func (r *roamer) path() roamPath {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.paths) == 0 {
		return roamPath{}
	}
	return r.paths[len(r.paths)-1]
}

// waitPath waits until the path is of a kind, and says whether it came to be.
func (r *roamer) waitPath(kind string, within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r.path().Kind == kind {
			return true
		}
	}
	return false
}

// goodGap is the longest pause between echoes that nobody notices.
const goodGap = 300 * time.Millisecond

// happening is one event and what came of it.
type happening struct {
	name  string
	begin time.Time     // of the event, or of its end if that is what counts
	end   time.Time     // of the time in which its effects are looked for
	path  string        // at that time
	lab   time.Duration // that the lab needed to make it happen
	took  time.Duration // until the path was as it should be
}

// longest is the longest pause in the time of h. One counts where it was first
// noticed; of one that had begun earlier only the rest counts.
func (h happening) longest(pauses []span) time.Duration {
	var d time.Duration
	for _, p := range pauses {
		from := p.From
		switch noticed := from.Add(noteGap); {
		case p.To.Before(h.begin), !noticed.Before(h.end):
			continue
		case noticed.Before(h.begin):
			from = h.begin
		}
		d = max(d, p.To.Sub(from))
	}
	return d
}

// table writes the events down.
func table(r *roamReport, all []happening) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nevent\tlongest gap\tof it not run\tlab took\tpath again after\tpath at the end")
	for _, h := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", h.name, h.longest(r.Gaps).Round(time.Millisecond),
			h.longest(r.Stalls).Round(time.Millisecond), h.lab.Round(time.Millisecond), h.took.Round(10*time.Millisecond), h.path)
	}
	w.Flush()
	return b.String()
}

// Nothing breaks: one connection with a transfer and an echo outlives whatever
// happens beneath it (PATH-18, PATH-21).
func TestPATH18NothingBreaks(t *testing.T) {
	lab := newLab(t, []string{"relay"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.PortRestricted})
	link := natlab.Link{Delay: *roamDelay}
	small := link
	small.MTU = 1300
	hole := small
	hole.BlackHole = true
	for _, name := range []string{"relay", "a", "b"} {
		require.NoError(t, lab.SetLink(name, link))
	}
	relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
	join := []string{relay.ready.Ticket}
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: join})
	b := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Target: a.ready.Key, Rate: *roamRate, Bytes: *roamBytes})

	const (
		settle = 2500 * time.Millisecond // for the effects of an event
		within = 6 * time.Second         // for the path to be as it should
		dark   = 5 * time.Second         // of the uplink
		delay  = 300 * time.Millisecond  // of the first look at the path
	)
	only := regexp.MustCompile(*roamOnly)
	var all []happening
	// do lets something happen and waits for the kind of path that follows.
	do := func(name, want string, event func() error) {
		t.Helper()
		if len(all) > 0 && !only.MatchString(name) {
			return
		}
		h := happening{name: name, begin: time.Now()}
		require.NoError(t, event())
		h.lab = time.Since(h.begin)
		time.Sleep(delay)
		b.waitPath(want, within)
		h.took = time.Since(h.begin)
		if rest := settle - h.took; rest > 0 {
			time.Sleep(rest)
		}
		h.end = time.Now()
		h.path = b.path().Kind + " " + b.path().Addr
		all = append(all, h)
	}
	lasting := func(d time.Duration) func() error {
		return func() error {
			time.Sleep(d)
			return nil
		}
	}

	require.True(t, b.waitPath("direct", 5*time.Second), "not direct at first")
	do("direct", "direct", lasting(0))
	do("direct way cut", "relayed", func() error { return lab.Cut("a", "b", 0) })
	do("new address while cut", "relayed", func() error { return lab.NewIP("b") })
	do("mended: other address", "direct", func() error { return lab.Mend("a", "b") })
	do("NAT reset", "direct", func() error { return lab.NATReset("a") })
	do("new LAN address", "direct", func() error { return lab.NewLAN("b") })
	do("new public address", "direct", func() error { return lab.NewIP("a") })
	do("MTU 1300", "direct", func() error { return lab.SetLink("a", small) })
	do("MTU back", "direct", func() error { return lab.SetLink("a", link) })
	do("MTU 1300, black hole", "direct", func() error { return lab.SetLink("a", hole) })
	do("black hole gone", "direct", func() error { return lab.SetLink("a", link) })
	do("deaf", "relayed", func() error { return lab.CutOneWay("a", "b", 0) })
	do("hears again", "direct", func() error { return lab.Mend("a", "b") })
	do("mute", "relayed", func() error { return lab.CutOneWay("b", "a", 0) })
	do("heard again", "direct", func() error { return lab.Mend("a", "b") })
	if only.MatchString("light") {
		require.NoError(t, lab.Dark("a", 0))
		time.Sleep(dark)
	}
	do("light after 5 s", "direct", func() error { return lab.Light("a") })

	report := b.end()
	b.tell(report, all)
	require.Empty(t, report.Errors)
	require.True(t, report.SumOK)
	require.Greater(t, report.Echoes, 1000)
	for _, h := range all {
		bound := *roamGap
		if strings.HasPrefix(h.name, "light") { // nothing lived on through the dark
			bound = max(bound, time.Second)
		}
		if gap := h.longest(report.Gaps); *roamGap > 0 && gap > bound {
			t.Errorf("%s: gap of %s", h.name, gap)
		}
	}
}

// The home relay that carries everything dies, by SIGKILL, as a black hole, for
// one of the peers alone, by losing the frames of one peer while its links stay
// up, or in order (PATH-27): the other home takes over (PATH-28, PATH-29).
func TestPATH28RelayDeath(t *testing.T) {
	const settle = 5 * time.Second
	for _, death := range []struct {
		name  string
		bound time.Duration
		event func(lab *natlab.Lab, relay, a *roamer) error
	}{
		{"SIGKILL", 2 * time.Second, func(lab *natlab.Lab, relay, _ *roamer) error { return lab.Kill(relay.host.Name()) }},
		{"black hole", 3 * time.Second, func(lab *natlab.Lab, relay, _ *roamer) error { return lab.Dark(relay.host.Name(), 0) }},
		{"black hole for one peer", 3 * time.Second, func(lab *natlab.Lab, relay, _ *roamer) error { return lab.Cut("a", relay.host.Name(), 0) }},
		{"frames of one peer lost", 3 * time.Second, func(_ *natlab.Lab, relay, a *roamer) error {
			_, err := fmt.Fprintln(relay.stdin, a.ready.PeerID)
			return err
		}},
		{"SIGTERM", goodGap, func(_ *natlab.Lab, relay, _ *roamer) error { return relay.signal(syscall.SIGTERM) }},
	} {
		t.Run(death.name, func(t *testing.T) {
			lab := newLab(t, []string{"one", "two"},
				natlab.Peer{Name: "a", Kind: natlab.Symmetric},
				natlab.Peer{Name: "b", Kind: natlab.Symmetric})
			forgetful := strings.HasPrefix(death.name, "frames")
			one := newRoamer(t, lab.Host("one"), roamConfig{Relay: true, Forget: forgetful})
			two := newRoamer(t, lab.Host("two"), roamConfig{Relay: true, Forget: forgetful, Join: []string{one.ready.Ticket}})
			join := []string{one.ready.Ticket, two.ready.Ticket}
			a := newRoamer(t, lab.Host("a"), roamConfig{Join: join})
			b := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Target: a.ready.Key})
			require.True(t, b.waitPath("relayed", settle))
			time.Sleep(settle) // both homes are up and known by then
			carrier := one
			if b.path().Addr == two.ready.PeerID {
				carrier = two
			}
			require.Equal(t, carrier.ready.PeerID, b.path().Addr)
			h := happening{name: death.name, begin: time.Now()}
			require.NoError(t, death.event(lab, carrier, a))
			time.Sleep(settle)
			h.end, h.took = time.Now(), b.path().At.Sub(h.begin)
			h.path = b.path().Kind + " " + b.path().Addr
			report := b.end()
			b.tell(report, []happening{h})
			require.Empty(t, report.Errors)
			require.Greater(t, report.Echoes, 100)
			require.LessOrEqual(t, h.longest(report.Gaps)-h.longest(report.Stalls), death.bound)
			// A dial made now works at once, and needs neither the relay nor whoever
			// this network was joined through.
			fresh := time.Now()
			c := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Target: a.ready.Key})
			require.True(t, c.waitPath("relayed", settle))
			t.Logf("another node started and had dialled after %s", time.Since(fresh))
			require.Empty(t, c.end().Errors)
		})
	}
}

// tell logs what happened.
func (r *roamer) tell(report *roamReport, all []happening) {
	r.t.Helper()
	r.t.Log(table(report, all))
	r.t.Logf("%d echoes, %d bytes in %s (%.0f Mbit/s), sum right: %t, errors: %v", report.Echoes, report.Bytes,
		report.Took.Round(time.Millisecond), float64(report.Bytes)*8e-6/max(report.Took.Seconds(), 1e-3), report.SumOK, report.Errors)
	for _, g := range report.Gaps {
		if d := g.To.Sub(g.From); d > goodGap {
			r.t.Logf("%s gap of %s", g.From.Format(time.StampMilli), d.Round(time.Millisecond))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.paths {
		r.t.Logf("%s %s %s", p.At.Format(time.StampMilli), p.Kind, p.Addr)
	}
}

// PATH-2: an ordinary go-libp2p program with our one option has the paths our
// nodes have. Its own stream to a node of ours lives through the loss of the
// direct path, the way back to it, another address and a rebooted NAT.
func TestPATH2StockProgramHasSeamlessPaths(t *testing.T) {
	lab := newLab(t, []string{"relay"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.PortRestricted})
	link := natlab.Link{Delay: *roamDelay}
	for _, name := range []string{"relay", "a", "b"} {
		require.NoError(t, lab.SetLink(name, link))
	}
	relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: []string{relay.ready.Ticket}})
	b := newRoamer(t, lab.Host("b"), roamConfig{Option: a.ready.Ticket, Rate: *roamRate})
	const within = 6 * time.Second
	require.True(t, b.waitPath("direct", within), "not direct at first")
	var all []happening
	do := func(name, want string, event func() error) {
		t.Helper()
		h := happening{name: name, begin: time.Now()}
		require.NoError(t, event())
		h.lab = time.Since(h.begin)
		time.Sleep(goodGap)
		require.True(t, b.waitPath(want, within), name)
		h.took = time.Since(h.begin)
		time.Sleep(time.Second)
		h.end = time.Now()
		h.path = b.path().Kind + " " + b.path().Addr
		all = append(all, h)
	}
	do("direct way cut", "relayed", func() error { return lab.Cut("a", "b", 0) })
	do("mended", "direct", func() error { return lab.Mend("a", "b") })
	do("new public address", "direct", func() error { return lab.NewIP("b") })
	do("NAT reset", "direct", func() error { return lab.NATReset("a") })
	report := b.end()
	b.tell(report, all)
	require.Empty(t, report.Errors)
	require.True(t, report.SumOK)
	require.Greater(t, report.Echoes, 300)
}
