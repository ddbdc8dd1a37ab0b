package relay_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/stretchr/testify/require"
)

var errDown = errors.New("relay is down")

// network is several relays, each with its distance, and a node's way to them.
type network struct {
	t     *testing.T
	self  relay.Key
	wg    sync.WaitGroup
	mu    sync.Mutex
	sites map[relay.Key]*site
	dials []relay.Key
}

type site struct {
	cfg    relay.ServerConfig
	server *relay.Server // nil: down
	delay  time.Duration
	hang   bool // dials to it hang
	wires  []*wire
}

func newNetwork(t *testing.T) *network {
	n := &network{t: t, self: key(200), sites: make(map[relay.Key]*site)}
	t.Cleanup(func() {
		for k := range n.sites {
			n.kill(k)
		}
		n.wg.Wait()
	})
	return n
}

// add makes a relay that is up.
func (n *network) add(k relay.Key, delay time.Duration, cfg relay.ServerConfig) {
	n.sites[k] = &site{cfg: cfg, delay: delay}
	n.start(k)
}

func (n *network) start(k relay.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sites[k].server = relay.NewServer(n.sites[k].cfg)
}

// kill ends the relay without a word.
func (n *network) kill(k relay.Key) {
	n.mu.Lock()
	s := n.sites[k]
	server := s.server
	s.server = nil
	for _, w := range s.wires {
		w.cut()
	}
	s.wires = nil
	n.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

func (n *network) swallow(k relay.Key, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sites[k].hang = on
	for _, w := range n.sites[k].wires {
		w.hole.Store(on)
	}
}

func (n *network) server(k relay.Key) *relay.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sites[k].server
}

// dialAs opens a stream to the relay for a client.
func (n *network) dialAs(client relay.Key) func(context.Context, relay.Key) (relay.Stream, error) {
	return func(ctx context.Context, k relay.Key) (relay.Stream, error) {
		n.mu.Lock()
		s := n.sites[k]
		if client == n.self {
			n.dials = append(n.dials, k)
		}
		var server *relay.Server
		hang := false
		if s != nil {
			server, hang = s.server, s.hang
		}
		if hang {
			n.mu.Unlock()
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		if server == nil {
			n.mu.Unlock()
			return nil, errDown
		}
		local, remote, w := newWire(&n.wg, s.delay)
		s.wires = append(s.wires, w)
		n.mu.Unlock()
		n.wg.Go(func() { _ = server.Serve(context.Background(), remote, client, "") })
		return local, nil
	}
}

func (n *network) dialled() []relay.Key {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.dials
	n.dials = nil
	return d
}

// node is a pool and what it told.
type node struct {
	*relay.Pool
	frames chan received
	links  chan string
	homes  chan []relay.Key
	gone   chan relay.Key
	states chan relay.State
}

func (n *network) pool(changes ...func(*relay.PoolConfig)) *node {
	p := &node{
		frames: make(chan received, 1024),
		links:  make(chan string, 1024),
		homes:  make(chan []relay.Key, 1024),
		gone:   make(chan relay.Key, 64),
		states: make(chan relay.State, 1024),
	}
	cfg := relay.PoolConfig{
		Key:    n.self,
		BootID: boot(1),
		Dial:   n.dialAs(n.self),
		OnFrame: func(_, from relay.Key, kind relay.FrameType, ecn byte, payload []byte) {
			p.frames <- received{from, kind, ecn, string(payload)}
		},
		OnPeerGone: func(_, peer relay.Key) { p.gone <- peer },
		OnLink:     func(k relay.Key, up bool, err error) { p.links <- fmt.Sprint(k[0], " ", up) },
		OnHomes:    func(homes []relay.Key) { p.homes <- homes },
		OnState:    func(_ relay.Key, s relay.State) { p.states <- s },
	}
	for _, change := range changes {
		change(&cfg)
	}
	p.Pool = relay.NewPool(cfg)
	n.t.Cleanup(func() { _ = p.Close() })
	return p
}

// up lists the first bytes of the keys of homes with a live link.
func (p *node) up() (out []byte) {
	for _, h := range p.Homes() {
		if h.Home && h.Up {
			out = append(out, h.Key[0])
		}
	}
	return out
}

func TestPATH28TwoHomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		for i := range byte(5) {
			n.add(key(i+1), time.Duration(i+1)*100*time.Millisecond, relay.ServerConfig{})
		}
		p := n.pool()
		p.SetKnown([]relay.Key{key(5), key(4), key(3), key(2), key(1), n.self, key(1)})
		time.Sleep(350 * time.Millisecond)
		require.Equal(t, []byte{1}, p.up(), "the first to answer is used at once")
		time.Sleep(5 * time.Second)
		require.Equal(t, []byte{1, 2}, p.up())

		// The others were there to be compared, and go.
		time.Sleep(2 * time.Minute)
		require.Equal(t, 1, n.server(key(1)).Stats().Homed)
		require.Equal(t, 1, n.server(key(2)).Stats().Homed)
		for i := range byte(3) {
			require.Zero(t, n.server(key(i+3)).Stats().Clients)
		}
		homes := p.Homes()
		require.Len(t, homes, 5)
		require.Equal(t, 200*time.Millisecond, homes[0].RTT)
		require.Equal(t, relay.StateUp, homes[0].State)
		require.False(t, homes[2].Up)
		require.NotContains(t, n.dialled(), n.self)

		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
		require.ErrorIs(t, p.Foreign(context.Background(), key(3)), net.ErrClosed)
		require.ErrorIs(t, p.Send(key(1), key(9), relay.FrameData, 0, nil), relay.ErrNoLink)
	})
}

func TestPATH28HomeDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		for i := range byte(3) {
			n.add(key(i+1), time.Duration(i+1)*10*time.Millisecond, relay.ServerConfig{})
		}
		p := n.pool()
		p.SetKnown([]relay.Key{key(1), key(2)})
		time.Sleep(10 * time.Second)
		require.Equal(t, []byte{1, 2}, p.up())
		p.SetKnown([]relay.Key{key(1), key(2), key(3)})
		time.Sleep(2 * time.Minute)
		require.Equal(t, []byte{1, 2}, p.up())

		n.kill(key(1))
		synctest.Wait()
		require.Equal(t, []byte{2}, p.up(), "the other home carries on")
		time.Sleep(200 * time.Millisecond)
		require.Equal(t, []byte{2, 3}, p.up(), "a third takes its place at once")

		// It is used again when it is up and better.
		n.start(key(1))
		time.Sleep(6 * time.Minute)
		require.ElementsMatch(t, []byte{1, 2}, p.up())
	})
}

// The only relay restarts: the link is back soon after it listens again.
func TestPATH28OnlyRelayRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, down := range []time.Duration{2 * time.Second, time.Hour} {
			n := newNetwork(t)
			n.add(key(1), 10*time.Millisecond, relay.ServerConfig{})
			p := n.pool()
			p.SetKnown([]relay.Key{key(1)})
			time.Sleep(time.Minute)
			require.Equal(t, []byte{1}, p.up())
			n.dialled()
			n.kill(key(1))
			time.Sleep(down)
			require.Empty(t, p.up())
			require.True(t, p.Homes()[0].Home, "stays the home, or an empty record would be published")
			require.ErrorIs(t, p.Homes()[0].Err, errDown)
			if down == 2*time.Second {
				require.InDelta(t, 5, len(n.dialled()), 1) // 0.1, 0.2, 0.4, 0.8, … seconds apart
			} else {
				tries := len(n.dialled())
				require.Greater(t, tries, 200)
				require.Less(t, tries, 500) // 8 to 16 s apart
			}
			n.start(key(1))
			start := time.Now()
			for len(p.up()) == 0 {
				time.Sleep(10 * time.Millisecond)
			}
			longest := 16 * time.Second
			if down == 2*time.Second {
				longest = 3200 * time.Millisecond // the first five waits, at their shortest, take 1.55 s
			}
			require.LessOrEqual(t, time.Since(start), longest+100*time.Millisecond)
			require.Len(t, p.homes, 1, "the home was the same all along")
			_ = p.Close()
		}
	})
}

// Beside a live relay the lost one is tried at leisure; when that dies too, at
// once.
func TestPATH28LastLinkLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{})
		n.add(key(2), time.Millisecond, relay.ServerConfig{})
		p := n.pool()
		p.SetKnown([]relay.Key{key(1), key(2)})
		time.Sleep(time.Minute)
		n.kill(key(1))
		n.dialled()
		time.Sleep(10 * time.Minute)
		tries := len(n.dialled())
		require.Greater(t, tries, 60)
		require.Less(t, tries, 240) // 1 to 10 s apart

		n.start(key(1))
		n.kill(key(2))
		time.Sleep(150 * time.Millisecond)
		require.Equal(t, []byte{1}, p.up())
	})
}

func TestPATH28BlackHoleOfOneHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{})
		n.add(key(2), 5*time.Millisecond, relay.ServerConfig{})
		p := n.pool()
		p.SetKnown([]relay.Key{key(1), key(2)})
		time.Sleep(time.Minute)
		n.swallow(key(1), true)
		require.Equal(t, relay.StateSuspect, get(t, p.states))
		require.Equal(t, relay.StateDead, get(t, p.states))
		synctest.Wait()
		require.Equal(t, []byte{2}, p.up())
		for _, h := range p.Homes() {
			if h.Key == key(1) {
				require.ErrorIs(t, h.Err, relay.ErrSilent)
			}
		}
	})
}

func TestPATH28HomeChangesOnlyForMuch(t *testing.T) {
	for name, c := range map[string]struct {
		home, other time.Duration // one way
		want        byte
	}{
		"not by 10 ms":   {7 * time.Millisecond, 3 * time.Millisecond, 1},
		"not by a third": {50 * time.Millisecond, 40 * time.Millisecond, 1},
		"by both":        {50 * time.Millisecond, 30 * time.Millisecond, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.add(key(1), c.home, relay.ServerConfig{})
			n.add(key(3), time.Millisecond, relay.ServerConfig{})
			p := n.pool()
			p.SetKnown([]relay.Key{key(1), key(3)})
			time.Sleep(time.Minute)
			require.ElementsMatch(t, []byte{1, 3}, p.up())
			n.add(key(2), c.other, relay.ServerConfig{})
			p.SetKnown([]relay.Key{key(1), key(3), key(2)})
			time.Sleep(10 * time.Second)
			require.ElementsMatch(t, []byte{c.want, 3}, p.up(), name)
			if c.want == 2 {
				// The old one can be sent over for a minute yet.
				require.NoError(t, p.Send(key(1), key(9), relay.FrameData, 0, nil))
			}
		})
	}
}

func TestPATH27DuplicateKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{})
		p := n.pool()
		p.SetKnown([]relay.Key{key(1)})
		time.Sleep(time.Minute)
		twin := n.pool(func(cfg *relay.PoolConfig) {
			cfg.BootID = boot(2)
		})
		twin.SetKnown([]relay.Key{key(1)})
		time.Sleep(time.Second)
		requireGoAway(t, p.Homes()[0].Err, relay.GoAwayDuplicate)
		require.Equal(t, []byte{1}, twin.up())
		n.dialled()
		time.Sleep(58 * time.Second)
		p.Kick()
		require.Empty(t, n.dialled(), "stays away for 60 s")
		requireGoAway(t, p.Foreign(context.Background(), key(1)), relay.GoAwayDuplicate)
		time.Sleep(5 * time.Second)
		require.Len(t, n.dialled(), 1)
		require.Equal(t, []byte{1}, twin.up(), "the newer is not disturbed")

		require.NoError(t, twin.Close())
		time.Sleep(time.Minute)
		require.Equal(t, []byte{1}, p.up())
	})
}

func TestPATH27DrainingRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		for i := range byte(3) {
			n.add(key(i+1), time.Duration(i+1)*time.Millisecond, relay.ServerConfig{})
		}
		p := n.pool()
		p.SetKnown([]relay.Key{key(1), key(2)})
		time.Sleep(time.Minute)
		p.SetKnown([]relay.Key{key(1), key(2), key(3)})
		time.Sleep(5 * time.Minute)
		drain(p.links)
		drained := make(chan error, 1)
		go func() { drained <- n.server(key(1)).Drain(context.Background()) }()
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, []byte{2, 3}, p.up(), "moved before it closes")
		require.Equal(t, []string{"3 true"}, drain(p.links), "and without a gap")
		require.NoError(t, p.Send(key(1), key(9), relay.FrameData, 0, nil), "and can still use it")
		time.Sleep(400 * time.Millisecond)
		none(t, drained)
		time.Sleep(200 * time.Millisecond)
		require.NoError(t, get(t, drained), "it leaves when nothing comes any more")
		require.Equal(t, []string{"1 false"}, drain(p.links))
		for _, h := range p.Homes() {
			if h.Key == key(1) {
				requireGoAway(t, h.Err, relay.GoAwayDraining)
			}
		}
	})
}

// A client that has no other relay keeps the link to the end.
func TestPATH27DrainingOnlyRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{})
		told := make(chan relay.Key, 1)
		p := n.pool(func(cfg *relay.PoolConfig) { cfg.OnDraining = func(k relay.Key) { told <- k } })
		p.SetKnown([]relay.Key{key(1)})
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		require.ErrorIs(t, n.server(key(1)).Drain(ctx), context.DeadlineExceeded)
		require.Equal(t, key(1), get(t, told))
		require.NoError(t, p.Send(key(1), key(9), relay.FrameData, 0, nil))
	})
}

func TestPATH29ForeignLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{})
		n.add(key(2), time.Millisecond, relay.ServerConfig{})
		p := n.pool()
		p.SetKnown([]relay.Key{key(1)})
		peer := n.pool(func(cfg *relay.PoolConfig) {
			cfg.Key = key(100)
			cfg.Dial = n.dialAs(key(100))
		})
		peer.SetKnown([]relay.Key{key(2)})
		time.Sleep(time.Second)

		require.ErrorIs(t, p.Send(key(2), key(100), relay.FrameData, 0, nil), relay.ErrNoLink)
		require.NoError(t, p.Foreign(context.Background(), key(2)))
		require.Equal(t, 1, n.server(key(2)).Stats().Homed)
		require.Equal(t, 2, n.server(key(2)).Stats().Clients)
		require.NoError(t, p.Send(key(2), key(100), relay.FrameData, 1, []byte("x")))
		require.Equal(t, received{n.self, relay.FrameData, 1, "x"}, get(t, peer.frames))
		require.NoError(t, peer.Send(key(2), n.self, relay.FrameDisco, 0, []byte("y")))
		require.Equal(t, received{key(100), relay.FrameDisco, 0, "y"}, get(t, p.frames))
		require.NoError(t, p.Send(key(2), key(99), relay.FrameData, 1, []byte("x")))
		require.Equal(t, key(99), get(t, p.gone))

		for range 5 { // in use, so it stays
			time.Sleep(50 * time.Second)
			require.NoError(t, peer.Send(key(2), n.self, relay.FrameData, 0, nil))
			get(t, p.frames)
		}
		require.Equal(t, []byte{1}, p.up(), "it is no home")
		time.Sleep(61 * time.Second)
		require.Equal(t, 1, n.server(key(2)).Stats().Clients)
		require.Len(t, p.Homes(), 1)

		require.ErrorIs(t, p.Foreign(context.Background(), n.self), relay.ErrOwnKey)
		require.ErrorIs(t, p.Foreign(context.Background(), key(77)), errDown)
		require.NoError(t, p.Foreign(context.Background(), key(1)), "a home is there already")
		n.sites[key(2)].hang = true
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(t, p.Foreign(ctx, key(2)), context.DeadlineExceeded)
	})
}

func TestPATH29AtMost32ForeignLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		p := n.pool()
		for i := range byte(40) {
			n.add(key(i+1), time.Millisecond, relay.ServerConfig{})
			require.NoError(t, p.Foreign(context.Background(), key(i+1)))
			time.Sleep(time.Millisecond)
			if i == 30 {
				require.NoError(t, p.Foreign(context.Background(), key(1)), "used again")
			}
		}
		synctest.Wait()
		up := map[byte]bool{}
		for _, h := range p.Homes() {
			require.True(t, h.Up)
			up[h.Key[0]] = true
		}
		require.Len(t, up, 32)
		require.True(t, up[1])
		require.False(t, up[2])
		require.True(t, up[40])
	})
}

// A relay used as a foreign one becomes a home without a visible gap for long.
func TestForeignBecomesHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{})
		p := n.pool()
		require.NoError(t, p.Foreign(context.Background(), key(1)))
		require.Empty(t, p.up())
		p.SetKnown([]relay.Key{key(1)})
		time.Sleep(time.Second)
		require.Equal(t, []byte{1}, p.up())
		require.Equal(t, 1, n.server(key(1)).Stats().Homed)
		require.Equal(t, []string{"1 true"}, drain(p.links))
		time.Sleep(5 * time.Minute)
		require.Equal(t, []byte{1}, p.up())
		require.Equal(t, 1, n.server(key(1)).Stats().Homed)
	})
}

// A relay that homes only its own may still be used to reach them.
func TestPATH27DeniedHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{MayReserve: func(relay.Key) bool { return false }})
		p := n.pool()
		p.SetKnown([]relay.Key{key(1)})
		synctest.Wait() // it asks to be homed
		require.NoError(t, p.Foreign(context.Background(), key(1)), "even while that is under way")
		require.Empty(t, p.up())
		require.Len(t, n.dialled(), 2)
		time.Sleep(61 * time.Second)
		require.False(t, p.Homes()[0].Home)
		require.NoError(t, p.Foreign(context.Background(), key(1)))
		time.Sleep(3 * time.Minute)
		require.Len(t, n.dialled(), 1, "not asked again soon")
	})
}

func TestKick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{})
		n.add(key(2), time.Millisecond, relay.ServerConfig{})
		p := n.pool()
		p.SetKnown([]relay.Key{key(1), key(2)})
		time.Sleep(time.Minute)

		// The network is lost: links swallow, dials hang.
		n.swallow(key(1), true)
		n.swallow(key(2), true)
		time.Sleep(8 * time.Second)
		require.Empty(t, p.up())
		foreign := make(chan error, 1)
		go func() { foreign <- p.Foreign(context.Background(), key(2)) }()
		synctest.Wait()

		// Another one is there: nothing waits for what hangs.
		for i := range byte(2) {
			n.mu.Lock()
			n.sites[key(i+1)].hang = false
			n.mu.Unlock()
		}
		p.Kick()
		time.Sleep(100 * time.Millisecond)
		require.ElementsMatch(t, []byte{1, 2}, p.up())
		require.NoError(t, get(t, foreign))

		// Links that died with the old network are found dead in two seconds.
		n.swallow(key(1), true)
		n.swallow(key(2), true)
		p.Kick()
		time.Sleep(2*time.Second + time.Millisecond)
		require.Empty(t, p.up())
	})
}

func TestSetKnownDropsHomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.add(key(1), time.Millisecond, relay.ServerConfig{})
		n.add(key(2), time.Millisecond, relay.ServerConfig{})
		p := n.pool()
		p.SetKnown([]relay.Key{key(1)})
		time.Sleep(time.Second)
		require.Equal(t, []relay.Key{key(1)}, get(t, p.homes))
		p.SetKnown([]relay.Key{key(2)})
		time.Sleep(time.Second)
		require.Equal(t, []byte{2}, p.up())
		require.NoError(t, p.Send(key(1), key(9), relay.FrameData, 0, nil), "kept for a while")
		time.Sleep(2 * time.Minute)
		require.Len(t, p.Homes(), 1)
	})
}

func TestPoolWithoutRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		p := n.pool()
		time.Sleep(time.Hour)
		require.Empty(t, p.Homes())
		p.Kick()
		p.SetKnown(nil)
		time.Sleep(time.Hour)
		require.Empty(t, n.dialled())
	})
}
