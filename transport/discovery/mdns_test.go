package discovery

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

var (
	// inNamespace is set in the process that a test starts in a network
	// namespace of its own.
	inNamespace = flag.Bool("discovery.namespace", false, "run inside a fresh network namespace")
	required    = flag.Bool("natlab.required", false, "fail where network namespaces cannot be made, instead of skipping")
)

// PATH-39: peers of one network find each other on a local network with no
// relay, no DHT and no internet.
func TestPATH39MDNS(t *testing.T) {
	if !*inNamespace && runInNamespace(t) {
		return
	}
	if !*inNamespace && !hasMulticast(t) {
		skip(t, "no interface that can do multicast, and no right to make one")
	}
	anywhere := libp2p.ListenAddrStrings("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
	a := newHost(t, 1, anywhere)
	seen := make(chan peer.AddrInfo, 16)
	da := start(t, Config{Host: a, MDNS: true, FoundPeer: func(info peer.AddrInfo) { seen <- info }})
	if *inNamespace {
		// Without a local network the node runs, and nothing is found until
		// there is one.
		require.False(t, hasMulticast(t))
		testNothingFound(t, da)
		addInterface(t)
	}
	b, c := newHost(t, 2, anywhere), newHost(t, 3, anywhere)
	start(t, Config{Host: b, MDNS: true})
	start(t, Config{Host: c, MDNS: true, Network: "other"})

	f := untilFound(t, da, b.ID())
	require.Equal(t, SourceMDNS, f.Source)
	require.Nil(t, f.Record)
	require.NoError(t, a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: f.Addrs}))
	for _, addr := range f.Addrs {
		require.NoError(t, CheckAddr(addr))
	}
	require.Equal(t, b.ID(), (<-seen).ID)

	// Known now, and found at once.
	found := resolveFirst(t, da, b.ID())
	require.Equal(t, SourceMDNS, found.Source)

	// Another network is another network.
	require.Empty(t, da.mdns.addrs(c.ID()))
	require.Empty(t, da.mdns.addrs(a.ID()), "found itself")
}

func testNothingFound(t *testing.T, d *Discovery) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for range d.Resolve(ctx, testID(2)) {
		t.Error("found something")
	}
}

// Without multicast, Close returns at once (libp2p's own mDNS would hang here).
func TestMDNSWithoutMulticast(t *testing.T) {
	if !*inNamespace {
		if !runInNamespace(t) {
			skip(t, "needs root and Linux, for a network without multicast")
		}
		return
	}
	require.False(t, hasMulticast(t))
	d := start(t, Config{Host: newHost(t, 1), MDNS: true})
	testNothingFound(t, d)
	require.NoError(t, d.Close())
}

// untilFound asks again until the local network has answered.
func untilFound(t *testing.T, d *Discovery, p peer.ID) (found Found) {
	t.Helper()
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for f := range d.Resolve(ctx, p) {
			found = f
			return nil
		}
		return errors.New("not found on the local network")
	})
	return found
}

func skip(t *testing.T, why string) {
	t.Helper()
	if *required {
		t.Fatal(why)
	}
	t.Skip(why)
}

func hasMulticast(t *testing.T) bool {
	t.Helper()
	ifaces, err := net.Interfaces()
	require.NoError(t, err)
	for _, i := range ifaces {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagMulticast != 0 && i.Flags&net.FlagLoopback == 0 {
			return true
		}
	}
	return false
}

// What comes from the local network is bounded and checked.
func TestMDNSHostileAnswers(t *testing.T) {
	h := newHost(t, 1)
	var found []peer.AddrInfo
	m, err := startMDNS(h, testNetwork, slog.New(slog.DiscardHandler), func(info peer.AddrInfo) { found = append(found, info) })
	require.NoError(t, err)
	m.Close() // take is called by hand
	text := func(addr string, key byte) string { return mdnsPrefix + addr + "/p2p/" + testID(key).String() }
	m.take([]string{
		"", "dnsaddr=", "dnsaddr=/x", "dnsaddr=/ip4/10.0.0.1/tcp/1", // no peer ID
		text("/ip4/127.0.0.1/tcp/1", 5),            // whose loopback?
		text("/ip4/10.0.0.1/tcp/1/p2p-circuit", 6), // not direct
		text("/ip4/10.0.0.1/tcp/1", 1),             // ourselves
		text("/ip4/10.0.0.2/tcp/1", 7),
		text("/ip4/10.0.0.2/tcp/1", 7),
	})
	require.Equal(t, []peer.AddrInfo{{ID: testID(7), Addrs: addrsOf("/ip4/10.0.0.2/tcp/1")}}, found)
	m.take([]string{text("/ip4/10.0.0.2/tcp/1", 7)})
	require.Len(t, found, 1, "told again though nothing changed")
	var many []string
	for i := range 100 {
		many = append(many, text("/ip4/10.0.0.3/tcp/"+string(rune('1'+i%9)), byte(10+i)))
	}
	m.take(many)
	require.Len(t, found, 1+2*mdnsAddrs)
}
