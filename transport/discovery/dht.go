package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	routingdiscovery "github.com/libp2p/go-libp2p/p2p/discovery/routing"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	// relayRole is what relays announce themselves under, as providers (PATH-30).
	relayRole = "alknet/role/relay"

	dhtLookup     = 30 * time.Second // one search
	dhtDial       = 10 * time.Second // one bootstrap peer
	dhtRefresh    = 10 * time.Minute
	dhtSeedPeers  = 8 // remembered servers tried at once
	dhtFewPeers   = 3 // a routing table this small is seeded again
	dhtPoll       = 100 * time.Millisecond
	rolesFound    = 32 // relays taken from one search
	storeEntries  = 100_000
	storeBytes    = 64 << 20
	providerBytes = 8 << 20
)

// kademlia is the DHT of one network. It owns one cancel and one WaitGroup;
// Close returns after its loops.
type kademlia struct {
	dht    *dht.IpfsDHT
	host   host.Host
	server bool
	log    *slog.Logger
	seeds  func() (bootstrap, remembered []peer.AddrInfo)

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

type kademliaConfig struct {
	host    host.Host
	network string
	server  bool
	admit   func(peer.ID) bool // nil = everyone
	now     func() time.Time
	seeds   func() (bootstrap, remembered []peer.AddrInfo)
	log     *slog.Logger
}

// startKademlia joins the DHT in the background.
func startKademlia(cfg kademliaConfig) (*kademlia, error) {
	mode := dht.ModeClient
	if cfg.server {
		mode = dht.ModeServer
	}
	opts := []dht.Option{
		dht.Mode(mode),
		dht.ProtocolPrefix(protocol.ID("/alknet/" + cfg.network)),
		dht.Validator(Validator{Network: cfg.network, Now: cfg.now}),
		dht.ValueDatastore(newStore(storeEntries, storeBytes)),
		dht.ProviderDatastore(newStore(storeEntries, providerBytes)),
		dht.MaxRecordAge(MaxRecordLife + MaxRecordAhead),
		dht.RoutingTableRefreshPeriod(dhtRefresh),
		dht.RoutingTableRefreshQueryTimeout(dhtDial),
		dht.AddressFilter(dialable),
	}
	if cfg.admit != nil {
		opts = append(opts,
			dht.RoutingTableFilter(func(_ any, p peer.ID) bool { return cfg.admit(p) }),
			dht.QueryFilter(func(_ any, info peer.AddrInfo) bool { return cfg.admit(info.ID) }))
	}
	d, err := dht.New(cfg.host, opts...)
	if err != nil {
		return nil, fmt.Errorf("start DHT: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k := &kademlia{dht: d, host: cfg.host, server: cfg.server, log: cfg.log, seeds: cfg.seeds, cancel: cancel}
	k.wg.Go(func() { k.keepSeeded(ctx) })
	return k, nil
}

// Close leaves the DHT.
func (k *kademlia) Close() error {
	k.cancel()
	k.wg.Wait()
	return k.dht.Close()
}

// put publishes a value; it needs at least one other DHT server unless this
// node is one, whose own store then has it.
func (k *kademlia) put(ctx context.Context, v value) error {
	ctx, cancel := context.WithTimeout(ctx, dhtLookup)
	defer cancel()
	alone := k.dht.RoutingTable().Size() == 0
	if alone && !k.server {
		return errNoDHT
	}
	err := k.dht.PutValue(ctx, v.key, v.raw)
	if err != nil && !(alone && k.server) {
		return fmt.Errorf("put into DHT: %w", err)
	}
	return nil
}

// deposit is put for another node; unlike put it fails when this node is alone,
// for then its own store is all that has the record.
func (k *kademlia) deposit(ctx context.Context, v value) error {
	if err := k.put(ctx, v); err != nil {
		return err
	}
	if k.dht.RoutingTable().Size() == 0 {
		return errNoDHT
	}
	return nil
}

// search calls found for every value under key that is better than those
// before, until the search is over.
func (k *kademlia) search(ctx context.Context, key string, found func(raw []byte)) error {
	ctx, cancel := context.WithTimeout(ctx, dhtLookup)
	defer cancel()
	if !k.server {
		if err := k.waitPeers(ctx); err != nil {
			return err
		}
	}
	return k.lookup(ctx, key, found)
}

// lookup is search among the servers that are known by now, within the time of
// ctx.
func (k *kademlia) lookup(ctx context.Context, key string, found func(raw []byte)) error {
	values, err := k.dht.SearchValue(ctx, key, dht.Quorum(0))
	if err != nil {
		return fmt.Errorf("search DHT: %w", err)
	}
	for raw := range values {
		found(raw)
	}
	return ctx.Err()
}

// advertise announces this node as a relay.
func (k *kademlia) advertise(ctx context.Context) error {
	_, err := routingdiscovery.NewRoutingDiscovery(k.dht).Advertise(ctx, relayRole)
	return err
}

// relays returns nodes that announced themselves as relays, with addresses:
// hints from anyone, at most rolesFound.
func (k *kademlia) relays(ctx context.Context) ([]peer.AddrInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, dhtLookup)
	defer cancel()
	found, err := routingdiscovery.NewRoutingDiscovery(k.dht).FindPeers(ctx, relayRole, discovery.Limit(rolesFound))
	if err != nil {
		return nil, err
	}
	var relays []peer.AddrInfo
	for info := range found {
		if len(info.Addrs) == 0 {
			info.Addrs = k.host.Peerstore().Addrs(info.ID)
		}
		info.Addrs = trimAddrs(info.Addrs, MaxRelayAddrs)
		if info.ID != k.host.ID() && len(info.Addrs) > 0 {
			relays = append(relays, info)
		}
	}
	return relays, nil
}

// servers returns the DHT servers that answered us lately, with addresses.
func (k *kademlia) servers() []peer.AddrInfo {
	var servers []peer.AddrInfo
	for _, p := range k.dht.RoutingTable().ListPeers() {
		if addrs := trimAddrs(k.host.Peerstore().Addrs(p), MaxRelayAddrs); len(addrs) > 0 {
			servers = append(servers, peer.AddrInfo{ID: p, Addrs: addrs})
		}
	}
	return servers
}

var errNoDHT = errors.New("no DHT server is known to be up")

// waitPeers returns when the routing table has a peer. kad-dht has no event for
// it, so this looks again a few times a second.
func (k *kademlia) waitPeers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dhtDial)
	defer cancel()
	tick := time.NewTicker(dhtPoll)
	defer tick.Stop()
	for k.dht.RoutingTable().Size() == 0 {
		select {
		case <-ctx.Done():
			return errNoDHT
		case <-tick.C:
		}
	}
	return nil
}

// keepSeeded connects to known DHT servers while the routing table is small,
// so that the network is found again whichever of them is still up.
func (k *kademlia) keepSeeded(ctx context.Context) {
	const first, slow = 500 * time.Millisecond, 30 * time.Second
	wait := first
	for {
		size := k.dht.RoutingTable().Size()
		if size < dhtFewPeers {
			k.seed(ctx)
		}
		if size > 0 {
			wait = slow
		} else {
			wait = min(max(wait, first)*2, slow)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(jitter(wait)):
		}
	}
}

// seed dials the peers to join through, all at once. Identify then tells
// kad-dht which of them are servers.
func (k *kademlia) seed(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dhtDial)
	defer cancel()
	bootstrap, remembered := k.seeds()
	rand.Shuffle(len(remembered), func(i, j int) { remembered[i], remembered[j] = remembered[j], remembered[i] })
	if len(remembered) > dhtSeedPeers {
		remembered = remembered[:dhtSeedPeers]
	}
	var wg sync.WaitGroup
	for _, info := range append(bootstrap, remembered...) {
		if info.ID == k.host.ID() {
			continue
		}
		wg.Go(func() {
			if err := k.host.Connect(ctx, info); err != nil {
				k.log.Debug("DHT server not reached", "peer", info.ID, "err", err)
			}
		})
	}
	wg.Wait()
}

// dialable keeps the addresses that may be told and remembered.
func dialable(addrs []ma.Multiaddr) []ma.Multiaddr {
	return trimAddrs(addrs, MaxAddrs)
}

// jitter returns d, 10 % more or less.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
