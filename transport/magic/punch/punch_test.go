package punch_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/punch"
	"github.com/stretchr/testify/require"
)

// PATH-23: the side whose ports nobody can know opens sockets, the other one
// looks; where neither or both are hard nothing is sent.
func TestPATH23Roles(t *testing.T) {
	const unknown, none, easy, hard = disco.MappingUnknown, disco.MappingNone, disco.MappingIndependent, disco.MappingDependent
	for _, own := range []disco.Mapping{unknown, none, easy, hard} {
		for _, theirs := range []disco.Mapping{unknown, none, easy, hard} {
			want := punch.Nothing
			switch {
			case own == hard && (theirs == none || theirs == easy):
				want = punch.Open
			case theirs == hard && (own == none || own == easy):
				want = punch.Probe
			}
			require.Equal(t, want, punch.RoleOf(own, theirs), "%d to %d", own, theirs)
		}
	}
}

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func order(samples ...uint16) (all []uint16) {
	p := punch.NewPorts(samples, seeded())
	for {
		port, ok := p.Next()
		if !ok {
			return all
		}
		all = append(all, port)
	}
}

// PATH-23: every port from 1024 on comes once, whatever was seen.
func TestPATH23PortsComeOnce(t *testing.T) {
	for name, samples := range map[string][]uint16{
		"none":     nil,
		"counting": {40000, 40001, 40003, 40004},
		"edges":    {1, 1024, 65535, 0},
		"same":     {5000, 5000},
		"far":      {2000, 60000},
	} {
		seen := map[uint16]bool{}
		for _, port := range order(samples...) {
			require.GreaterOrEqual(t, port, uint16(1024), name)
			require.False(t, seen[port], "%s: %d twice", name, port)
			seen[port] = true
		}
		require.Len(t, seen, 65536-1024, name)
	}
}

// PATH-23: a NAT that keeps ports, or counts, is met within the first hundreds.
func TestPATH23PredictsFirst(t *testing.T) {
	place := func(port uint16, samples ...uint16) int {
		for i, p := range order(samples...) {
			if p == port {
				return i
			}
		}
		return -1
	}
	require.Zero(t, place(4242, 4242, 40000), "the port itself")
	require.Less(t, place(4242+16, 4242, 40000), 2*33)
	require.Less(t, place(4242-16, 4242, 40000), 2*33)
	counting := []uint16{40000, 40001, 40002, 40003}
	require.Less(t, place(40003+300, counting...), 512, "sockets opened after the samples")
	require.Less(t, place(50500, 50000, 51000), 1024, "between samples")
}

// PATH-23: with random ports on one side and 256 open on the other, a round
// meets one in seven of eight tries, the fast part nearly always.
func TestPATH23MeetsByChance(t *testing.T) {
	r := seeded()
	const tries = 200
	round, fast := 0, 0
	for range tries {
		open := map[uint16]bool{}
		for len(open) < punch.Sockets {
			open[uint16(1024+r.IntN(65536-1024))] = true
		}
		ports := punch.NewPorts([]uint16{uint16(r.Uint32()), uint16(r.Uint32())}, r)
		for i := range 1700 {
			port, _ := ports.Next()
			if open[port] {
				fast++
				if i < punch.Round {
					round++
				}
				break
			}
		}
	}
	require.InDelta(t, 0.87, float64(round)/tries, 0.08)
	require.Greater(t, float64(fast)/tries, 0.99)
}

// PATH-23, a model: however late or early the sender comes to ask, no second of
// the first two holds more than 1,000 probes, no later one more than 100, no
// round more than 512, and all end.
func TestPATH23Budget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := seeded()
		for try := range 60 {
			start := time.Now()
			pace := punch.NewPace(start)
			type sent struct {
				at time.Time
				n  int
			}
			var all []sent
			total, run := 0, 0
			for {
				n, next, over := pace.Take(time.Now())
				if over {
					break
				}
				if n > 0 {
					if len(all) > 0 && time.Since(all[len(all)-1].at) >= 50*time.Millisecond {
						run = 0
					}
					all = append(all, sent{time.Now(), n})
					total += n
					run += n
				}
				if try%3 != 2 { // else the sender is late at times, and no round shows
					require.LessOrEqual(t, run, punch.Round)
				}
				switch wait := time.Until(next); try % 3 {
				case 0:
					time.Sleep(wait)
				case 1: // impatient
					time.Sleep(time.Duration(r.Int64N(int64(wait) + 1)))
				default:
					time.Sleep(wait + time.Duration(r.Int64N(int64(300*time.Millisecond)))*time.Duration(r.IntN(2)))
				}
				require.Less(t, time.Since(start), 15*time.Second, "it ends")
			}
			require.LessOrEqual(t, total, punch.MaxSent)
			for i, a := range all {
				in := 0
				for _, b := range all[i:] {
					if b.at.Sub(a.at) < time.Second {
						in += b.n
					}
				}
				limit := 1000
				if a.at.Sub(start) >= punch.FastFor {
					limit = 100
				}
				require.LessOrEqual(t, in, limit, "in the second from %s on", a.at.Sub(start))
			}
			if try%3 == 0 {
				require.Greater(t, total, 1600, "and it is of use")
			}
		}
	})
}

// PATH-23: the same try is not made twice in ten minutes.
func TestPATH23OnceInTenMinutes(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	one := punch.Who{Peer: [32]byte{1}, IP: netip.MustParseAddr("5.20.0.2")}
	two := punch.Who{Peer: [32]byte{2}, IP: netip.MustParseAddr("5.20.0.3")}
	l := punch.Ledger{Slots: 1}

	try, err := l.Begin(now, one)
	require.NoError(t, err)
	_, err = l.Begin(now, one)
	require.ErrorIs(t, err, punch.ErrBusy)
	_, err = l.Begin(now, two)
	require.ErrorIs(t, err, punch.ErrBusy, "the one slot is taken")
	try.End(now, false)
	try.End(now, true) // counts once

	_, err = l.Begin(now.Add(punch.Memory-1), one)
	require.ErrorIs(t, err, punch.ErrTried)
	moved := punch.Who{Peer: one.Peer, IP: two.IP}
	try, err = l.Begin(now, moved)
	require.NoError(t, err, "the peer is at another IP")
	try.End(now, true)
	_, err = l.Begin(now.Add(time.Second), moved)
	require.ErrorIs(t, err, punch.ErrTried, "what helped is not repeated at once")
	try, err = l.Begin(now.Add(6*time.Second), moved)
	require.NoError(t, err, "but when its path is lost")
	try.End(now.Add(6*time.Second), true)

	anew := one
	anew.Boot[0]++
	try, err = l.Begin(now, anew)
	require.NoError(t, err, "the peer has started anew")
	try.End(now, false)
	l.Reset()
	try, err = l.Begin(now, one)
	require.NoError(t, err, "we are on another network")
	try.End(now, false)
	_, err = l.Begin(now.Add(punch.Memory), one)
	require.NoError(t, err, "ten minutes are over")
}

// PATH-23: a try that a change of the network cuts short says nothing about the
// network after it, and frees its slot.
func TestPATH23NewNetworkEndsNoTryForLong(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	who := punch.Who{Peer: [32]byte{1}, IP: netip.MustParseAddr("5.20.0.2")}
	l := punch.Ledger{Slots: 1}
	for i := range 10 {
		try, err := l.Begin(now, who)
		require.NoError(t, err, i)
		l.Reset()
		_, err = l.Begin(now, who)
		require.ErrorIs(t, err, punch.ErrBusy)
		try.End(now, false)
	}
}

// PATH-23: neither many keys nor many starts make a node send more to one IP,
// nor more in all.
func TestPATH23HostileKeys(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	l := punch.Ledger{Slots: 1}
	tries := func(now time.Time, helped bool, who func(i int) punch.Who) (made int) {
		var last error
		for i := range 1000 {
			if try, err := l.Begin(now, who(i)); err == nil {
				try.End(now, helped)
				made++
			} else {
				last = err
			}
		}
		require.ErrorIs(t, last, punch.ErrTooMuch)
		return made
	}
	id := func(i int) (b [16]byte) { b[0], b[1] = byte(i), byte(i>>8); return b }
	at := netip.MustParseAddr("5.20.0.2")
	require.Equal(t, 3, tries(now, false, func(i int) punch.Who { return punch.Who{Boot: id(i), IP: at} }))
	require.Equal(t, 0, tries(now, false, func(i int) punch.Who { return punch.Who{Peer: [32]byte{byte(i), byte(i >> 8)}, IP: at} }))
	require.Equal(t, 27, tries(now, false, func(i int) punch.Who {
		return punch.Who{Boot: id(i), IP: netip.AddrFrom4([4]byte{5, 21, byte(i >> 8), byte(i)})}
	}))
	require.Equal(t, 240, tries(now.Add(punch.Memory), true, func(i int) punch.Who { return punch.Who{Boot: id(i), IP: at} }))
}

// PATH-23: strangers that make searches fail leave those alone whom this node knows,
// and who waits for a slot is heard of until somebody gets one.
func TestPATH23StrangersLeaveRoomForFriends(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	l := punch.Ledger{Slots: 1}
	at := netip.MustParseAddr("5.20.0.2")
	stranger := func(i int) punch.Who { return punch.Who{Peer: [32]byte{1, byte(i)}, IP: at} }
	var last error
	for i := range 1000 {
		var try *punch.Try
		who := stranger(i)
		who.IP = netip.AddrFrom4([4]byte{5, 20, byte(i >> 8), byte(i)})
		if try, last = l.Begin(now, who); last == nil {
			try.End(now, false)
		}
	}
	require.ErrorIs(t, last, punch.ErrTooMuch)
	friend := punch.Who{Peer: [32]byte{2}, IP: at, Known: true}
	try, err := l.Begin(now, friend)
	require.NoError(t, err)
	require.False(t, l.Wanted(now))
	other := punch.Who{Peer: [32]byte{3}, IP: at, Known: true}
	_, err = l.Begin(now, other)
	require.ErrorIs(t, err, punch.ErrBusy)
	require.True(t, l.Wanted(now.Add(5*time.Second)))
	require.False(t, l.Wanted(now.Add(time.Minute)), "it is of no interest any more")
	try.End(now, false)
	_, err = l.Begin(now, other)
	require.NoError(t, err)
	require.False(t, l.Wanted(now))
}
