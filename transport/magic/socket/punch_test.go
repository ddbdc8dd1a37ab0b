package socket_test

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// easyAnd makes a socket behind an easy NAT, as it believes, and a peer behind a
// hard one that it knows over a relay only; the peer's packets are made by hand.
func easyAnd(t *testing.T, change func(*socket.Config)) (*socket.Socket, *enemy) {
	t.Helper()
	w := newWire(t)
	a, aKey, _ := w.open(t, 1, func(c *socket.Config) {
		c.Homes = func() []relay.Key { return []relay.Key{relayOne} }
		if change != nil {
			change(c)
		}
	})
	a.SetNetwork(disco.Network{IPv4: disco.MappingIndependent}, []uint16{4242})
	priv, _ := keyPair(9)
	return a, newEnemy(t, priv, aKey)
}

func (e *enemy) calls(s *socket.Socket, state disco.PunchState) {
	s.Receive(relayOne, e.key, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{
		TxID: disco.NewTxID(), BootID: e.boot,
		Network: disco.Network{IPv4: disco.MappingDependent}, Punch: disco.Punch{State: state},
	}))
}

func (e *enemy) attested(s *socket.Socket, via relay.Key, ip string) {
	raw := netip.MustParseAddr(ip).As16()
	s.Receive(via, e.key, relay.FrameAttest, 0, raw[:])
}

// PATH-23: nothing is sent towards an IP that only the peer, or a relay that is
// no home of ours, says it is at.
func TestPATH23OnlyWhereAttested(t *testing.T) {
	a, e := easyAnd(t, nil)
	e.calls(a, disco.PunchOpen)
	require.EqualValues(t, 1, a.Stats().PunchesUnsure, "the peer's own word")

	e.attested(a, relay.Key{77}, "127.0.0.1")
	require.EqualValues(t, 1, a.Stats().RefusedAttests, "no home of ours")
	for i, ip := range []string{"192.168.1.1", "100.64.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "2001:db8::7"} {
		e.attested(a, relayOne, ip)
		require.EqualValues(t, 2+i, a.Stats().RefusedAttests, ip)
	}
	a.Receive(relayOne, e.key, relay.FrameAttest, 0, []byte{127, 0, 0, 1})
	require.EqualValues(t, 8, a.Stats().RefusedAttests, "four bytes")
	a.Receive(relayOne, relay.Key{5}, relay.FrameAttest, 0, make([]byte, 16))
	require.EqualValues(t, 9, a.Stats().RefusedAttests, "a peer never heard of")

	e.calls(a, disco.PunchOpen)
	st := a.Stats()
	require.EqualValues(t, 2, st.PunchesUnsure)
	require.Zero(t, st.Punches)
	require.Zero(t, st.PunchProbes)
}

// PATH-23: the search goes on while the peer asks, is not begun again by every
// CallMeMaybe, ends when the peer says so, and is not repeated.
func TestPATH23SearchEnds(t *testing.T) {
	a, e := easyAnd(t, nil)
	e.calls(a, 0)
	e.attested(a, relayOne, "127.0.0.1")
	require.Zero(t, a.Stats().Punches, "nobody has opened anything")
	for range 5 {
		e.calls(a, disco.PunchOpen)
	}
	require.EqualValues(t, 1, a.Stats().Punches)
	require.Eventually(t, func() bool { return a.Stats().PunchProbes > 20 }, 5*time.Second, time.Millisecond)
	e.calls(a, disco.PunchDone)
	var sent uint64
	require.Eventually(t, func() bool {
		before := sent
		sent = a.Stats().PunchProbes
		return sent == before
	}, 5*time.Second, 100*time.Millisecond)
	require.Less(t, sent, uint64(3000))
	require.Eventually(t, func() bool { e.calls(a, disco.PunchOpen); return a.Stats().PunchesHeld >= 60 }, 10*time.Second, 50*time.Millisecond)
	require.Equal(t, sent, a.Stats().PunchProbes, "once in ten minutes")
	require.EqualValues(t, 1, a.Stats().Punches)
	require.Zero(t, a.Stats().PunchesHelped)
}

// PATH-23: a search stops when reflectors do not answer any more, as when the
// table of a router is full.
func TestPATH23StopsWhenReflectorsDo(t *testing.T) {
	var asked atomic.Int32
	a, e := easyAnd(t, func(c *socket.Config) {
		c.Reflects = func(ctx context.Context) bool {
			if asked.Add(1) <= 2 {
				return true
			}
			<-ctx.Done()
			return false
		}
	})
	e.calls(a, 0)
	e.attested(a, relayOne, "127.0.0.1")
	e.calls(a, disco.PunchOpen)
	require.Eventually(t, func() bool { return a.Stats().PunchesStopped == 1 }, 10*time.Second, time.Millisecond)
	require.GreaterOrEqual(t, asked.Load(), int32(5), "three answers missing")
	sent := a.Stats().PunchProbes
	require.Never(t, func() bool { return a.Stats().PunchProbes != sent }, 300*time.Millisecond, 50*time.Millisecond)
}

// PATH-23: a node with a hard NAT opens its sockets towards an address of the
// peer's that is at an attested IP, none else, and closes them with itself.
func TestPATH23OpensTowardsAttested(t *testing.T) {
	a, e := easyAnd(t, nil)
	a.SetNetwork(disco.Network{IPv4: disco.MappingDependent}, []uint16{4242, 4243})
	at := outsider(t)
	call := func() {
		a.Receive(relayOne, e.key, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{
			TxID: disco.NewTxID(), BootID: e.boot, Addrs: []netip.AddrPort{at.LocalAddr()},
			Network: disco.Network{IPv4: disco.MappingIndependent},
		}))
	}
	call()
	require.Eventually(t, func() bool { return a.Stats().PunchesUnsure == 1 }, 5*time.Second, time.Millisecond)
	require.Zero(t, a.Stats().PunchOpeners)
	e.attested(a, relayOne, "127.0.0.1")
	// The first call's wait may just be ending.
	require.Eventually(t, func() bool { call(); return a.Stats().PunchOpeners >= 16 }, 5*time.Second, 50*time.Millisecond)
	require.EqualValues(t, 1, a.Stats().Punches)
	require.Eventually(t, func() bool { return a.Stats().PunchOpeners == 256 }, 5*time.Second, 10*time.Millisecond, "unless few files may be open")
}

// answers answers the pings that come to c from where takes says, in the name of
// the enemy, until c is closed. A ping of its own goes before the first answer to
// each place, so that the other side knows whose they are.
func (e *enemy) answers(c *udp.Conn, takes func(from netip.AddrPort) bool) (ended <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ms := []udp.Message{{Buf: make([]byte, 64<<10)}}
		introduced := make(map[netip.AddrPort]bool)
		for {
			if _, err := c.ReadBatch(ms); err != nil {
				return
			}
			m := ms[0]
			if m.Segment > 0 {
				m.N = m.Segment
			}
			_, msg, err := e.id.OpenDirect(m.Buf[:m.N])
			ping, ok := msg.(disco.Ping)
			if err != nil || !ok || !takes(m.From) {
				continue
			}
			if !introduced[m.From] {
				introduced[m.From] = true
				_ = c.Write(e.introduction(), m.From, 0, 0)
				continue
			}
			if b, err := e.id.SealDirect(nil, e.to, disco.Pong{TxID: ping.TxID, BootID: e.boot, Observed: m.From}); err == nil {
				_ = c.Write(b, m.From, 0, 0)
			}
		}
	}()
	return done
}

// PATH-23: of the sockets of one try after another, one is left at most: that
// which is the way to the peer.
func TestPATH23NoSocketIsLeft(t *testing.T) {
	a, e := easyAnd(t, nil)
	a.SetNetwork(disco.Network{IPv4: disco.MappingDependent}, nil)
	at := outsider(t)
	var round, seen atomic.Int32
	var now int32
	met := make(map[netip.AddrPort]int32) // in which round first
	ended := e.answers(at, func(from netip.AddrPort) bool {
		if r := round.Load(); r != now {
			now = r
			seen.Store(0)
		}
		if from == a.UDPAddr() {
			return false
		}
		in, known := met[from]
		if !known {
			in = now
			met[from] = now
			seen.Add(1)
		}
		return in == now // the holes of earlier rounds are gone
	})
	t.Cleanup(func() { _ = at.Close(); <-ended })
	call := func() {
		a.Receive(relayOne, e.key, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{
			TxID: disco.NewTxID(), BootID: e.boot, Addrs: []netip.AddrPort{at.LocalAddr()},
			Network: disco.Network{IPv4: disco.MappingIndependent},
		}))
	}
	call()
	e.attested(a, relayOne, "127.0.0.1")
	for r := range int32(3) {
		require.Eventually(t, func() bool {
			if a.Stats().Punches <= uint64(r) {
				call() // a wait may have ended with the network
			}
			return a.Stats().Punches > uint64(r) && seen.Load() >= 200 && kindOf(a, e.key) == path.Direct && a.Extra() == 1
		}, 10*time.Second, 50*time.Millisecond, "round %d", r+1)
		time.Sleep(50 * time.Millisecond) // for what is still in the buffers of this machine
		round.Store(r + 1)
		a.NetworkChanged()
	}
}

// PATH-23: who lets itself be reached elsewhere in the end does not get one search
// after another of somebody's ports.
func TestPATH23ReachedElsewhereIsNoHelp(t *testing.T) {
	a, e := easyAnd(t, nil)
	e.calls(a, 0)
	e.attested(a, relayOne, "127.0.0.1")
	e.calls(a, disco.PunchOpen)
	require.EqualValues(t, 1, a.Stats().Punches)
	c, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.2:0"))
	if err != nil {
		require.NotEqual(t, "linux", runtime.GOOS, err)
		t.Skip("this system has one loopback address only")
	}
	ended := e.answers(c, func(netip.AddrPort) bool { return true })
	t.Cleanup(func() { _ = c.Close(); <-ended })
	require.NoError(t, c.Write(e.introduction(), a.UDPAddr(), 0, 0))
	require.Eventually(t, func() bool { return kindOf(a, e.key) == path.Direct }, 5*time.Second, time.Millisecond)
	// The slot is free again once the search has ended.
	priv, _ := keyPair(10)
	next := newEnemy(t, priv, e.to)
	next.calls(a, 0)
	next.attested(a, relayOne, "127.0.0.1")
	require.Eventually(t, func() bool { next.calls(a, disco.PunchOpen); return a.Stats().Punches == 2 }, 5*time.Second, 10*time.Millisecond)
	require.Zero(t, a.Stats().PunchesHelped)
}

// PATH-21, PATH-23: whoever comes behind a hard NAT opens sockets as soon as it knows
// of the NAT, not when the peer next speaks; and whoever leaves it does not ask for
// the peer through the hole in it any more.
func TestPATH23MovedBehindAHardNATAndAway(t *testing.T) {
	a, e := easyAnd(t, nil)
	at := outsider(t)
	var moved atomic.Bool
	ended := e.answers(at, func(from netip.AddrPort) bool { return (from == a.UDPAddr()) == moved.Load() })
	t.Cleanup(func() { _ = at.Close(); <-ended })
	e.calls(a, 0)
	e.attested(a, relayOne, "127.0.0.1")
	a.Receive(relayOne, e.key, relay.FrameDisco, 0, e.box(disco.CallMeMaybe{
		TxID: disco.NewTxID(), BootID: e.boot, Addrs: []netip.AddrPort{at.LocalAddr()},
		Network: disco.Network{IPv4: disco.MappingIndependent},
	}))
	a.SetNetwork(disco.Network{}, nil)
	a.NetworkChanged()
	a.SetNetwork(disco.Network{IPv4: disco.MappingDependent}, nil)
	require.Eventually(t, func() bool { return kindOf(a, e.key) == path.Direct && a.Extra() == 1 }, 10*time.Second, time.Millisecond)
	time.Sleep(50 * time.Millisecond) // for what is still in the buffers of this machine
	moved.Store(true)
	a.SetNetwork(disco.Network{}, nil)
	a.NetworkChanged()
	require.Equal(t, 1, a.Extra(), "it may be the same NAT")
	a.SetNetwork(disco.Network{IPv4: disco.MappingIndependent}, nil)
	require.Eventually(t, func() bool { return a.Extra() == 0 }, 500*time.Millisecond, time.Millisecond)
	require.Eventually(t, func() bool { return kindOf(a, e.key) == path.Direct }, 10*time.Second, time.Millisecond)
}

// PATH-23: who comes while another is searched is told to wait, and has its turn as
// soon as that is over, without another word.
func TestPATH23EverybodyHasATurn(t *testing.T) {
	r := &recorder{}
	priv, aKey := keyPair(1)
	a, err := socket.New(socket.Config{
		Key: priv, Relays: r, UDP: []*udp.Conn{outsider(t)}, Loopback: true,
		Disclose: func(relay.Key) bool { return true }, Homes: func() []relay.Key { return []relay.Key{relayOne} },
	})
	require.NoError(t, err)
	defer a.Close()
	a.SetAddrs([]netip.AddrPort{netip.MustParseAddrPort("31.21.0.3:4000")})
	a.SetNetwork(disco.Network{IPv4: disco.MappingIndependent}, []uint16{4242})
	var peers []*enemy
	for seed := range byte(3) {
		priv, _ := keyPair(9 + seed)
		e := newEnemy(t, priv, aKey)
		e.calls(a, 0)
		e.attested(a, relayOne, "127.0.0.1")
		e.calls(a, disco.PunchOpen)
		peers = append(peers, e)
	}
	require.EqualValues(t, 1, a.Stats().Punches)
	for i, e := range peers {
		r.mu.Lock()
		told := slices.ContainsFunc(r.boxes, func(box []byte) bool {
			m, err := e.id.Open(aKey, box)
			call, ok := m.(disco.CallMeMaybe)
			return err == nil && ok && call.Punch.State == disco.PunchWait
		})
		r.mu.Unlock()
		require.Equal(t, i > 0, told, i)
	}
	for i, e := range peers[:2] {
		e.calls(a, disco.PunchDone)
		require.Eventually(t, func() bool { return a.Stats().Punches == uint64(i)+2 }, 5*time.Second, time.Millisecond)
	}
}

// PATH-23: holes are kept as long as the peer may look for them, longer when it says
// that it looks for others first, and not for ever.
func TestPATH23HolesAreKeptWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, e, _, bKey := recorded(t)
		defer a.Close()
		e.attested(a, relayOne, "31.21.0.3")
		a.Receive(relayOne, bKey, relay.FrameDisco, 0, e.box(e.ping()))
		kept := func(since time.Time) (d time.Duration) {
			for ; a.StillOpen(bKey, since); d += time.Second {
				if d%(5*time.Second) == 0 {
					e.calls(a, disco.PunchWait)
				}
				time.Sleep(time.Second)
			}
			return d
		}
		began := time.Now()
		require.Equal(t, 40*time.Second, kept(began), "not for ever")
		began = time.Now()
		for a.StillOpen(bKey, began) {
			time.Sleep(time.Second)
		}
		require.Equal(t, 12*time.Second, time.Since(began))
	})
}
