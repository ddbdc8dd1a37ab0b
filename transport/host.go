// Package transport is a node's place in the network: a libp2p host with the
// node's key, stock QUIC, TCP and WebSocket, and beside them the magic
// transport, whose connections survive a change of path (package magic).
//
// A [Host] dials peers by key alone. It keeps links to relays, finds addresses
// through signed records, the local network and a cache (package discovery),
// and tells over which path a peer is reached. It knows nothing of sessions or
// handlers: package protocols asks it for streams.
package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quictransport "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/netmon"
	"github.com/alkdev/alknet-p2p/transport/portmap"
	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/alkdev/alknet-p2p/transport/web"
)

// ErrClosed: the host was closed, or not started. It matches net.ErrClosed.
var ErrClosed = fmt.Errorf("host is not running: %w", net.ErrClosed)

// ErrBind: an address given in Config.Listen cannot be listened on (NODE-15).
var ErrBind = errors.New("cannot listen")

// ErrListen443: Config.Listen443 asks for TCP port 443, which cannot be listened
// on; it is an ErrBind as well.
var ErrListen443 = errors.New("direct paths on TCP port 443")

// Host is one node in the network. All methods are safe for concurrent use.
type Host struct {
	cfg    Config
	listen []ma.Multiaddr
	id     peer.ID
	key    relay.Key
	priv   crypto.PrivKey
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	finished chan struct{} // Close is done

	libp2p host.Host
	swarm  *swarm.Swarm
	udp    []*udp.Conn // the socket closes them
	socket *socket.Socket
	magic  *magic.Transport
	disc   *discovery.Discovery
	links  *links
	clock  *clock
	server *relay.Server // nil unless a relay
	gater  *gater
	dialer *web.Dialer       // of TCP connections
	certs  *web.Certificates // nil unless a relay, or on port 443
	web    atomic.Pointer[webPorts]

	monitor    *netmon.Monitor
	moved      atomic.Int64                   // when the network last changed much, by the wall clock
	mapper     atomic.Pointer[portmap.Mapper] // nil when no router is asked
	reflectors *reflectors
	nat        *natState
	nat64      *nat64State
	reflecting []*relay.Reflector // what a relay answers on

	book      addrBook
	events    pathEvents
	timelines timelines
	changes   broadcast // connections came or went
	online    onlineState

	mu       sync.Mutex
	started  bool
	up       bool // Start has succeeded
	closed   bool
	dials    map[peer.ID]*dial
	tickets  map[peer.ID]*discovery.Ticket
	watchers map[int]func(peer.ID, bool)
	watchID  int
	doubled  map[peer.ID]struct{} // peers with more than one connection
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Host, error) {
	listen, err := cfg.prepare()
	if err != nil {
		return nil, err
	}
	priv, err := crypto.UnmarshalEd25519PrivateKey(append([]byte(nil), cfg.Key...))
	if err != nil {
		return nil, fmt.Errorf("config: Key: %w", err)
	}
	id, err := peer.IDFromPrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("config: Key: %w", err)
	}
	h := &Host{
		cfg: cfg, listen: listen, id: id, priv: priv, log: cfg.Logger,
		finished: make(chan struct{}),
		dials:    make(map[peer.ID]*dial),
		tickets:  make(map[peer.ID]*discovery.Ticket),
		watchers: make(map[int]func(peer.ID, bool)),
		doubled:  make(map[peer.ID]struct{}),
	}
	h.gater = newGater(cfg.ConnsPerSource, h.sourceOf)
	if err := h.prepareWeb(); err != nil {
		return nil, err
	}
	if h.key, err = magic.KeyOf(id); err != nil {
		return nil, fmt.Errorf("config: Key: %w", err)
	}
	h.online.init()
	return h, nil
}

// Start opens the sockets and enters the network. It gets everything or
// leaves nothing; ctx bounds the start only. Being reachable takes longer:
// see Online.
func (h *Host) Start(ctx context.Context) (err error) {
	if err := h.begin(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = h.Close()
		}
	}()
	if err := h.engine(); err != nil {
		return err
	}
	if err := h.build(); err != nil {
		return err
	}
	if h.cfg.Relay != nil {
		if err := h.startRelay(); err != nil {
			return err
		}
	}
	if err := h.bind(); err != nil {
		return err
	}
	h.noteWeb()
	return h.enter(ctx)
}

// begin marks the start of the Host's one life.
func (h *Host) begin() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.started || h.closed {
		return errors.New("host was started before")
	}
	h.started = true
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return nil
}

// engine makes what lies below libp2p: the socket of the direct paths, and the
// magic transport on it.
func (h *Host) engine() (err error) {
	h.links = newLinks(h)
	h.clock = newClock(h)
	h.reflectors = newReflectors(h)
	h.nat = newNATState(h)
	h.nat64 = newNAT64State(h)
	h.udp = h.openUDP()
	if h.socket, err = socket.New(socket.Config{
		Key: h.cfg.Key, Relays: h.links, UDP: h.udp, Homes: h.links.homeKeys, Other: h.reflectors.answer,
		Known: h.cfg.Known, Disclose: h.disclose, Loopback: loopbackOnly(h.listen), TCP: true, DialWeb: h.dialWeb,
		Events: h.pathChanged, Trace: h.traced, Refresh: h.refresh, Reflects: h.reflectors.reflects, Logger: h.log,
	}); err != nil {
		return err
	}
	h.gather()
	h.wg.Go(h.reflectors.run)
	h.wg.Go(h.nat.run)
	h.magic, err = magic.New(magic.Config{Key: h.cfg.Key, Socket: h.socket, Find: h.find, Logger: h.log})
	return err
}

// enter makes the Host part of the network; libp2p listens by now.
func (h *Host) enter(ctx context.Context) error {
	if err := h.swarm.AddListenAddr(magic.Addr); err != nil {
		return fmt.Errorf("magic transport: %w", err)
	}
	if err := h.startDiscovery(ctx); err != nil {
		return err
	}
	h.monitor = netmon.New(netmon.Config{Logger: h.log})
	if err := h.monitor.Start(ctx); err != nil {
		h.log.Warn("changes of the network are not noticed", "err", err)
	}
	h.startMapper()
	h.wg.Go(h.nat64.run)
	h.wg.Go(h.watchNetwork)
	h.wg.Go(h.reap)
	if h.certs != nil {
		h.wg.Go(func() { h.certs.Run(h.ctx) })
	}
	if h.cfg.Relay != nil || h.cfg.NoRelays || len(h.cfg.Join) == 0 {
		h.online.set() // nobody else to ask (PATH-35)
	}
	h.mu.Lock()
	h.up = true
	h.mu.Unlock()
	return nil
}

// build makes the libp2p host. Nothing listens yet, so that each address that
// cannot be bound is an error of its own.
func (h *Host) build() error {
	limits, err := newResourceManager(h.cfg.Relay != nil)
	if err != nil {
		return fmt.Errorf("resource limits: %w", err)
	}
	low, high := 256, 512
	if h.cfg.Relay != nil {
		low, high = 8192, 16384
	}
	conns, err := connmgr.NewConnManager(low, high, connmgr.WithGracePeriod(time.Minute))
	if err != nil {
		return fmt.Errorf("connection manager: %w", err)
	}
	opts := []libp2p.Option{
		libp2p.Identity(h.priv),
		libp2p.NoListenAddrs,
		libp2p.Transport(h.magic.Constructor),
		libp2p.Transport(quictransport.NewTransport),
		// From ports of their own, which libp2p's do not for a shared listener: two
		// hosts that dial each other at once from their listeners' ports make one
		// TCP connection of two clients and no server.
		libp2p.Transport(func(u transport.Upgrader, r network.ResourceManager, shared *tcpreuse.ConnMgr) (*web.TCP, error) {
			return web.NewTCP(h.dialer, u, r, shared)
		}),
		libp2p.Transport(func(u transport.Upgrader, r network.ResourceManager, shared *tcpreuse.ConnMgr) (*web.WebSocket, error) {
			return web.NewWebSocket(h.dialer, h.webTLS(), web.Upgrade(h.takeWeb), u, r, shared)
		}),
		libp2p.ShareTCPListener(),
		libp2p.Security(libp2ptls.ID, promptTLS),
		libp2p.Security(noise.ID, promptNoise),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(limits),
		libp2p.ConnectionManager(conns),
		libp2p.ConnectionGater(h.gater),
		libp2p.AddrsFactory(h.advertised),
		// What peers claim to see is no ground to advertise an address (PATH-1):
		// this node counts what its own relays see instead.
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.IPv6BlackHoleSuccessCounter(nil),
		libp2p.DisableMetrics(),
		libp2p.UserAgent("alknet-p2p"),
	}
	if !h.cfg.HideIP {
		opts = append(opts, libp2p.EnableRelay()) // stock peers behind stock relays
	}
	if h.cfg.Relay != nil {
		opts = append(opts, libp2p.ForceReachabilityPublic(), libp2p.EnableRelayService(circuitLimits()...),
			libp2p.EnableNATService())
	}
	if h.libp2p, err = libp2p.New(opts...); err != nil {
		return fmt.Errorf("libp2p host: %w", err)
	}
	sw, ok := h.libp2p.Network().(*swarm.Swarm)
	if !ok {
		return errors.New("internal error: libp2p's network is not a swarm")
	}
	h.swarm = sw
	sw.Notify(&network.NotifyBundle{ConnectedF: h.connected, DisconnectedF: h.disconnected})
	return nil
}

// Close undoes Start backwards and returns after the last goroutine. It may be
// called more than once.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		<-h.finished
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	defer close(h.finished)
	h.farewell()
	h.drain()
	if h.cancel != nil {
		h.cancel()
	}
	var errs []error
	if h.monitor != nil {
		errs = append(errs, h.monitor.Close())
	}
	if m := h.mapper.Load(); m != nil {
		m.Close()
	}
	if h.server != nil {
		errs = append(errs, h.server.Close())
	}
	if h.disc != nil {
		errs = append(errs, h.disc.Close())
	}
	for _, r := range h.reflecting {
		errs = append(errs, r.Close())
	}
	if h.links != nil {
		h.links.close()
	}
	if h.libp2p != nil {
		errs = append(errs, h.libp2p.Close())
	}
	if h.magic != nil {
		errs = append(errs, h.magic.Close())
	} else if h.socket != nil {
		errs = append(errs, h.socket.Close())
	}
	h.wg.Wait()
	return errors.Join(errs...)
}

// drain lets the clients of a relay move to others before it closes (PATH-27).
func (h *Host) drain() {
	if h.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := h.server.Drain(ctx); err != nil {
		h.log.Debug("relay clients did not move", "err", err)
	}
}

// farewell closes the magic connections while there are links to relays to
// tell the peers over.
func (h *Host) farewell() {
	if h.libp2p == nil {
		return
	}
	var all sync.WaitGroup
	for _, c := range h.libp2p.Network().Conns() {
		if isMagic(c) {
			all.Go(func() { _ = c.Close() })
		}
	}
	all.Wait()
}

// disclose tells whether a peer that dialled over a relay may learn this node's
// addresses (PATH-13).
func (h *Host) disclose(k relay.Key) bool {
	if h.cfg.Stranger != nil {
		if p, err := magic.PeerID(k); err != nil || h.cfg.Stranger(p) {
			return false
		}
	}
	return !h.cfg.DiscloseKnown || h.cfg.Known != nil && h.cfg.Known(k)
}

// running tells that Start has succeeded. What Close ends stays readable.
func (h *Host) running() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// work lets Close end what a caller has begun, and wait for it: its context is
// the one returned, and it calls done at its end. It fails with ErrClosed.
func (h *Host) work(ctx context.Context) (working context.Context, done func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.up || h.closed {
		return nil, nil, ErrClosed
	}
	h.wg.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.ctx, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		h.wg.Done()
	}, nil
}

// ID is this node's peer ID.
func (h *Host) ID() peer.ID { return h.id }

// Libp2p is the host beneath, for what has no place in this interface. It is
// nil before Start.
func (h *Host) Libp2p() host.Host { return h.libp2p }

// SetStreamHandler routes inbound streams of the protocol to f, which must
// return soon.
func (h *Host) SetStreamHandler(id protocol.ID, f network.StreamHandler) {
	h.libp2p.SetStreamHandler(id, f)
}

// RemoveStreamHandler undoes SetStreamHandler.
func (h *Host) RemoveStreamHandler(id protocol.ID) { h.libp2p.RemoveStreamHandler(id) }

// Protect keeps the connections to p from being trimmed (PATH-5).
func (h *Host) Protect(p peer.ID) { h.libp2p.ConnManager().Protect(p, protectSession) }

// Unprotect undoes Protect.
func (h *Host) Unprotect(p peer.ID) { h.libp2p.ConnManager().Unprotect(p, protectSession) }

const (
	protectSession = "alknet"
	protectLink    = "alknet-relay"
)

// RemoteAddr is the text of the best path to p, or "" (NODE-55).
func (h *Host) RemoteAddr(p peer.ID) string {
	switch path := h.Path(p); path.Kind {
	case PathDirect:
		return path.Addr
	case PathRelayed:
		return "relay " + path.Relay.String()
	default:
		return ""
	}
}

// WatchPeers calls changed whenever a peer becomes connected or loses its last
// connection; it must not block. stop ends it.
func (h *Host) WatchPeers(changed func(p peer.ID, connected bool)) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchID++
	id := h.watchID
	h.watchers[id] = changed
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, id)
	}
}

func (h *Host) connected(n network.Network, c network.Conn) {
	p := c.RemotePeer()
	h.gater.connected(c)
	h.changes.notify()
	var mc *magic.Conn
	if c.As(&mc) && !mc.Outbound() { // what was dialled here comes in by the listener too
		h.timelines.with(p, true, func(tl *timeline) {
			tl.add(stepHandshake, "done", "the peer dialled this node, and has proven its key")
		})
	}
	h.mu.Lock()
	if len(n.ConnsToPeer(p)) > 1 {
		h.doubled[p] = struct{}{}
	}
	h.mu.Unlock()
	h.tell(p, true)
}

func (h *Host) disconnected(n network.Network, c network.Conn) {
	p := c.RemotePeer()
	h.gater.disconnected(c)
	h.changes.notify()
	if len(n.ConnsToPeer(p)) == 0 {
		h.tell(p, false)
	}
}

func (h *Host) tell(p peer.ID, connected bool) {
	h.mu.Lock()
	fs := make([]func(peer.ID, bool), 0, len(h.watchers))
	for _, f := range h.watchers {
		fs = append(fs, f)
	}
	h.mu.Unlock()
	for _, f := range fs {
		f(p, connected)
	}
}

// watchNetwork lets everything that depends on addresses and routes look again
// when they change (PATH-21).
func (h *Host) watchNetwork() {
	for c := range h.monitor.Changes() {
		h.log.Info("network changed", "reason", c.Reason, "major", c.Major)
		h.nat64.kick()
		if c.Major {
			h.moved.Store(time.Now().UnixNano())
			h.reflectors.reset()
			h.nat.forget()
			h.nat.kick()
			h.dropGone()
			h.links.pool.Kick()
			if m := h.mapper.Load(); m != nil {
				m.Kick()
			}
		} else {
			h.reflectors.kick()
		}
		h.gather()
		if c.Major {
			h.socket.NetworkChanged()
		}
		h.publish()
	}
}

// justMoved tells that the network changed much within the last second.
func (h *Host) justMoved() bool { return time.Now().UnixNano()-h.moved.Load() < int64(time.Second) }

const (
	reapEvery = 2 * time.Second
	reapAfter = 5 * time.Second // both sides know both connections by then
)

// reap closes second magic connections to the same peer, once they carry no
// stream (PATH-4).
func (h *Host) reap() {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		}
		h.turnAway()
		h.mu.Lock()
		peers := make([]peer.ID, 0, len(h.doubled))
		for p := range h.doubled {
			peers = append(peers, p)
		}
		h.mu.Unlock()
		for _, p := range peers {
			h.reapPeer(p)
		}
	}
}

func (h *Host) reapPeer(p peer.ID) {
	var magics []network.Conn
	for _, c := range h.libp2p.Network().ConnsToPeer(p) {
		if isMagic(c) && !c.IsClosed() {
			magics = append(magics, c)
		}
	}
	left := 0
	for _, c := range magics {
		if slices.ContainsFunc(magics, func(o network.Conn) bool { return h.connRank(o) > h.connRank(c) }) {
			if time.Since(c.Stat().Opened) < reapAfter || len(c.GetStreams()) > 0 {
				left++
				continue
			}
			_ = c.Close()
		}
	}
	if left == 0 {
		h.mu.Lock()
		delete(h.doubled, p)
		h.mu.Unlock()
	}
}
