//go:build linux

package acceptance

import (
	"crypto/rand"
	"flag"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var (
	soakFor  = flag.Duration("soak", 0, "how long to soak; 0: not at all")
	soakSeed = flag.Uint64("soak.seed", 0, "of the events; 0: a new one, which is printed")
)

// For as long as -soak says the network changes at random beneath transfers
// and echoes of four peers, and relays are killed and started again: no stream
// fails, every sum is right, and nothing grows. `make soak` runs it.
func TestSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("make soak")
	}
	seed := *soakSeed
	for seed == 0 {
		seed = mrand.Uint64()
	}
	t.Logf("-soak.seed=%d", seed)
	random := mrand.New(mrand.NewPCG(seed, 0))

	kinds := map[string]natlab.Kind{"a": natlab.PortRestricted, "b": natlab.PortRestricted, "c": natlab.Symmetric, "d": natlab.CGNAT}
	names := slices.Sorted(maps.Keys(kinds))
	var peers []natlab.Peer
	for _, name := range names {
		peers = append(peers, natlab.Peer{Name: name, Kind: kinds[name]})
	}
	link := natlab.Link{Delay: *roamDelay}
	lab := natlab.Start(t, natlab.Config{Public: []string{"one", "two"}, Peers: peers, Link: link, Required: *required})

	relays := []string{"one", "two"}
	seeds := map[string][]byte{}
	join := []string{}
	start := func(name string) *roamer {
		return newRoamer(t, lab.Host(name), roamConfig{Relay: true, Join: join, Seed: seeds[name]})
	}
	for _, name := range relays {
		seeds[name] = make([]byte, 32)
		rand.Read(seeds[name])
		join = append(join, start(name).ready.Ticket)
	}
	const (
		every = 10 * time.Second // a look at what processes hold
		rate  = 4_000_000
	)
	first := map[string]*roamer{}
	for _, name := range names[:2] {
		first[name] = newRoamer(t, lab.Host(name), roamConfig{Join: join, Load: every})
	}
	talkers := map[string]*roamer{}
	for name, target := range map[string]string{"c": "a", "d": "b"} {
		talkers[name] = newRoamer(t, lab.Host(name), roamConfig{Join: join, Load: every, Target: first[target].ready.Key, Rate: rate})
	}
	// And between the two home routers, whose path is direct.
	talkers["a"] = newRoamer(t, lab.Host("a"), roamConfig{Join: join, Load: every, Target: first["b"].ready.Key, Rate: rate})

	peer := func() string { return names[random.IntN(len(names))] }
	pair := func() (string, string) {
		i := random.IntN(len(names))
		return names[i], names[(i+1+random.IntN(len(names)-1))%len(names)]
	}
	shortly := func() time.Duration { return time.Duration(1+random.IntN(5)) * time.Second }
	events := []func() (string, error){
		func() (string, error) {
			a, b := pair()
			d := shortly()
			return fmt.Sprintf("cut %s %s for %s", a, b, d), lab.Cut(a, b, d)
		},
		func() (string, error) {
			a, b := pair()
			d := shortly()
			return fmt.Sprintf("cut one way %s to %s for %s", a, b, d), lab.CutOneWay(a, b, d)
		},
		func() (string, error) { a := peer(); return "new public address of " + a, lab.NewIP(a) },
		func() (string, error) { a := peer(); return "new LAN address of " + a, lab.NewLAN(a) },
		func() (string, error) { a := peer(); return "NAT of " + a + " rebooted", lab.NATReset(a) },
		func() (string, error) {
			a, d := peer(), shortly()
			return fmt.Sprintf("%s dark for %s", a, d), lab.Dark(a, d)
		},
		func() (string, error) {
			a, d := peer(), shortly()
			return fmt.Sprintf("%s unplugged for %s", a, d), lab.Unplug(a, d)
		},
		func() (string, error) {
			a, l := peer(), link
			l.MTU = []int{1300, 1400, 1500}[random.IntN(3)]
			return fmt.Sprintf("MTU %d of %s", l.MTU, a), lab.SetLink(a, l)
		},
		func() (string, error) {
			a, l := peer(), link
			l.Loss = []float64{0, 0.02}[random.IntN(2)]
			return fmt.Sprintf("loss %.2f of %s", l.Loss, a), lab.SetLink(a, l)
		},
		func() (string, error) {
			name := relays[random.IntN(len(relays))]
			if err := lab.Kill(name); err != nil {
				return "", err
			}
			time.Sleep(shortly())
			start(name)
			return "relay " + name + " killed and started again", nil
		},
	}
	n := 0
	for end := time.Now().Add(*soakFor); time.Now().Before(end); n++ {
		what, err := events[random.IntN(len(events))]()
		require.NoError(t, err, what)
		t.Logf("%s %s", time.Now().Format(time.TimeOnly), what)
		time.Sleep(time.Duration(2000+random.IntN(6000)) * time.Millisecond)
	}
	time.Sleep(5 * time.Second) // for what lasts
	for name, r := range talkers {
		report := r.end()
		t.Logf("%s: %d echoes, %d MB, sum right: %t, errors: %v", name, report.Echoes, report.Bytes>>20, report.SumOK, report.Errors)
		require.Empty(t, report.Errors, name)
		require.True(t, report.SumOK, name)
		require.Greater(t, report.Echoes, 100)
		r.requireFlat(name)
	}
	for name, r := range first {
		r.requireFlat(name)
	}
	t.Logf("%d events in %s", n, *soakFor)
}

// requireFlat compares the least that the process held in the second fifth of its
// time with the least in the last: it must not grow. The least, since a search
// through a hard NAT has 256 sockets, and as many goroutines, for some seconds.
func (r *roamer) requireFlat(name string) {
	r.t.Helper()
	r.mu.Lock()
	held := slices.Clone(r.held)
	r.mu.Unlock()
	fifth := len(held) / 5
	if fifth == 0 {
		return
	}
	early, late := least(held[fifth:2*fifth]), least(held[len(held)-fifth:])
	r.t.Logf("%s: goroutines %d, then %d; heap %d KiB, then %d KiB", name, early.Goroutines, late.Goroutines, early.Heap>>10, late.Heap>>10)
	require.LessOrEqual(r.t, late.Goroutines, early.Goroutines*5/4+20, "goroutines of %s", name)
	require.LessOrEqual(r.t, late.Heap, early.Heap*3/2+4<<20, "heap of %s", name)
}

func least(all []holding) holding {
	low := all[0]
	for _, h := range all[1:] {
		low.Goroutines, low.Heap = min(low.Goroutines, h.Goroutines), min(low.Heap, h.Heap)
	}
	return low
}
