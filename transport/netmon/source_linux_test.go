package netmon

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// patience is how long a change that must come may take.
const patience = 5 * time.Second

// watched is a Monitor in a host of a lab.
type watched struct {
	*Monitor
	t *testing.T
}

func watchHost(t *testing.T, h *natlab.Host) *watched {
	t.Helper()
	m := New(Config{})
	require.NoError(t, h.Do(func() error { return m.Start(t.Context()) }))
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return &watched{m, t}
}

// next makes something happen and returns the change that follows, and how
// long after.
func (w *watched) next(event func() error) (Change, time.Duration) {
	w.t.Helper()
	require.NoError(w.t, event())
	begin := time.Now()
	select {
	case c := <-w.Changes():
		return c, time.Since(begin)
	case <-time.After(patience):
		w.t.Fatal("nothing reported")
		return Change{}, 0
	}
}

// quiet waits until nothing more is reported, and checks that there is eth0.
func (w *watched) quiet() Interface {
	w.t.Helper()
	for {
		select {
		case <-w.Changes():
		case <-time.After(4 * settleTime):
			for _, i := range w.State().Interfaces {
				if i.Name == "eth0" {
					return i
				}
			}
			w.t.Fatal("no eth0")
		}
	}
}

func addrs(i Interface) (out []netip.Addr) {
	for _, p := range i.Addrs {
		if matters(p) {
			out = append(out, p.Addr())
		}
	}
	return out
}

func TestPATH21InNamespace(t *testing.T) {
	lab := natlab.Start(t, natlab.Config{
		Public:   []string{"one"},
		Peers:    []natlab.Peer{{Name: "a", IPv6: true}, {Name: "b"}},
		Required: *required,
	})
	a := lab.Host("a")
	w := watchHost(t, a)
	bystander := watchHost(t, lab.Host("b"))
	bystander.quiet()
	eth := w.quiet()
	require.True(t, eth.Up)
	require.True(t, eth.Default4)
	require.True(t, eth.Default6)
	require.ElementsMatch(t, []netip.Addr{a.Addr(), a.Addr6()}, addrs(eth))

	// Changes are reported within 200 ms: the machine may be busy at one of
	// them, but not at all.
	best := patience
	for range 5 {
		old := a.Addr()
		c, took := w.next(func() error { return lab.NewLAN("a") })
		best = min(best, took)
		require.True(t, c.Major)
		require.Contains(t, c.Reason, old.String())
		require.ElementsMatch(t, []netip.Addr{a.Addr(), a.Addr6()}, addrs(w.quiet()))
	}
	t.Logf("reported after %v", best)
	require.Less(t, best, 200*time.Millisecond)

	c, _ := w.next(func() error { return lab.Unplug("a", 0) })
	require.True(t, c.Major)
	require.Contains(t, c.Reason, "no way out for IPv4")
	eth = w.quiet()
	require.False(t, eth.Up)
	require.False(t, eth.Default4)
	require.False(t, eth.Default6)

	c, _ = w.next(func() error { return lab.Plug("a") })
	require.True(t, c.Major)
	eth = w.quiet()
	require.True(t, eth.Up)
	require.True(t, eth.Default4)

	// Down and up again, perhaps within one look.
	c, _ = w.next(func() error {
		if err := lab.Unplug("a", 0); err != nil {
			return err
		}
		return lab.Plug("a")
	})
	require.True(t, c.Major)
	w.quiet()

	c, _ = w.next(func() error { return lab.Move("a", natlab.Peer{Kind: natlab.Symmetric}) })
	require.True(t, c.Major)
	require.Equal(t, []netip.Addr{a.Addr()}, addrs(w.quiet()))

	// What happens behind the NAT cannot be seen, nor what happens to others.
	require.NoError(t, lab.NewIP("a"))
	select {
	case c := <-w.Changes():
		t.Errorf("reported without cause: %q", c.Reason)
	case c := <-bystander.Changes():
		t.Errorf("reported for another: %q", c.Reason)
	case <-time.After(4 * settleTime):
	}
}

// The portable source sees what netlink sees, but for the gateways.
func TestSourcesAgree(t *testing.T) {
	lab := natlab.Start(t, natlab.Config{
		Peers:    []natlab.Peer{{Name: "a", IPv6: true}},
		Required: *required,
	})
	require.NoError(t, lab.Host("a").Do(func() error {
		k, err := openKernel()
		if err != nil {
			return err
		}
		defer k.close()
		defer k.stop()
		want, err := k.read()
		if err != nil {
			return err
		}
		got, err := newPoll().read()
		if err != nil {
			return err
		}
		// Link-local addresses are still being made, and checked.
		linkLocal := func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() }
		for _, s := range []State{want, got} {
			for i := range s.Interfaces {
				ifi := &s.Interfaces[i]
				ifi.gateway4, ifi.gateway6 = netip.Addr{}, netip.Addr{}
				ifi.Addrs = slices.DeleteFunc(ifi.Addrs, linkLocal)
			}
		}
		require.Equal(t, want, got)
		require.Len(t, got.Interfaces, 2)
		return nil
	}))
}

// The kernel reports a link that is lost for so short a time that no state
// shows it.
func TestPATH21LostLink(t *testing.T) {
	require.Zero(t, lostLink(nil))
	require.Zero(t, lostLink([]byte("no netlink message")))

	lab := natlab.Start(t, natlab.Config{Peers: []natlab.Peer{{Name: "a"}}, Required: *required})
	require.NoError(t, lab.Host("a").Do(func() error {
		k, err := openKernel()
		if err != nil {
			return err
		}
		defer k.close()
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		lost := make(chan int, 1)
		go func() {
			defer close(lost)
			k.watch(func(down int) bool {
				if down != 0 {
					lost <- down
				}
				return down == 0
			})
		}()
		defer k.stop()
		require.NoError(t, netlink.LinkSetDown(eth))
		require.NoError(t, netlink.LinkSetUp(eth))
		select {
		case down := <-lost:
			require.Equal(t, eth.Attrs().Index, down)
		case <-time.After(patience):
			t.Error("nothing reported")
		}
		return nil
	}))
}

// Stopping wakes a watch that waits.
func TestKernelStops(t *testing.T) {
	k, err := openKernel()
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.watch(func(int) bool { return true })
	}()
	k.stop()
	<-ended
	k.close()
}
