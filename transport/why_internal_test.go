package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

func addrPorts(texts ...string) (out []netip.AddrPort) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddrPort(text))
	}
	return out
}

// Each reason is found from what makes it true, and from nothing less.
func TestPATH34Reasons(t *testing.T) {
	// Two port-restricted NATs whose probes were all lost.
	usual := func(change func(*facts)) facts {
		f := facts{
			path: PathRelayed, linked: true, records: 1, heard: true, since: 3 * time.Second, sent: 14,
			mapping: [2]string{natEndpoint, natUnknown},
			addrs:   addrPorts("5.20.0.2:4000", "192.168.1.2:4000"),
			named:   addrPorts("31.21.0.2:5000", "192.168.2.2:5000"),
		}
		change(&f)
		return f
	}
	hard := disco.Network{IPv4: disco.MappingDependent}
	for _, c := range []struct {
		name   string
		change func(*facts)
		want   reason
	}{
		{"direct", func(f *facts) { f.path = PathDirect }, reason{}},
		{"no answer", func(*facts) {}, reasonFiltered},
		{"hidden here", func(f *facts) { f.hides, f.noSocket, f.addrs = true, true, nil }, reasonSelfHides},
		{"not disclosed here", func(f *facts) { f.withheld, f.heard = true, false }, reasonSelfNotDisclosed},
		{"no socket", func(f *facts) { f.noSocket = true }, reasonNoUDPSocket},
		{"lost again", func(f *facts) { f.wasDirect = true }, reasonDirectLost},
		{"silent", func(f *facts) { f.heard, f.named = false, nil }, reasonPeerSilent},
		{"silent, just dialled", func(f *facts) { f.heard, f.named, f.since = false, nil, time.Second }, reasonTooSoon},
		{"just heard", func(f *facts) { f.since = time.Second }, reasonTooSoon},
		{"no UDP here", func(f *facts) { f.noUDP, f.addrs = true, addrPorts("192.168.1.2:4000") }, reasonSelfUDP},
		{"no UDP there", func(f *facts) { f.named = addrPorts("192.168.2.2:5000") }, reasonPeerUDP},
		{"no UDP there, it says", func(f *facts) { f.network.NoUDP = true }, reasonPeerUDP},
		{"no UDP at all", func(f *facts) { f.noUDP, f.network.NoUDP = true, true }, reasonBothUDP},
		{"no UDP at all, it does not say", func(f *facts) {
			f.noUDP, f.addrs, f.named = true, addrPorts("192.168.1.2:4000"), addrPorts("192.168.2.2:5000")
		}, reasonBothUDP},
		{"no UDP here, hard there", func(f *facts) { f.noUDP, f.network = true, hard }, reasonSelfUDP},
		{"hard there", func(f *facts) { f.named = addrPorts("31.21.0.2:5000", "31.21.0.2:5001") }, reasonPeerHard},
		{"a mapped port there is not hard", func(f *facts) {
			f.named, f.network.IPv4 = addrPorts("31.21.0.2:5000", "31.21.0.2:5001"), disco.MappingIndependent
		}, reasonFiltered},
		{"hard here", func(f *facts) { f.mapping[0] = natPort }, reasonSelfHard},
		{"hard twice", func(f *facts) { f.mapping[0], f.network = natAddress, hard }, reasonBothHard},
		{"hard twice, just heard", func(f *facts) { f.mapping[0], f.network, f.since = natPort, hard, 0 }, reasonBothHard},
		{"hard twice beside IPv6", func(f *facts) {
			f.mapping[0], f.network = natPort, hard
			f.addrs, f.named = append(f.addrs, addrPorts("[2a04::1]:1")...), append(f.named, addrPorts("[2a04::2]:1")...)
		}, reasonFiltered},
		{"families", func(f *facts) { f.named = addrPorts("[2a04::2]:1") }, reasonNoFamily},
		{"nothing may be probed", func(f *facts) { f.sent, f.refused = 0, 2 }, reasonNothingToProbe},

		{"unknown", func(f *facts) { f.path, f.records, f.err = PathNone, 0, errors.New("x") }, reasonNobodyKnows},
		{"not there", func(f *facts) {
			f.path, f.relays = PathNone, map[peer.ID]relayVerdict{"a": relayGone, "b": relayDown}
		}, reasonPeerGone},
		{"its relays are down", func(f *facts) { f.path, f.relays = PathNone, map[peer.ID]relayVerdict{"a": relayDown} }, reasonPeerRelays},
		{"no handshake", func(f *facts) { f.path, f.relays = PathNone, map[peer.ID]relayVerdict{"a": relayUp} }, reasonNoHandshake},
		{"no link", func(f *facts) { f.path, f.linked = PathNone, false }, reasonNoRelayLink},
		{"never joined", func(f *facts) { f.path, f.linked, f.unjoined, f.records = PathNone, false, true, 0 }, reasonUnjoined},
		{"another key there", func(f *facts) {
			f.path, f.otherKey, f.relays = PathNone, true, map[peer.ID]relayVerdict{"a": relayGone}
		}, reasonPeerOtherKey},
		{"no relays wanted", func(f *facts) { f.path, f.noRelays, f.linked = PathNone, true, false }, reasonNoRelays},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := usual(c.change).reason()
			require.Equal(t, c.want, got)
			require.False(t, strings.HasSuffix(got.cause, ".") || strings.HasSuffix(got.cure, "."))
		})
	}
}

// A peer that changes all the time fills its timeline and no more: the start of
// the dial stays, and the latest.
func TestPATH34TimelineIsBounded(t *testing.T) {
	var all timelines
	all.note("nobody", stepRelay, "up", "x")
	require.Empty(t, all.peers, "only who is dialled, or connects, has one")
	all.begin("a")
	for i := range 10 * maxSteps {
		all.note("a", stepPath, "selected", "way %d", i)
	}
	all.with("a", false, func(tl *timeline) {
		require.Len(t, tl.steps, maxSteps)
		steps := tl.show()
		require.Len(t, steps, maxSteps+1)
		require.Equal(t, "way 0", steps[0].Detail)
		require.Equal(t, fmt.Sprintf("way %d", 10*maxSteps-1), steps[len(steps)-1].Detail)
		require.Equal(t, fmt.Sprintf("%d steps left out", 9*maxSteps), steps[maxSteps/2].Detail)
		for i := range 10 * maxProbed {
			if c := tl.candidate(netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i+1))); c != nil {
				c.sent++
			}
		}
		require.Len(t, tl.probed, maxProbed)
		require.Len(t, tl.steps, maxSteps)
	})
	all.begin("a")
	all.with("a", false, func(tl *timeline) { require.Empty(t, tl.show(), "a new dial begins anew") })
	for i := range 2 * maxTimelines {
		all.begin(peer.ID(strconv.Itoa(i)))
	}
	require.Len(t, all.peers, maxTimelines)
	require.NotContains(t, all.peers, peer.ID("a"))
	require.Contains(t, all.peers, peer.ID(strconv.Itoa(2*maxTimelines-1)))
}

// PATH-34: who connects under many keys fills no memory with its steps.
func TestPATH34TimelinesAreBoundedTogether(t *testing.T) {
	var all timelines
	for p := range maxTimelines {
		id := peer.ID(strconv.Itoa(p))
		all.begin(id)
		for i := range maxSteps {
			all.note(id, stepCall, "received", "%d %s", i, strings.Repeat("é", maxDetail))
		}
		require.LessOrEqual(t, all.steps, maxAllSteps)
	}
	steps := 0
	for _, tl := range all.peers {
		steps += len(tl.steps)
		for _, s := range tl.steps {
			require.LessOrEqual(t, len(s.detail), maxDetail+len("…"))
		}
	}
	require.Equal(t, all.steps, steps)
	require.Len(t, all.peers, maxAllSteps/maxSteps)
	require.Contains(t, all.peers, peer.ID(strconv.Itoa(maxTimelines-1)))
	all.begin(peer.ID(strconv.Itoa(maxTimelines - 1)))
	require.Equal(t, steps-maxSteps, all.steps)
}

// PATH-14, PATH-34: strangers that name ever other addresses make this node hold
// 32 MiB of steps at most.
func TestPATH14TimelinesOfStrangers(t *testing.T) {
	var h Host
	addrs := make([]netip.AddrPort, disco.MaxAddrs)
	for i := range 300 {
		for j := range 200 {
			for n := range addrs {
				addrs[n] = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, byte(j), byte(n)}), 60000)
			}
			h.traced(relay.Key{byte(i), byte(i >> 8), 1}, socket.Trace{Kind: socket.TraceHeard, Addrs: addrs})
		}
	}
	size := 0
	for _, tl := range h.timelines.peers {
		for _, s := range tl.steps {
			size += len(s.detail)
		}
	}
	require.Positive(t, size)
	require.LessOrEqual(t, size, 32<<20)
}

// What is repeated is one step, and a candidate is one whatever is sent to it.
func TestPATH34TimelineAggregates(t *testing.T) {
	var all timelines
	all.begin("a")
	at := netip.MustParseAddrPort("31.21.0.2:5000")
	all.with("a", false, func(tl *timeline) {
		for range 3 {
			tl.add(stepCall, "sent", "over one")
			tl.add(stepCall, "sent", "over two")
		}
		tl.candidate(at).sent = 7
		steps := tl.show()
		require.Len(t, steps, 3)
		require.Equal(t, "over one (3 times)", steps[0].Detail)
		require.Equal(t, Step{At: steps[2].At, What: stepProbe, Detail: "31.21.0.2:5000: 7 probes sent", Verdict: "no answer"}, steps[2])
	})
	h := &Host{}
	h.timelines.peers = all.peers
	ev := path.Event{Kind: path.Opened, Path: path.ID{Addr: at}, RTT: 12 * time.Millisecond, Reason: "answered"}
	h.pathStep("a", ev, Path{Kind: PathDirect, Addr: at.String()})
	ev.Kind, ev.Reason = path.Closed, "stopped answering"
	h.pathStep("a", ev, Path{Kind: PathDirect, Addr: at.String()})
	h.timelines.with("a", false, func(tl *timeline) {
		require.Equal(t, "answered, then stopped answering", tl.show()[2].Verdict)
		require.Equal(t, "stopped answering", tl.directEnd)
	})
}
