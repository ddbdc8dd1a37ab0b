package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	dhtpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

// dials notes whom a host ever tried to dial, in vain or not.
type dials struct {
	mu    sync.Mutex
	peers []peer.ID
}

func (d *dials) InterceptPeerDial(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.peers, p) {
		d.peers = append(d.peers, p)
	}
	return true
}

func (*dials) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }

func (*dials) InterceptAccept(network.ConnMultiaddrs) bool { return true }

func (*dials) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool { return true }

func (*dials) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

func (d *dials) get() []peer.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.peers)
}

// newHidden is a host that listens nowhere, and what it dials.
func newHidden(t *testing.T, key byte) (host.Host, *dials) {
	t.Helper()
	d := new(dials)
	return newHost(t, key, libp2p.NoListenAddrs, libp2p.ConnectionGater(d)), d
}

// onlyDialled fails the test if h spoke, or tried to speak, to anybody else.
func onlyDialled(t *testing.T, h host.Host, d *dials, relays ...peer.ID) {
	t.Helper()
	require.ElementsMatch(t, relays, h.Network().Peers())
	require.ElementsMatch(t, relays, d.get())
}

// finds is an error until d finds, by source, the record of p that is wanted.
func finds(t *testing.T, d *Discovery, p peer.ID, source Source, want func(*Record) bool) func() error {
	return func() error {
		for _, f := range resolve(t, d, p) {
			if f.Source == source && want(f.Record) {
				return nil
			}
		}
		return fmt.Errorf("%s is not found by %s", p, source)
	}
}

// inDHT is the record of p that d's own DHT node finds, nil if none.
func inDHT(t *testing.T, d *Discovery, p peer.ID) (r *Record) {
	t.Helper()
	_ = d.dht.search(t.Context(), RecordKey(p), func(raw []byte) {
		var err error
		r, err = OpenRecord(raw, testNetwork, p, time.Now())
		require.NoError(t, err)
	})
	return r
}

func names(relay host.Host) func(*Record) bool {
	return func(r *Record) bool { return len(r.Relays) > 0 && r.Relays[0].ID == relay.ID() }
}

// PATH-38: look-ups through relays alone. Nodes at different relays find each
// other because the relays share a DHT, and speak to their relays only.
func TestPATH38RelaysOnly(t *testing.T) {
	r1, r2, server := newHost(t, 1), newHost(t, 2), newHost(t, 3)
	dr1 := start(t, Config{Host: r1, Relay: true, DHTServer: true, Content: func() Content { return Content{Addrs: r1.Addrs()} }})
	join := []peer.AddrInfo{infoOf(r1)}
	dr2 := start(t, Config{Host: r2, Relay: true, DHTServer: true, Bootstrap: join})
	ds := start(t, Config{Host: server, DHTServer: true, Bootstrap: join})
	for _, d := range []*Discovery{dr1, dr2, ds} {
		eventually(t, hasDHTPeers(d, 2))
	}

	a, aDials := newHidden(t, 10)
	b, bDials := newHidden(t, 11)
	n := newHost(t, 12)
	at1, at2 := []peer.AddrInfo{infoOf(r1)}, []peer.AddrInfo{infoOf(r2)}
	aHome := boxed(Content{Relays: at1})
	// Bootstrap nodes that are not relays are not spoken to.
	elsewhere := []peer.AddrInfo{infoOf(server), infoOf(n)}
	da := start(t, Config{Host: a, RelaysOnly: true, Content: aHome.get})
	dir := t.TempDir()
	bConfig := Config{
		Host: b, RelaysOnly: true, Bootstrap: elsewhere, CacheDir: dir,
		OwnRelays: func() []peer.AddrInfo { return at2 },
		Content:   func() Content { return Content{Relays: at2} },
	}
	db := start(t, bConfig)
	dn := start(t, Config{Host: n, Bootstrap: at2})
	require.NoError(t, da.Publish(t.Context()))
	require.NoError(t, db.Publish(t.Context()))

	eventually(t, finds(t, db, a.ID(), SourceRelay, names(r1)))
	eventually(t, func() error {
		if r := dn.Latest(a.ID()); r == nil {
			resolve(t, dn, a.ID())
			return errors.New("not found by an ordinary node")
		}
		return nil
	})
	eventually(t, finds(t, da, b.ID(), SourceRelay, names(r2)))
	require.Zero(t, da.DHTPeers())
	require.Empty(t, resolve(t, db, testID(99)), "nobody has this key")

	// a moves to the other relay, whose puts reach the DHT; its first relay
	// still has the old record, and finds the new one for those who ask.
	aHome.set(Content{Relays: at2})
	require.NoError(t, da.Publish(t.Context()))
	eventually(t, func() error {
		// Again, for a put that was under way may have linked them anew.
		if err := a.Network().ClosePeer(r1.ID()); err != nil {
			return err
		}
		if dr1.linked(a.ID()) {
			return errors.New("still linked")
		}
		return nil
	})
	eventually(t, func() error {
		if r := inDHT(t, ds, a.ID()); r == nil || !names(r2)(r) {
			return errors.New("not in the DHT yet")
		}
		return nil
	})
	c, cDials := newHidden(t, 13)
	dc := start(t, Config{Host: c, RelaysOnly: true, OwnRelays: func() []peer.AddrInfo { return at1 }})
	eventually(t, func() error {
		resolve(t, dc, a.ID())
		if r := dc.Latest(a.ID()); r == nil || !names(r2)(r) {
			return errors.New("the old record still")
		}
		return nil
	})

	require.ElementsMatch(t, []peer.ID{r2.ID()}, a.Network().Peers())
	require.ElementsMatch(t, []peer.ID{r1.ID(), r2.ID()}, aDials.get())
	onlyDialled(t, b, bDials, r2.ID())
	onlyDialled(t, c, cDials, r1.ID())

	// Relays become known by what a relay tells, and over a restart from the cache.
	db.LearnRelays(dr1.RelayRecords())
	require.NoError(t, db.Close())
	told := make(chan []peer.AddrInfo, 1)
	bConfig.FoundRelays = func(relays []peer.AddrInfo) {
		select {
		case told <- relays:
		default:
		}
	}
	start(t, bConfig)
	require.GreaterOrEqual(t, indexPeer(<-told, r1.ID()), 0)
	onlyDialled(t, b, bDials, r2.ID())
}

// PATH-38: a peer cannot see who looks for it by naming a relay of its own.
func TestPATH38RelaysOfTheRecordAreNotAsked(t *testing.T) {
	relay, trap := newHost(t, 1), newHost(t, 2)
	start(t, Config{Host: relay, Relay: true, DHTServer: true})
	start(t, Config{Host: trap, Relay: true})
	home := []peer.AddrInfo{infoOf(relay)}
	bait := newHost(t, 3)
	dbait := start(t, Config{
		Host: bait, OwnRelays: func() []peer.AddrInfo { return home },
		Content: func() Content { return Content{Relays: []peer.AddrInfo{infoOf(trap)}} },
	})
	require.NoError(t, dbait.Publish(t.Context()))

	h, dialled := newHidden(t, 4)
	d := start(t, Config{Host: h, RelaysOnly: true, OwnRelays: func() []peer.AddrInfo { return home }})
	require.Len(t, resolve(t, d, bait.ID()), 1)
	all := resolve(t, d, bait.ID())
	require.Equal(t, SourceCache, all[0].Source)
	onlyDialled(t, h, dialled, relay.ID())

	// One of a ticket is asked: whoever holds the ticket chose to.
	resolve(t, d, bait.ID(), infoOf(trap))
	onlyDialled(t, h, dialled, relay.ID(), trap.ID())
}

// A bootstrap node is asked once it is known to be a relay.
func TestPATH38BootstrapRelays(t *testing.T) {
	relay, other := newHost(t, 1), newHost(t, 2)
	dr := start(t, Config{Host: relay, Relay: true, DHTServer: true})
	require.Nil(t, dr.server.table.put(sealed(t, 9).value(), time.Now()))
	h, dialled := newHidden(t, 3)
	d := start(t, Config{Host: h, RelaysOnly: true, Bootstrap: []peer.AddrInfo{infoOf(other), infoOf(relay)}})
	require.Empty(t, resolve(t, d, testID(9)))
	require.Empty(t, dialled.get())

	require.NoError(t, h.Connect(t.Context(), infoOf(relay)))
	eventually(t, func() error {
		if len(resolve(t, d, testID(9))) == 0 {
			return errors.New("the relay was not asked")
		}
		return nil
	})
	onlyDialled(t, h, dialled, relay.ID())
}

func TestPATH38Conflicts(t *testing.T) {
	h := newHost(t, 1)
	for name, bad := range map[string]Config{
		"relay":      {Relay: true},
		"DHT server": {DHTServer: true},
		"mDNS":       {MDNS: true},
	} {
		bad.Host, bad.Key, bad.Network, bad.RelaysOnly = h, testKey(1), testNetwork, true
		_, err := New(bad)
		require.Error(t, err, name)
	}
}

// A relay that is alone serves those at it, and says at once what it lacks.
func TestPATH38RelayAlone(t *testing.T) {
	for name, server := range map[string]bool{"DHT server": true, "DHT client": false} {
		t.Run(name, func(t *testing.T) {
			relay := newHost(t, 1)
			start(t, Config{Host: relay, Relay: true, DHTServer: server})
			home := Content{Relays: []peer.AddrInfo{infoOf(relay)}}
			a, aDials := newHidden(t, 2)
			b, bDials := newHidden(t, 3)
			da := start(t, Config{Host: a, RelaysOnly: true, Content: func() Content { return home }})
			db := start(t, Config{Host: b, RelaysOnly: true, OwnRelays: func() []peer.AddrInfo { return home.Relays }})
			require.NoError(t, da.Publish(t.Context()))
			require.Equal(t, SourceRelay, lastFound(t, resolve(t, db, a.ID())).Source)
			begin := time.Now()
			require.Empty(t, resolve(t, db, testID(99)))
			require.Less(t, time.Since(begin), lookupTime)
			onlyDialled(t, a, aDials, relay.ID())
			onlyDialled(t, b, bDials, relay.ID())
		})
	}
}

// A flood of questions for unknown keys becomes few searches, and others are
// served meanwhile.
func TestPATH38FloodIsBounded(t *testing.T) {
	const streams, keys = addrStreamsPerPeer, 400
	relay, server, flooder, honest := newHost(t, 1), newHost(t, 2), newHost(t, 3), newHost(t, 4)
	dr := start(t, Config{Host: relay, Relay: true, DHTServer: true})

	unknown := make(map[string]bool)
	var ids []peer.ID
	for i := range keys {
		p := peerOf(fmt.Appendf(nil, "unknown key %020d", i))
		ids = append(ids, p)
		unknown[RecordKey(p)] = true
	}
	var (
		mu       sync.Mutex
		searched = make(map[string]int)
	)
	kad, err := dht.New(server,
		dht.Mode(dht.ModeServer),
		dht.ProtocolPrefix("/alknet/"+testNetwork),
		dht.Validator(Validator{Network: testNetwork}),
		dht.OnRequestHook(func(_ context.Context, _ network.Stream, req *dhtpb.Message) {
			if key := string(req.GetKey()); req.GetType() == dhtpb.Message_GET_VALUE && unknown[key] {
				mu.Lock()
				defer mu.Unlock()
				searched[key]++
			}
		}),
		dht.BootstrapPeers(infoOf(relay)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, kad.Close()) })
	require.NoError(t, server.Connect(t.Context(), infoOf(relay)))
	eventually(t, hasDHTPeers(dr, 1))
	eventually(t, func() error {
		if kad.RoutingTable().Size() == 0 {
			return errNoDHT
		}
		return nil
	})
	known := sealed(t, 9)
	require.NoError(t, kad.PutValue(t.Context(), RecordKey(known.Peer), known.Envelope()))

	client := func(h host.Host) *addrClient {
		return &addrClient{network: testNetwork, now: time.Now, open: func(ctx context.Context, p peer.ID) (network.Stream, error) {
			return h.NewStream(ctx, p, ProtocolID)
		}}
	}
	require.NoError(t, flooder.Connect(t.Context(), infoOf(relay)))
	require.NoError(t, honest.Connect(t.Context(), infoOf(relay)))
	begin := time.Now()
	flood := client(flooder)
	var wg sync.WaitGroup
	var refused, missed int
	work := make(chan peer.ID)
	for range streams {
		wg.Go(func() {
			for p := range work {
				_, err := flood.get(t.Context(), relay.ID(), p)
				mu.Lock()
				switch {
				case errors.Is(err, errBusy):
					refused++
				case err == nil:
					missed++
				}
				mu.Unlock()
			}
		})
	}
	for i, p := range ids {
		work <- p
		if i == keys/2 {
			r, err := client(honest).get(t.Context(), relay.ID(), known.Peer)
			require.NoError(t, err)
			require.Equal(t, known.Envelope(), r.Envelope())
		}
	}
	close(work)
	wg.Wait()
	elapsed := time.Since(begin)

	most := lookupsOfPeerAtOnce + int(elapsed.Seconds()*lookupsOfPeer) + 1
	mu.Lock()
	defer mu.Unlock()
	require.Positive(t, missed)
	require.LessOrEqual(t, missed, most)
	require.Positive(t, refused)
	require.NotEmpty(t, searched, "the relay did not ask the DHT")
	require.LessOrEqual(t, len(searched), most)
	for _, n := range searched {
		require.Equal(t, 1, n, "one search is one question to each server")
	}
}
