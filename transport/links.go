package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// RelayProtocol is the stream protocol spoken with relays (PATH-25).
const RelayProtocol protocol.ID = "/alknet/relay"

const (
	maxKnown      = 64              // relays this node may choose its homes from
	firstLinkWait = 5 * time.Second // for a link, by a dial begun before there was one
	drainTimeout  = 2 * time.Second // for the clients of a relay to find others
	redialAgain   = 100 * time.Millisecond
	silentAfter   = 3 * time.Second // a connection of somebody who made another one
)

// links joins the pool of relay links with the host that dials them and the
// socket that sends over them.
type links struct {
	h    *Host
	pool *relay.Pool
	live atomic.Pointer[[]relay.Key] // links that are up
	ups  broadcast                   // a link came up

	homed broadcast // homes were chosen

	mu       sync.Mutex
	known    []relay.Key
	observed map[relay.Key]string // where each relay sees this node
	broken   map[relay.Key]error  // relays whose last link ended, and why
}

func newLinks(h *Host) *links {
	l := &links{h: h, observed: make(map[relay.Key]string), broken: make(map[relay.Key]error)}
	l.live.Store(new([]relay.Key))
	return l
}

// start makes the pool; the host can dial by now.
func (l *links) start() {
	l.pool = relay.NewPool(relay.PoolConfig{
		Key:    l.h.key,
		BootID: l.h.socket.Boot(),
		Dial:   l.dial,
		OnFrame: func(via, from relay.Key, kind relay.FrameType, ecn byte, payload []byte) {
			l.h.socket.Receive(via, from, kind, ecn, payload)
		},
		OnPeerGone: l.h.socket.PeerGone,
		OnLink:     l.changed,
		OnDraining: l.h.socket.LinkDraining,
		OnWelcome:  l.welcomed,
		OnHomes: func([]relay.Key) {
			l.homed.notify()
			l.h.publish()
		},
		Logger: l.h.log,
	})
}

func (l *links) close() {
	if l.pool != nil {
		_ = l.pool.Close()
	}
}

// Send implements socket.Relays.
func (l *links) Send(via, to relay.Key, kind relay.FrameType, ecn byte, payload []byte) error {
	return l.pool.Send(via, to, kind, ecn, payload)
}

// Ensure implements socket.Relays.
func (l *links) Ensure(ctx context.Context, via relay.Key) error {
	if l.h.cfg.NoRelays {
		return errors.New("relays are not used")
	}
	return l.pool.Foreign(ctx, via)
}

// Live implements socket.Relays.
func (l *links) Live() []relay.Key { return *l.live.Load() }

// waitLive returns once a link is up; false when none comes in time, or none
// is known to come.
func (l *links) waitLive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, firstLinkWait)
	defer cancel()
	for {
		up := l.ups.wait()
		l.mu.Lock()
		known := len(l.known)
		l.mu.Unlock()
		if len(l.Live()) > 0 || known == 0 {
			return known > 0
		}
		select {
		case <-up:
		case <-ctx.Done():
			return false
		}
	}
}

// homeKeys are the relays where this node can be reached.
func (l *links) homeKeys() []relay.Key {
	if l.pool == nil {
		return nil
	}
	var keys []relay.Key
	for _, home := range l.pool.Homes() {
		if home.Home {
			keys = append(keys, home.Key)
		}
	}
	return keys
}

// linkedHomes are those of them that are linked.
func (l *links) linkedHomes() []relay.Key {
	if l.pool == nil {
		return nil
	}
	var keys []relay.Key
	for _, home := range l.pool.Homes() {
		if home.Home && home.Up {
			keys = append(keys, home.Key)
		}
	}
	return keys
}

// alone tells that no more than one relay is known.
func (l *links) alone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.known) <= 1
}

// waitHome returns once this node has a home to name to others.
func (l *links) waitHome(ctx context.Context) error {
	for {
		chosen := l.homed.wait()
		if len(l.homeKeys()) > 0 {
			return nil
		}
		select {
		case <-chosen:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add names relays to choose homes from.
func (l *links) add(keys ...relay.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.known)
	for _, k := range keys {
		if len(l.known) < maxKnown && !slices.Contains(l.known, k) {
			l.known = append(l.known, k)
		}
	}
	if len(l.known) > before && !l.h.cfg.NoRelays {
		l.pool.SetKnown(slices.Clone(l.known))
	}
}

// setLive notes which links are up, and why one is not.
func (l *links) setLive(k relay.Key, up bool, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(*l.live.Load()), func(o relay.Key) bool { return o == k })
	if up {
		list = append(list, k)
		delete(l.broken, k)
	} else {
		if len(l.broken) >= maxKnown {
			clear(l.broken)
		}
		l.broken[k] = cause
		delete(l.observed, k)
		l.h.clock.forget(k)
	}
	l.live.Store(&list)
}

// welcomed notes where the relay sees this node.
func (l *links) welcomed(k relay.Key, w relay.Welcome) {
	l.mu.Lock()
	if w.Observed != "" {
		l.observed[k] = w.Observed
	}
	l.mu.Unlock()
	l.h.clock.tell(k, w.Clock())
	l.h.socket.SetLimits(k, w.Limits.Rate, w.Limits.Burst)
	l.h.reflectors.learn(k, w.Features)
	l.h.gather()
	l.h.disc.LearnRelays(w.Records)
}

// seen lists where relays see this node.
func (l *links) seen() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.observed))
}

// dial opens the relay's stream on a stock connection (PATH-5).
func (l *links) dial(ctx context.Context, k relay.Key) (relay.Stream, error) {
	p, err := magic.PeerID(k)
	if err != nil {
		return nil, err
	}
	c := l.h.stockConn(p)
	l.mu.Lock()
	cause, broken := l.broken[k]
	l.mu.Unlock()
	l.h.libp2p.ConnManager().Protect(p, protectLink)
	if c != nil && broken {
		return l.redial(ctx, p, c, cause)
	}
	if c == nil {
		if c, err = l.h.stock(ctx, p, l.h.book.get(p)); err != nil {
			return nil, err
		}
	}
	return openOn(ctx, c, RelayProtocol)
}

// redial opens the stream after a link broke. A connection that is left, by
// QUIC as a rule, may have outlived a change of address or be as dead as the
// link: it has to answer, and races against new ones, whose handshake is answer
// enough: the greeting need not wait for another one. Those begin at three
// moments, since the change may not be over and swallow the first. A relay that
// fell silent was perhaps only slow, and is so to all its clients: what is left
// costs it least to go on with, and has a start; and one new one is enough.
func (l *links) redial(ctx context.Context, p peer.ID, left network.Conn, cause error) (relay.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		s   network.Stream
		err error
	}
	begin, results := time.Now(), make(chan result, 4)
	var tries sync.WaitGroup
	try := func(open func() (network.Stream, error)) {
		tries.Go(func() {
			s, err := open()
			results <- result{s, err}
		})
	}
	try(func() (network.Stream, error) {
		s, err := openAnswered(ctx, left, RelayProtocol)
		if errors.Is(err, context.DeadlineExceeded) {
			_ = left.Close() // else it would be tried first again
		}
		return s, err
	})
	begins := []time.Duration{0, redialAgain, 3 * redialAgain}
	if errors.Is(cause, relay.ErrSilent) {
		begins = []time.Duration{2 * redialAgain}
	}
	for _, after := range begins {
		try(func() (network.Stream, error) {
			timer := time.NewTimer(after)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			c, err := l.h.stock(ctx, p, l.h.book.get(p))
			if err != nil {
				return nil, err
			}
			if c.Stat().Opened.Before(begin) { // another one that was left
				return openAnswered(ctx, c, RelayProtocol)
			}
			return openOn(ctx, c, RelayProtocol)
		})
	}
	l.h.wg.Go(func() {
		tries.Wait()
		close(results)
	})
	var errs []error
	for r := range results {
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		cancel()
		won := r.s.Conn()
		l.h.wg.Go(func() { // the others are late
			for r := range results {
				if r.err == nil {
					_ = r.s.Reset()
				}
			}
			l.h.dropLosers(won, begin)
		})
		return r.s, nil
	}
	cancel()
	return nil, errors.Join(errs...)
}

// changed hears of links made and lost.
func (l *links) changed(k relay.Key, up bool, cause error) {
	h := l.h
	l.setLive(k, up, cause)
	if up {
		l.ups.notify()
		h.log.Info("relay link up", "relay", k)
		h.socket.LinkUp(k)
		h.proveOnline(k)
	} else {
		h.log.Info("relay link down", "relay", k, "err", cause)
		h.socket.LinkDown(k)
		h.reflectors.forget(k)
		if p, err := magic.PeerID(k); err == nil {
			h.libp2p.ConnManager().Unprotect(p, protectLink)
		}
	}
	h.publish()
}

// dropLosers closes what a redial has left behind since it began, but for the
// connection that won: those that do not answer, and those that were made beside
// it and carry nothing once identify is done. A relay takes only so many of one
// peer.
func (h *Host) dropLosers(won network.Conn, begin time.Time) {
	timer := time.NewTimer(silentAfter)
	defer timer.Stop()
	h.dropSilent(won)
	select {
	case <-timer.C:
	case <-h.ctx.Done():
		return // all are closed
	}
	for _, c := range h.libp2p.Network().ConnsToPeer(won.RemotePeer()) {
		if c != won && !isMagic(c) && !h.gater.inbound(c) && c.Stat().Opened.After(begin) && len(c.GetStreams()) == 0 {
			_ = c.Close()
		}
	}
}

// dropGone closes connections to relays from addresses this machine no longer
// has: nothing will come back, but the kernel goes on trying (PATH-21).
func (h *Host) dropGone() {
	ifaces, err := net.InterfaceAddrs()
	if err != nil {
		return
	}
	here := make(map[string]bool)
	for _, a := range ifaces {
		if n, ok := a.(*net.IPNet); ok {
			here[n.IP.String()] = true
		}
	}
	for _, k := range h.links.Live() {
		p, err := magic.PeerID(k)
		if err != nil {
			continue
		}
		for _, c := range h.libp2p.Network().ConnsToPeer(p) {
			ip, err := manet.ToIP(c.LocalMultiaddr())
			if err == nil && !isMagic(c) && !ip.IsUnspecified() && !here[ip.String()] {
				h.wg.Go(func() { _ = c.Close() })
			}
		}
	}
}

// learn adds relays to those this node may choose its homes from.
func (h *Host) learn(relays []peer.AddrInfo) {
	for _, r := range relays {
		k, err := magic.KeyOf(r.ID)
		if err != nil || r.ID == h.id || len(r.Addrs) == 0 {
			continue
		}
		h.book.add(r.ID, r.Addrs)
		h.links.add(k)
	}
}

// startRelay serves others (PATH-25).
func (h *Host) startRelay() error {
	features, err := h.startReflectors()
	if err != nil {
		return err
	}
	cfg := relay.ServerConfig{Logger: h.log, Now: h.clock.local, Known: h.cfg.Known, RelayRecords: h.relayRecords, Features: features}
	switch r := h.cfg.Relay.Rate; {
	case r > 0:
		cfg.Rate = max(r/8, 1)
	case r < 0:
		cfg.Rate = relay.NoLimit
	}
	h.server = relay.NewServer(cfg)
	h.libp2p.SetStreamHandler(RelayProtocol, func(s network.Stream) {
		k, err := magic.KeyOf(s.Conn().RemotePeer())
		if err != nil {
			_ = s.Reset()
			return
		}
		p := s.Conn().RemotePeer()
		h.libp2p.ConnManager().Protect(p, protectLink)
		defer h.libp2p.ConnManager().Unprotect(p, protectLink)
		var drop sync.WaitGroup
		drop.Go(func() { h.dropSilent(s.Conn()) })
		if err := h.server.Serve(h.ctx, s, k, s.Conn().RemoteMultiaddr().String()); err != nil {
			h.log.Debug("relay client left", "peer", p, "err", err)
		}
		drop.Wait()
	})
	return nil
}

// dropSilent closes the other connections of c's peer that do not answer. One
// that changes networks leaves them behind, and a few changes in a row would
// use up what a peer may have, until they time out half a minute later.
func (h *Host) dropSilent(c network.Conn) {
	ctx, cancel := context.WithTimeout(h.ctx, silentAfter)
	defer cancel()
	var wg sync.WaitGroup
	for _, other := range h.libp2p.Network().ConnsToPeer(c.RemotePeer()) {
		if other == c || isMagic(other) {
			continue
		}
		wg.Go(func() {
			s, err := openAnswered(ctx, other, ping.ID)
			switch {
			case err == nil:
				_ = s.Reset()
			case errors.Is(err, context.DeadlineExceeded):
				_ = other.Close()
			}
		})
	}
	wg.Wait()
}

// relayRecords are the relays a Welcome tells of (PATH-30).
func (h *Host) relayRecords() [][]byte { return h.disc.RelayRecords() }

// startDiscovery enters the network by the tickets given.
func (h *Host) startDiscovery(ctx context.Context) error {
	join := h.entries(h.cfg.Join)
	var err error
	h.disc, err = discovery.New(discovery.Config{
		Host: h.libp2p, Key: h.priv, Network: h.cfg.Network, CacheDir: h.cfg.CacheDir,
		Next: h.cfg.Next, Generation: h.cfg.Generation, HandOvers: h.cfg.HandOvers,
		Relay: h.cfg.Relay != nil, DHTServer: h.cfg.Relay != nil, MDNS: !h.cfg.NoMDNS, RelaysOnly: h.cfg.HideIP, Bootstrap: join,
		Content: h.content, OwnRelays: h.homes, OpenStream: h.openAddr,
		FoundRelays: h.learn, FoundPeer: func(p peer.AddrInfo) { h.book.add(p.ID, p.Addrs) },
		Now: h.clock.now, Logger: h.log,
	})
	if err != nil {
		return err
	}
	h.links.start()
	if err := h.disc.Start(ctx); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	h.learn(join)
	return nil
}

// Join enters the network by one more node each, or learns new addresses of
// one it has joined by. It may be called while the Host runs.
func (h *Host) Join(tickets ...*discovery.Ticket) error {
	for _, t := range tickets {
		if t.Network != h.cfg.Network {
			return fmt.Errorf("join: the ticket is for network %q, this node is in %q", t.Network, h.cfg.Network)
		}
	}
	if !h.running() {
		return ErrClosed
	}
	nodes := h.entries(tickets)
	h.disc.Join(nodes)
	h.learn(nodes)
	return nil
}

// entries are the nodes that tickets name to enter the network by.
func (h *Host) entries(tickets []*discovery.Ticket) (nodes []peer.AddrInfo) {
	for _, t := range tickets {
		if t.Peer != h.id && len(t.Addrs) > 0 {
			nodes = append(nodes, peer.AddrInfo{ID: t.Peer, Addrs: t.Addrs})
		}
		for _, r := range t.Relays {
			if r.ID != h.id {
				nodes = append(nodes, r)
			}
		}
	}
	return nodes
}

// content is what this node's address record says (PATH-37). A relay is dialled
// at its own addresses; anybody else's are published on request only.
func (h *Host) content() discovery.Content {
	c := discovery.Content{Relays: h.homes()}
	switch {
	case h.cfg.Relay != nil:
		c.Addrs = h.ownAddrs()
	case h.cfg.PublishAddrs:
		c.Addrs = publicOnly(h.ownAddrs())
	}
	return c
}

// openAddr opens a stream to a relay that is asked for addresses.
func (h *Host) openAddr(ctx context.Context, p peer.ID) (network.Stream, error) {
	c := h.stockConn(p)
	if c == nil {
		addrs := h.book.get(p)
		if len(addrs) == 0 {
			addrs = h.libp2p.Peerstore().Addrs(p)
		}
		var err error
		if c, err = h.stock(ctx, p, addrs); err != nil {
			return nil, err
		}
	}
	return openOn(ctx, c, discovery.ProtocolID)
}

// homes are the relays where this node can be reached. One that is down for a
// moment stays until the pool has found another.
func (h *Host) homes() []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, home := range h.links.pool.Homes() {
		if p, err := magic.PeerID(home.Key); err == nil && home.Home {
			out = append(out, peer.AddrInfo{ID: p, Addrs: h.book.get(p)})
		}
	}
	return out
}

// publish renews the address record; its content is asked for later.
func (h *Host) publish() {
	if h.disc != nil {
		h.disc.Changed()
	}
}

// refresh looks a peer up again that has a connection but no path left.
func (h *Host) refresh(k relay.Key) {
	h.wg.Go(func() {
		p, err := magic.PeerID(k)
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(h.ctx, openTimeout)
		defer cancel()
		h.find(ctx, p, func(via peer.ID) {
			if vk, err := magic.KeyOf(via); err == nil {
				h.wg.Go(func() { _ = h.socket.AddRelay(h.ctx, k, vk) })
			}
		})
	})
}

// ownAddrs are addresses of this node that others may dial: public ones, or,
// on a network without any, whatever there is.
func (h *Host) ownAddrs() []ma.Multiaddr { return linkOrder(h.dialable()) }

func (h *Host) dialable() []ma.Multiaddr {
	var all, names, lan, loop []ma.Multiaddr
	for _, a := range h.libp2p.Addrs() {
		if isNamed(a) {
			names = append(names, a)
		} else {
			all = append(all, a)
		}
	}
	if pub := publicOnly(all); len(pub) > 0 {
		return append(names, pub...)
	}
	for _, a := range all {
		switch {
		case discovery.CheckAddr(a) != nil:
		case isLoopback(a):
			loop = append(loop, a)
		default:
			lan = append(lan, a)
		}
	}
	if len(lan) > 0 {
		return append(names, lan...)
	}
	return append(names, loop...)
}
