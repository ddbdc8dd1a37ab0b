package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
)

// maxRelayRecords bounds the list of relays in a relay's welcome (PATH-25).
const maxRelayRecords = 8

// ErrClosed: the Discovery was closed, or not started yet.
var ErrClosed = errors.New("discovery is not running")

// Content is what a node's own record says.
type Content struct {
	Relays []peer.AddrInfo // home relays with their addresses, best first
	Addrs  []ma.Multiaddr  // own addresses to be known, best first
}

// Config describes a Discovery. Host, Key and Network must be set. The
// functions are called from its goroutines; they must not block for long nor
// call the Discovery.
type Config struct {
	// Host is the libp2p host to speak through; Key is its Ed25519 key.
	Host host.Host
	Key  crypto.PrivKey
	// Network separates networks from each other; see CheckNetwork.
	Network string
	// CacheDir is the folder for what is remembered over restarts, made if need
	// be; "" = remember in memory only.
	CacheDir string

	// Relay: take and give the records of others over ProtocolID, and announce
	// this node as a relay in the DHT.
	Relay bool
	// DHTServer: answer others in the DHT; for nodes with a public address.
	DHTServer bool
	// MDNS: announce and find peers on the local network.
	MDNS bool
	// RelaysOnly: speak to relays and nobody else (PATH-38). Not with Relay,
	// DHTServer or MDNS. There is no DHT client: records are put to OwnRelays,
	// which put them into the DHT, and looked up through relays, which look
	// there. Of Bootstrap only those are asked that are known to be relays: they
	// are among OwnRelays, remembered as relays, or connected and offer
	// ProtocolID. Other relays become known through LearnRelays and the cache.
	RelaysOnly bool

	// Bootstrap are the nodes to join the network through, such as those of a
	// ticket. They are asked for records too.
	Bootstrap []peer.AddrInfo
	// Content says what to publish; nil or an empty Content = nothing.
	Content func() Content
	// OwnRelays are the relays this node is linked to: its records are put
	// there, and they are asked first. nil = those of Content.
	OwnRelays func() []peer.AddrInfo
	// Next and Generation go into the record; see Record.
	Next       [32]byte
	Generation uint32
	// HandOvers are the sealed hand-overs by which this node's key followed
	// earlier ones, at most MaxHandOvers; they are published beside the record.
	HandOvers [][]byte

	// FoundRelays is told of relays that became known (PATH-30): hints from
	// anyone, the same ones again and again. May be nil.
	FoundRelays func([]peer.AddrInfo)
	// FoundPeer is told of peers seen on the local network. May be nil.
	FoundPeer func(peer.AddrInfo)
	// Admit says which peers may be part of our DHT routing, for closed
	// networks (PATH-36); nil = all.
	Admit func(peer.ID) bool
	// OpenStream opens a stream for ProtocolID to a peer whose addresses are in
	// the peerstore; nil = Host.NewStream.
	OpenStream func(context.Context, peer.ID) (network.Stream, error)

	// Now is the clock for records; nil = time.Now.
	Now func() time.Time
	// Logger; nil = silent.
	Logger *slog.Logger
}

// Discovery publishes the addresses of this node and finds those of others.
// All methods may be called concurrently. It owns one cancel and one WaitGroup;
// Close returns after its last goroutine.
type Discovery struct {
	cfg    Config
	self   peer.ID
	log    *slog.Logger
	client *addrClient

	mu      sync.Mutex
	state   state
	ctx     context.Context // of everything that runs; ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	cache   *cache
	server  *addrServer // nil unless Relay
	dht     *kademlia   // nil if RelaysOnly
	mdns    *mdns       // nil unless MDNS
	watches map[peer.ID][]chan peer.AddrInfo

	learned   chan struct{} // has a token when there are new nodes to save
	own       own
	handOvers []*HandOver
	outlets   []*outlet

	closed   chan struct{} // when stop has returned
	closeErr error
}

type state int

const (
	stateNew state = iota
	stateRunning
	stateClosed
)

// New checks the configuration and starts nothing.
func New(cfg Config) (*Discovery, error) {
	if cfg.Host == nil || cfg.Key == nil {
		return nil, errors.New("discovery: Host and Key must be set")
	}
	if err := CheckNetwork(cfg.Network); err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	id, err := peer.IDFromPrivateKey(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	if _, err := rawKey(id); err != nil || id != cfg.Host.ID() {
		return nil, errors.New("discovery: Key must be the Ed25519 key of Host")
	}
	if cfg.RelaysOnly && (cfg.Relay || cfg.DHTServer || cfg.MDNS) {
		return nil, errors.New("discovery: RelaysOnly excludes Relay, DHTServer and MDNS")
	}
	if cfg.Content == nil {
		cfg.Content = func() Content { return Content{} }
	}
	if cfg.OwnRelays == nil {
		cfg.OwnRelays = func() []peer.AddrInfo { return cfg.Content().Relays }
	}
	if cfg.FoundRelays == nil {
		cfg.FoundRelays = func([]peer.AddrInfo) {}
	}
	if cfg.FoundPeer == nil {
		cfg.FoundPeer = func(peer.AddrInfo) {}
	}
	if cfg.OpenStream == nil {
		cfg.OpenStream = func(ctx context.Context, p peer.ID) (network.Stream, error) {
			return cfg.Host.NewStream(ctx, p, ProtocolID)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if len(cfg.HandOvers) > MaxHandOvers {
		return nil, fmt.Errorf("discovery: more than %d hand-overs", MaxHandOvers)
	}
	handOvers := make([]*HandOver, len(cfg.HandOvers))
	for i, raw := range cfg.HandOvers {
		if handOvers[i], err = OpenHandOver(raw); err != nil {
			return nil, fmt.Errorf("discovery: hand-over %d: %w", i, err)
		}
	}
	cfg.Bootstrap = slices.Clone(cfg.Bootstrap)
	d := &Discovery{
		cfg:  cfg,
		self: id,
		log:  cfg.Logger,

		handOvers: handOvers,
		learned:   make(chan struct{}, 1),
		client:    &addrClient{network: cfg.Network, now: cfg.Now, open: cfg.OpenStream},
		watches:   make(map[peer.ID][]chan peer.AddrInfo),
		closed:    make(chan struct{}),
	}
	d.outlets = []*outlet{{name: "relays", put: d.putRelays, changed: make(chan struct{}, 1)}}
	if !cfg.RelaysOnly {
		d.outlets = append(d.outlets, &outlet{name: "dht", put: d.putDHT, changed: make(chan struct{}, 1)})
	}
	return d, nil
}

// Start reads the cache and begins to publish and to join the network, in the
// background; ctx bounds starting only. It fails when the cache folder cannot
// be made and leaves nothing running then.
func (d *Discovery) Start(ctx context.Context) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != stateNew {
		return errors.New("discovery: started twice or closed")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	cache, err := openCache(d.cfg.CacheDir, d.cfg.Network, d.log)
	if err != nil {
		return err
	}
	sub, err := d.cfg.Host.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged))
	if err != nil {
		return fmt.Errorf("watch connections: %w", err)
	}
	d.cache = cache
	if !d.cfg.RelaysOnly {
		d.dht, err = startKademlia(kademliaConfig{
			host:    d.cfg.Host,
			network: d.cfg.Network,
			server:  d.cfg.DHTServer,
			admit:   d.cfg.Admit,
			now:     d.cfg.Now,
			log:     d.log,
			seeds: func() (bootstrap, remembered []peer.AddrInfo) {
				return d.bootstrap(), cache.knownServers()
			},
		})
		if err != nil {
			_ = sub.Close()
			return err
		}
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if d.cfg.MDNS {
		if d.mdns, err = startMDNS(d.cfg.Host, d.cfg.Network, d.log, d.foundLAN); err != nil {
			// The node is of use without.
			d.log.Warn("mDNS not started", "err", err)
		}
	}
	if d.cfg.Relay {
		d.server = newAddrServer(d.cfg.Network, d.cfg.Now, d.log, d.dht, d.linked)
		d.cfg.Host.SetStreamHandler(ProtocolID, d.server.handle)
	}
	d.state = stateRunning
	for _, o := range d.outlets {
		d.wg.Go(func() { d.keepPublished(d.ctx, o) })
	}
	d.wg.Go(func() { d.maintain(d.ctx) })
	d.wg.Go(func() { d.saveLearned(d.ctx) })
	d.wg.Go(func() {
		defer sub.Close()
		d.watchRelays(d.ctx, sub.Out())
	})
	return nil
}

// Close stops everything and saves what was learned. It may be called twice.
func (d *Discovery) Close() error {
	d.mu.Lock()
	started := d.state == stateRunning
	d.state = stateClosed
	d.mu.Unlock()
	if started {
		d.closeErr = d.stop()
		close(d.closed)
	}
	if d.ctx != nil {
		<-d.closed
	}
	return d.closeErr
}

// stop undoes Start, backwards.
func (d *Discovery) stop() error {
	d.cancel()
	d.wg.Wait()
	if d.server != nil {
		d.cfg.Host.RemoveStreamHandler(ProtocolID)
		d.server.Close()
	}
	if d.mdns != nil {
		d.mdns.Close()
	}
	d.noteGood()
	d.cache.saveNodes()
	if d.dht == nil {
		return nil
	}
	if err := d.dht.Close(); err != nil {
		return fmt.Errorf("close DHT: %w", err)
	}
	return nil
}

// Latest returns the last good record of p that is remembered, of any age; nil
// if there is none.
func (d *Discovery) Latest(p peer.ID) *Record {
	if !d.running() {
		return nil
	}
	return d.cache.record(p)
}

// Learn takes in a sealed record of p that came by another way, such as from a
// peer that moved. It is checked like any other (see OpenRecord) and remembered
// if it is newer than the one known.
func (d *Discovery) Learn(p peer.ID, raw []byte) (*Record, error) {
	if !d.running() {
		return nil, ErrClosed
	}
	r, err := OpenRecord(raw, d.cfg.Network, p, d.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("learn record: %w", err)
	}
	d.cache.putRecord(r, d.cfg.Now())
	return r, nil
}

// LearnRelays takes in sealed records that a relay gave of other relays
// (PATH-25, PATH-30), the first eight; bad ones are passed over.
func (d *Discovery) LearnRelays(raws [][]byte) {
	if !d.running() {
		return
	}
	var relays []peer.AddrInfo
	for _, raw := range raws[:min(len(raws), maxRelayRecords)] {
		r, err := openAnyRecord(raw, d.cfg.Network, d.cfg.Now())
		if err != nil {
			d.log.Debug("record of a relay refused", "err", err)
			continue
		}
		if r.Peer == d.self {
			continue
		}
		d.cache.putRecord(r, d.cfg.Now())
		relays = append(relays, peer.AddrInfo{ID: r.Peer, Addrs: trimAddrs(r.Addrs, MaxRelayAddrs)})
	}
	d.foundRelays(relays)
}

// RelayRecords returns sealed records of this node, if it is a relay, and of
// relays it knows, for LearnRelays elsewhere; at most eight.
func (d *Discovery) RelayRecords() [][]byte {
	if !d.running() {
		return nil
	}
	var raws [][]byte
	if d.cfg.Relay {
		if r, err := d.ownRecord(); err == nil && r != nil {
			raws = append(raws, r.envelope)
		}
	}
	for _, info := range d.cache.knownRelays() {
		if r := d.cache.record(info.ID); len(raws) < maxRelayRecords && r != nil && r.check(d.cfg.Now()) == nil {
			raws = append(raws, r.envelope)
		}
	}
	return raws
}

// Relays returns the relays that are known, those of use lately first.
func (d *Discovery) Relays() []peer.AddrInfo {
	if !d.running() {
		return nil
	}
	return d.cache.knownRelays()
}

// DHTPeers returns the number of DHT servers in the routing table; 0 with
// RelaysOnly.
func (d *Discovery) DHTPeers() int {
	if !d.running() || d.dht == nil {
		return 0
	}
	return d.dht.dht.RoutingTable().Size()
}

// maxBootstrap bounds what Join adds up to.
const maxBootstrap = 256

// Join adds nodes to join the network through to those of Config.Bootstrap.
func (d *Discovery) Join(nodes []peer.AddrInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range nodes {
		if i := indexPeer(d.cfg.Bootstrap, n.ID); i >= 0 {
			d.cfg.Bootstrap[i] = n
		} else if len(d.cfg.Bootstrap) < maxBootstrap {
			d.cfg.Bootstrap = append(d.cfg.Bootstrap, n)
		}
	}
}

func (d *Discovery) bootstrap() []peer.AddrInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.cfg.Bootstrap)
}

func (d *Discovery) running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state == stateRunning
}

// begin adds a goroutine to those Close waits for; false when closed.
func (d *Discovery) begin(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != stateRunning {
		return false
	}
	d.wg.Go(f)
	return true
}

// maintain looks for relays, announces this node as one, and remembers who is
// of use: soon after the start, then every some minutes.
func (d *Discovery) maintain(ctx context.Context) {
	const steady = 5 * time.Minute
	if relays := d.cache.knownRelays(); len(relays) > 0 {
		d.cfg.FoundRelays(relays) // those this node joined by may be gone (PATH-30)
	}
	for wait := time.Second; ; wait = min(3*wait, steady) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(jitter(wait)):
		}
		if d.dht != nil {
			d.meetRelays(ctx)
		}
		d.noteGood()
		d.cache.saveNodes()
	}
}

// saveLearned saves new relays soon after they became known, whatever maintain
// waits for meanwhile: a node that is killed early must find the network again,
// even if the one it joined by is gone.
func (d *Discovery) saveLearned(ctx context.Context) {
	const soon = 100 * time.Millisecond // what comes meanwhile is one
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.learned:
		}
		select {
		case <-ctx.Done():
			return // Close saves
		case <-time.After(soon):
			d.cache.saveNodes()
		}
	}
}

// meetRelays looks for relays in the DHT, and announces this node if it is one.
func (d *Discovery) meetRelays(ctx context.Context) {
	if d.cfg.Relay {
		if err := d.dht.advertise(ctx); err != nil {
			d.log.Debug("relay role not announced", "err", err)
		}
	}
	relays, err := d.dht.relays(ctx)
	if err != nil {
		d.log.Debug("relays not looked up", "err", err)
	}
	d.foundRelays(relays)
	if d.cfg.Relay {
		d.refreshRelayRecords(ctx)
	}
}

// foundRelays remembers relays and tells the host.
func (d *Discovery) foundRelays(relays []peer.AddrInfo) {
	if len(relays) == 0 {
		return
	}
	d.cache.addRelays(relays, time.Now())
	select {
	case d.learned <- struct{}{}:
	default:
	}
	d.cfg.FoundRelays(relays)
}

// refreshRelayRecords looks up the records that RelayRecords gives out.
func (d *Discovery) refreshRelayRecords(ctx context.Context) {
	known := d.cache.knownRelays()
	for _, info := range known[:min(len(known), maxRelayRecords)] {
		if r := d.cache.record(info.ID); r != nil && r.check(d.cfg.Now()) == nil {
			continue
		}
		_ = d.dht.search(ctx, RecordKey(info.ID), func(raw []byte) {
			if r, err := OpenRecord(raw, d.cfg.Network, info.ID, d.cfg.Now()); err == nil {
				d.cache.putRecord(r, d.cfg.Now())
			}
		})
	}
}

// noteGood remembers the relays and DHT servers that are of use right now.
func (d *Discovery) noteGood() {
	now := time.Now()
	for _, r := range append(d.cfg.OwnRelays(), d.cache.knownRelays()...) {
		if d.linked(r.ID) {
			d.cache.goodRelay(r, now)
		}
	}
	if d.dht != nil {
		d.cache.goodServers(d.dht.servers(), now)
	}
}

// linked reports whether there is a connection to p.
func (d *Discovery) linked(p peer.ID) bool {
	return d.cfg.Host.Network().Connectedness(p) == network.Connected
}

// watchRelays publishes again when a link to one of our relays comes up: the
// relay may have been restarted and know nothing.
func (d *Discovery) watchRelays(ctx context.Context, events <-chan any) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				return
			}
			ev := e.(event.EvtPeerConnectednessChanged)
			if ev.Connectedness == network.Connected && indexPeer(d.cfg.OwnRelays(), ev.Peer) >= 0 {
				d.Changed()
			}
		}
	}
}

// foundLAN takes in a peer seen on the local network.
func (d *Discovery) foundLAN(info peer.AddrInfo) {
	d.mu.Lock()
	for _, watch := range d.watches[info.ID] {
		select {
		case watch <- info:
		default: // it has one already
		}
	}
	d.mu.Unlock()
	d.cfg.FoundPeer(info)
}

// remember puts the addresses of a peer about to be dialled into the peerstore.
func (d *Discovery) remember(info peer.AddrInfo) {
	if len(info.Addrs) > 0 {
		d.cfg.Host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
	}
}
