// Package node is a whole peer to embed in a program: a place in the network
// (package transport), sessions by protocol (package protocols) and the call
// protocol (package protocols/call), wired together.
//
// A node is known by its key. Give New the key and the ticket of any node of
// the network, register operations or handlers, Start it, and it can be dialled
// by that key wherever it is:
//
//	n, err := node.New(node.Config{Key: key, Join: []string{ticket}})
//	err = n.Calls().Register(operation)
//	err = n.Start(ctx)
//	out, err := n.Call(ctx, "ed25519:…", "disk/free", nil)
//
// Several nodes may run in one process.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/admit"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/ping"
	"github.com/alkdev/alknet-p2p/transport"
)

// DefaultDrainTimeout is how long Close lets handlers finish.
const DefaultDrainTimeout = 2 * time.Second

// closeGrace is for handlers to return once their context has ended.
const closeGrace = 5 * time.Second

// Node is one peer. All methods are safe for concurrent use.
type Node struct {
	cfg        Config
	network    string
	log        *slog.Logger
	peers      *auth.Peers
	access     *access
	preference *preference
	host       *transport.Host
	registry   *protocols.HandlerRegistry
	router     atomic.Pointer[protocols.Router] // nil before Start
	calls      *call.Protocol
	key        string

	mu         sync.Mutex
	started    bool
	closed     bool
	door       *admit.Door
	imports    []*Import
	succession *succession // nil when there is nothing to follow or show
}

// New checks the configuration and makes a node; it starts nothing.
func New(cfg Config) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Peers == nil {
		peers, err := auth.NewPeers(&auth.Config{})
		if err != nil {
			return nil, fmt.Errorf("node: %w", err)
		}
		cfg.Peers = peers
	}
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, DefaultDrainTimeout)
	access, err := newAccess(&cfg)
	if err != nil {
		return nil, err
	}
	tcfg, err := cfg.transport(access)
	if err != nil {
		return nil, err
	}
	host, err := transport.New(tcfg)
	if err != nil {
		return nil, err
	}
	key, err := auth.FingerprintFromPeer(host.ID())
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger, peers: cfg.Peers, access: access, host: host, key: key, network: access.network,
		preference: newPreference(host),
		registry:   new(protocols.HandlerRegistry),
		calls: call.New(call.Config{
			Provider: cfg.Peers, Tickets: access.keeper, MaxTokenFailures: access.maxTokenFailures,
			Timeout: cfg.CallTimeout, MaxTimeout: cfg.MaxCallTimeout, Logger: cfg.Logger,
			Overlays: cfg.Overlays, Routing: cfg.Routing, RTT: rttOf(host),
			Interceptors: cfg.Interceptors, CallInterceptors: cfg.CallInterceptors,
		}),
	}
	if err := n.calls.Register(call.Echo(), call.Info(n.info)); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if err := errors.Join(n.registry.Register(n.calls), n.registry.Register(ping.NewHandler(ping.Config{Logger: cfg.Logger}))); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	return n, nil
}

// Handle registers a handler for a protocol of its own; before Start only.
func (n *Node) Handle(h protocols.ProtocolHandler) error { return n.registry.Register(h) }

// Calls is the call protocol of this node: register operations here before
// Start.
func (n *Node) Calls() *call.Protocol { return n.calls }

// ID is this node's peer ID, 12D3KooW….
func (n *Node) ID() peer.ID { return n.host.ID() }

// Key is this node's public key as it is written: ed25519:<64 hex digits>.
func (n *Node) Key() string { return n.key }

// Start opens the sockets and enters the network. It gets everything or leaves
// nothing; ctx bounds the start only (NODE-13). Operations and handlers are
// fixed from here on.
func (n *Node) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.started || n.closed {
		return errors.New("node was started before")
	}
	n.started = true
	n.calls.Freeze()
	n.registry.Freeze()
	if err := n.host.Start(ctx); err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	router, err := protocols.New(protocols.RouterConfig{
		Host: n.host, Registry: n.registry, Provider: n.peers, Logger: n.log, DrainTimeout: n.cfg.DrainTimeout,
		Admission: n.access.admits, Tickets: n.access.keeper,
	})
	if err == nil {
		err = router.Start()
	}
	if err == nil {
		n.door, err = admit.Open(admit.Config{Host: n.host, Redeem: n.access.keeper.Redeem, Logger: n.log})
	}
	if err != nil {
		_ = n.host.Close()
		return fmt.Errorf("start node: %w", err)
	}
	n.router.Store(router)
	n.succession = startSuccession(n)
	return nil
}

// Online returns once the node can be reached: a relay has delivered a packet
// to it from outside. A relay, and a node without one, is online as soon as it
// has started (PATH-35).
func (n *Node) Online(ctx context.Context) error { return n.host.Online(ctx) }

// Close stops accepting, lets handlers finish for DrainTimeout, cancels the
// rest and leaves the network (NODE-14). It may be called more than once and
// returns after the last goroutine.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	succession := n.succession
	imports := n.imports
	door := n.door
	n.mu.Unlock()
	var errs []error
	if door != nil {
		door.Close()
	}
	n.preference.Close()
	if succession != nil {
		succession.Close()
	}
	for _, im := range imports {
		_ = im.Close()
	}
	// A handler that ignores its context is left behind at last.
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.DrainTimeout+closeGrace)
	defer cancel()
	if router := n.router.Load(); router != nil {
		errs = append(errs, router.Shutdown(ctx))
	}
	composed := make(chan struct{})
	go func() {
		defer close(composed)
		_ = n.calls.Close()
	}()
	select {
	case <-composed:
	case <-ctx.Done():
	}
	errs = append(errs, n.host.Close())
	return errors.Join(errs...)
}

// Recheck applies a changed registry, or ledger of tickets, to open sessions:
// those whose peer lost its identity, has another, or is not admitted any more,
// are closed (NODE-28). Requests on a token that lost its rights end as well.
func (n *Node) Recheck() {
	n.calls.Recheck()
	if router := n.router.Load(); router != nil {
		router.Recheck()
	}
}

func (n *Node) lookForSuccessor() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.succession != nil {
		n.succession.look()
	}
}

// info answers node/info.
func (n *Node) info(context.Context) any {
	return Info{NodeKey: n.key, PeerID: n.ID().String(), Network: n.network, Relay: n.cfg.Relay != nil}
}

// Info is what node/info tells anybody.
type Info struct {
	NodeKey string `json:"node_key"`
	PeerID  string `json:"peer_id"`
	Network string `json:"network"`
	Relay   bool   `json:"relay"`
}
