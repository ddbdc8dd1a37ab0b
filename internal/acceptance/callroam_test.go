//go:build linux

package acceptance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// What a program of roamer_test.go does with calls (roamConfig.Calls).
const (
	callsServe = "serve" // serve them
	callsRoam  = "roam"  // a long call, a subscription and many short calls, until standard input ends
	callsLose  = "lose"  // a long call and a subscription, until both have ended
)

// callEvery is the time between short calls, and between values.
const callEvery = 20 * time.Millisecond

// callNode runs a started node until it is done.
func callNode(ctx context.Context, n *node.Node, cfg roamConfig, ended <-chan struct{}, out *lines) error {
	if cfg.Calls == callsServe {
		<-ended
		return nil
	}
	dial, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	s, err := n.CallSession(dial, cfg.Target)
	if err != nil {
		return err
	}
	c := caller{s: s, ended: ended, begun: make(chan struct{})}
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select { // the test waits for a path before it breaks one
		case <-c.begun:
		case <-over:
		}
		look := func() (kind, addr string) {
			for _, s := range n.Status().Sessions {
				if s.ALPN == call.ALPN {
					return s.Path, s.Addr
				}
			}
			return "", ""
		}
		watchPath(look, over, func(p roamPath) { _ = out.tell(roamLine{Path: &p}) })
	})
	if cfg.Calls == callsRoam {
		c.roam(ctx)
	} else {
		c.lose(ctx)
	}
	close(over)
	watch.Wait()
	c.report.Gaps = c.calls.long
	return out.tell(roamLine{Report: &c.report})
}

// roamOperations are what the serving program offers: values for ever, and a
// call that ends when another one says so.
func roamOperations() []call.Operation {
	released := make(chan struct{})
	return []call.Operation{
		{
			Spec: call.Spec{Name: "roam/ticks", Type: call.OpSubscription},
			Stream: call.StreamHandlerFunc(func(ctx context.Context, _ *call.Request, emit func(any) error) error {
				tick := time.NewTicker(callEvery)
				defer tick.Stop()
				for i := 0; ; i++ {
					select {
					case <-tick.C:
					case <-ctx.Done():
						return context.Cause(ctx)
					}
					if err := emit(i); err != nil {
						return err
					}
				}
			}),
		},
		{
			Spec: call.Spec{Name: "roam/hold"},
			Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
				select {
				case <-released:
					return r.Input, nil
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}),
		},
		{
			Spec: call.Spec{Name: "roam/release", Type: call.OpMutation},
			Handler: call.HandlerFunc(func(context.Context, *call.Request) (any, error) {
				close(released)
				return nil, nil
			}),
		},
	}
}

// caller is the program that calls.
type caller struct {
	s     *call.Session
	ended <-chan struct{}
	begun chan struct{} // closed at the first value
	calls pauses

	mu     sync.Mutex
	report roamReport // Echoes are short calls, Bytes are values
}

func (c *caller) fail(what string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Errors = append(c.report.Errors, what+": "+err.Error())
}

// hold makes the long call, under its longest deadline.
func (c *caller) hold(ctx context.Context) {
	output, err := c.s.Call(ctx, "roam/hold", "held", call.WithTimeout(5*time.Minute))
	if err == nil && string(output) != `"held"` {
		err = fmt.Errorf("answered %s", output)
	}
	if err != nil {
		c.fail("call", err)
	}
}

// subscribe takes values, one after the other, until stop is closed.
func (c *caller) subscribe(ctx context.Context, stop <-chan struct{}) {
	want := 0
	for value, err := range call.Subscribe[int](ctx, c.s, "roam/ticks", nil) {
		if err == nil && value != want {
			err = errors.New("value " + strconv.Itoa(value) + ", not " + strconv.Itoa(want))
		}
		if err != nil {
			c.fail("subscription", err)
			return
		}
		if want++; want == 1 {
			close(c.begun)
		}
		c.mu.Lock()
		c.report.Bytes++
		c.mu.Unlock()
		select {
		case <-stop:
			return
		default:
		}
	}
}

// roam keeps the long call, the subscription and short calls going.
func (c *caller) roam(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.hold(ctx) })
	wg.Go(func() { c.subscribe(ctx, c.ended) })
	for i := 0; ; i++ {
		select {
		case <-time.After(callEvery):
		case <-c.ended:
			if _, err := c.s.Call(ctx, "roam/release", nil); err != nil {
				c.fail("release", err)
			}
			wg.Wait()
			return
		}
		output, err := c.s.Call(ctx, "node/echo", i)
		if err == nil && string(output) != strconv.Itoa(i) {
			err = fmt.Errorf("echo of %d is %s", i, output)
		}
		if err != nil {
			c.fail("short call", err)
			continue
		}
		c.calls.beat(time.Now())
		c.report.Echoes++
	}
}

// lose waits for the ends of a call and a subscription whose session is lost.
func (c *caller) lose(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.hold(ctx) })
	wg.Go(func() { c.subscribe(ctx, nil) })
	wg.Wait()
}

// A call, a subscription and many short calls go on, without an error, through
// every change of path there is.
func TestCallsOutliveChangesOfPath(t *testing.T) {
	lab := newLab(t, []string{"one", "two"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.PortRestricted})
	link := natlab.Link{Delay: 6 * time.Millisecond}
	hole := link
	hole.MTU, hole.BlackHole = 1300, true
	for _, name := range []string{"one", "two", "a", "b"} {
		require.NoError(t, lab.SetLink(name, link))
	}
	one := newRoamer(t, lab.Host("one"), roamConfig{Relay: true})
	two := newRoamer(t, lab.Host("two"), roamConfig{Relay: true, Join: []string{one.ready.Ticket}})
	join := []string{one.ready.Ticket, two.ready.Ticket}
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: join, Calls: callsServe})
	b := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Target: a.ready.Key, Calls: callsRoam})
	require.True(t, b.waitPath("direct", 10*time.Second), "not direct at first")

	const settle, within = 2 * time.Second, 10 * time.Second
	var all []happening
	do := func(name, want string, event func() error) {
		t.Helper()
		h := happening{name: name, begin: time.Now()}
		require.NoError(t, event())
		h.lab = time.Since(h.begin)
		time.Sleep(300 * time.Millisecond) // for the change to be noticed at all
		require.True(t, b.waitPath(want, within), "%s: the path is not %s", name, want)
		h.took = time.Since(h.begin)
		time.Sleep(max(0, settle-h.took)) // calls go on
		h.end, h.path = time.Now(), b.path().Kind+" "+b.path().Addr
		all = append(all, h)
	}
	do("direct way cut", "relayed", func() error { return lab.Cut("a", "b", 0) })
	do("new address while cut", "relayed", func() error { return lab.NewIP("b") })
	do("mended", "direct", func() error { return lab.Mend("a", "b") })
	do("NAT reset", "direct", func() error { return lab.NATReset("a") })
	do("new LAN address", "direct", func() error { return lab.NewLAN("b") })
	do("new public address", "direct", func() error { return lab.NewIP("a") })
	do("MTU 1300, black hole", "direct", func() error { return lab.SetLink("a", hole) })
	do("MTU back", "direct", func() error { return lab.SetLink("a", link) })
	do("deaf", "relayed", func() error { return lab.CutOneWay("a", "b", 0) })
	do("hears again", "direct", func() error { return lab.Mend("a", "b") })
	require.NoError(t, lab.Dark("a", 0))
	time.Sleep(5 * time.Second) // without any way at all
	do("light after 5 s", "direct", func() error { return lab.Light("a") })
	do("cut again", "relayed", func() error { return lab.Cut("a", "b", 0) })
	carrier := "one"
	if b.path().Addr == two.ready.PeerID {
		carrier = "two"
	}
	do("its relay killed", "relayed", func() error { return lab.Kill(carrier) })

	report := b.end()
	t.Log(table(report, all))
	t.Logf("%d short calls, %d values", report.Echoes, report.Bytes)
	require.Empty(t, report.Errors)
	require.Greater(t, report.Echoes, 200)
	require.Greater(t, report.Bytes, int64(500))
}

// CALL-46: a session whose peer is gone for good ends a call and a subscription
// with the error that says so, and leaves neither hanging.
func TestCALL46LostSessionEndsCalls(t *testing.T) {
	for _, loss := range []struct {
		name  string
		event func(*natlab.Lab) error
	}{
		{"SIGKILL", func(lab *natlab.Lab) error { return lab.Kill("a") }},
		{"dark", func(lab *natlab.Lab) error { return lab.Dark("a", 0) }},
	} {
		t.Run(loss.name, func(t *testing.T) {
			lab := newLab(t, []string{"relay"},
				natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
				natlab.Peer{Name: "b", Kind: natlab.PortRestricted})
			relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
			join := []string{relay.ready.Ticket}
			a := newRoamer(t, lab.Host("a"), roamConfig{Join: join, Calls: callsServe})
			b := newRoamer(t, lab.Host("b"), roamConfig{Join: join, Target: a.ready.Key, Calls: callsLose})
			require.True(t, b.waitPath("direct", 10*time.Second))
			begin := time.Now()
			require.NoError(t, loss.event(lab))
			select {
			case <-b.done:
			case <-time.After(time.Minute):
				t.Fatal("what waits for a lost peer waits for ever")
			}
			t.Logf("ended after %s", time.Since(begin).Round(time.Millisecond))
			require.NoError(t, b.err)
			require.ElementsMatch(t, []string{"call: INTERNAL: connection closed", "subscription: INTERNAL: connection closed"}, b.report.Errors)
			require.Positive(t, b.report.Bytes)
		})
	}
}
