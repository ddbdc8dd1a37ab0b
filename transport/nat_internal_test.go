package transport

import (
	"context"
	"crypto/ed25519"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// RFC 4787, section 4.1: the mapping follows from where each reflector sees the
// same socket.
func TestPATH31MappingOf(t *testing.T) {
	one := reflectorsOf{at: addrPorts("1.0.0.1:1", "1.0.0.1:2")}
	two := reflectorsOf{at: addrPorts("2.0.0.2:1", "2.0.0.2:2")}
	both := []reflectorsOf{one, two}
	own := netip.MustParseAddrPort("7.7.7.7:7")
	seen := func(texts ...string) map[netip.AddrPort]netip.AddrPort {
		out := map[netip.AddrPort]netip.AddrPort{}
		for i, to := range append(append([]netip.AddrPort{}, one.at...), two.at...) {
			if i < len(texts) && texts[i] != "" {
				out[to] = netip.MustParseAddrPort(texts[i])
			}
		}
		return out
	}
	for _, c := range []struct {
		seen map[netip.AddrPort]netip.AddrPort
		want string
	}{
		{seen(), natUnknown},
		{seen("9.9.9.9:1"), natUnknown},
		{seen("7.7.7.7:7"), natNone},
		{seen("9.9.9.9:1", "9.9.9.9:1"), natEndpoint},
		{seen("9.9.9.9:1", "9.9.9.9:1", "9.9.9.9:1", "9.9.9.9:1"), natEndpoint},
		{seen("", "9.9.9.9:1", "", "9.9.9.9:1"), natEndpoint},
		{seen("9.9.9.9:1", "9.9.9.9:1", "9.9.9.9:2", "9.9.9.9:2"), natAddress},
		{seen("9.9.9.9:1", "9.9.9.9:2"), natPort},
		{seen("9.9.9.9:1", "9.9.9.9:2", "9.9.9.9:3", "9.9.9.9:4"), natPort},
		{seen("9.9.9.9:1", "", "9.9.9.9:2"), natPort},
	} {
		require.Equal(t, c.want, mappingOf(func(a netip.AddrPort) bool { return a == own }, both, c.seen), "%v", c.seen)
	}
}

// PATH-20: that UDP does not get through is told even if the relays turn out to be
// farther away, while nothing is answered, than they were when it was asked.
func TestPATH20SilenceIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := &Host{ctx: ctx}
		r := newReflectors(h)
		asked := time.Now()
		r.patience = func() time.Duration {
			if time.Since(asked) < 50*time.Millisecond {
				return 100 * time.Millisecond
			}
			return 200 * time.Millisecond
		}
		told := make(chan bool, 10)
		r.changed = func() { told <- r.silent() }
		r.quiet = asked
		r.kick()
		var running sync.WaitGroup
		running.Go(r.run)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, told, 1)
		require.True(t, <-told)
		cancel()
		running.Wait()
	})
}

// PATH-31: a relay is asked in both address families, whichever it was met in; a
// public one does not send questions into our own network.
func TestPATH31ReflectorsOfBothFamilies(t *testing.T) {
	public, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	k := relay.Key(public)
	p, err := magic.PeerID(k)
	require.NoError(t, err)
	h := &Host{}
	r := newReflectors(h)
	require.Empty(t, r.everywhere(k))
	for _, c := range []struct{ book, met, want string }{
		{"/ip4/31.21.0.2/tcp/4242", "31.21.0.2", ""},
		{"/ip6/2a04:1000::2/tcp/4242", "31.21.0.2", "2a04:1000::2"},
		{"/ip4/31.21.0.2/udp/4242/quic-v1", "2a04:1000::2", "31.21.0.2"},
		{"/ip4/192.168.1.1/tcp/4242", "2a04:1000::2", ""},
		{"/ip4/127.0.0.1/tcp/4242", "2a04:1000::2", ""},
		{"/ip4/192.168.1.1/tcp/4242", "fd00::1", "192.168.1.1"},
	} {
		h.book = addrBook{}
		h.book.add(p, []ma.Multiaddr{ma.StringCast(c.book)})
		met := netip.MustParseAddr(c.met)
		r.targets[k] = []netip.AddrPort{netip.AddrPortFrom(met, 4243), netip.AddrPortFrom(met, 4244)}
		want := slices.Clone(r.targets[k])
		if c.want != "" {
			other := netip.MustParseAddr(c.want)
			want = append(want, netip.AddrPortFrom(other, 4243), netip.AddrPortFrom(other, 4244))
		}
		require.Equal(t, want, r.everywhere(k), "%v", c)
	}
}

func TestLifetimeSteps(t *testing.T) {
	require.Equal(t, []time.Duration{7 * time.Second}, lifetimeSteps(7 * time.Second)[1:])
	long := lifetimeSteps(2 * time.Minute)
	require.Equal(t, 2*time.Minute, long[len(long)-1])
	require.Len(t, long, 10, "sockets at once")
	require.IsIncreasing(t, long)
}

// PATH-34: of a relay that nothing could be sent to it is not said that it is
// down, nor what stands below.
func TestPATH34RelayWithoutWay(t *testing.T) {
	p := &patient{home: relay.HomeInfo{Home: true}, ips: []netip.Addr{netip.IPv6Loopback()}}
	d := &doctor{h: &Host{}, relays: []*patient{p}}
	require.Equal(t, reasonNoWay.cause, d.link(p).Cause)
	p.ways = []way{{name: "tcp4", err: errNoAnswer}}
	require.Equal(t, reasonCutOff.cause, d.link(p).Cause)
	p.ways[0].err = nil
	require.Equal(t, reasonNotLinked.cause, d.link(p).Cause)
	p.home.Up = true
	require.True(t, d.link(p).OK)
}

// PATH-31: reflectors on this machine, which would say that there is no NAT, are
// asked only where there is no other.
func TestPATH31LocalReflectorsTellNoNAT(t *testing.T) {
	r := newReflectors(&Host{})
	local, public := addrPorts("127.0.0.1:4243", "127.0.0.1:4244"), addrPorts("31.21.0.2:4243", "31.21.0.2:4244")
	r.targets[relay.Key{1}] = local
	require.Equal(t, []reflectorsOf{{at: local}}, r.at(false))
	r.targets[relay.Key{2}] = public
	require.Equal(t, []reflectorsOf{{at: public}}, r.at(false))
	require.Empty(t, r.at(true))
}
