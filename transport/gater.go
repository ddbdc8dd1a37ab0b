package transport

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/alkdev/alknet-p2p/transport/magic"
)

const (
	defaultPerSource = 100
	// handshakeTime is how long a connection that was accepted counts without
	// having come up; libp2p gives up on it before.
	handshakeTime = 20 * time.Second
	maxPending    = 4096
)

// gater counts the connections that others open, by where they come from, and
// refuses those beyond a limit before anything is computed for them (NODE-34).
// The source of a direct one is its IP address, of IPv6 the /64; that of a
// relayed one is the relay and the key behind it, so that a relay's other
// clients do not pay for one of them, nor the relay's own address for all.
type gater struct {
	limit  func() int // nil = 100
	source func(peer.ID) (relayed string, ok bool)

	mu      sync.Mutex
	pending map[inboundKey][]inbound
	waiting int               // of pending
	open    map[string]string // connections that are up, to their source
	count   map[string]int    // of both, by source
	now     func() time.Time
}

// inboundKey finds a connection again when it comes up.
type inboundKey struct {
	remote string      // the address and port it comes from
	magic  *magic.Conn // of the magic transport: the connection itself
	peer   peer.ID     // of a circuit
}

type inbound struct {
	source string
	at     time.Time
}

var _ connmgr.ConnectionGater = (*gater)(nil)

func newGater(limit func() int, source func(peer.ID) (string, bool)) *gater {
	return &gater{
		limit: limit, source: source, now: time.Now,
		pending: map[inboundKey][]inbound{}, open: map[string]string{}, count: map[string]int{},
	}
}

// InterceptPeerDial allows everything: what this node dials is its own affair.
func (g *gater) InterceptPeerDial(peer.ID) bool { return true }

// InterceptAddrDial allows everything.
func (g *gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }

// InterceptAccept counts what comes straight, before its handshake. It is also the
// last to see the TCP connection itself of what TLS and HTTP will wrap (PATH-26).
func (g *gater) InterceptAccept(c network.ConnMultiaddrs) bool {
	if nc, ok := c.(net.Conn); ok {
		makePrompt(nc)
	}
	remote := c.RemoteMultiaddr()
	if magic.IsAddr(remote) || isCircuit(remote) {
		return true // whose it is, is known after the handshake
	}
	source, ok := sourceOf(remote)
	return !ok || g.accept(source, inboundKey{remote: endpoint(remote)})
}

// InterceptSecured counts what comes by the magic transport, or over a stock
// relay.
func (g *gater) InterceptSecured(dir network.Direction, p peer.ID, c network.ConnMultiaddrs) bool {
	if dir != network.DirInbound {
		return true
	}
	remote := c.RemoteMultiaddr()
	if mc, ok := c.(*magic.Conn); ok {
		source, ok := g.source(p)
		return !ok || g.accept(source, inboundKey{magic: mc})
	}
	if isCircuit(remote) {
		via, _ := remote.ValueForProtocol(ma.P_P2P)
		return g.accept("relay "+via+" "+p.String(), inboundKey{remote: endpoint(remote), peer: p})
	}
	return true
}

// InterceptUpgraded allows everything: it was counted before.
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// accept counts one more connection, if there may be one more.
func (g *gater) accept(source string, key inboundKey) bool {
	limit := defaultPerSource
	if g.limit != nil {
		limit = g.limit()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count[source] >= limit || g.waiting >= maxPending {
		g.expire()
	}
	if g.count[source] >= limit || g.waiting >= maxPending {
		return false
	}
	g.pending[key] = append(g.pending[key], inbound{source, g.now()})
	g.waiting++
	g.count[source]++
	return true
}

// expire forgets connections that never came up.
func (g *gater) expire() {
	before := g.now().Add(-handshakeTime)
	for key, list := range g.pending {
		kept := list[:0]
		for _, in := range list {
			if in.at.After(before) {
				kept = append(kept, in)
				continue
			}
			g.waiting--
			g.drop(in.source)
		}
		if g.pending[key] = kept; len(kept) == 0 {
			delete(g.pending, key)
		}
	}
}

func (g *gater) drop(source string) {
	if g.count[source]--; g.count[source] == 0 {
		delete(g.count, source)
	}
}

// connected takes a connection that came up. One that this node dialled was
// never accepted here, whatever the swarm calls it, and is not counted.
func (g *gater) connected(c network.Conn) {
	key := inboundKey{}
	if !c.As(&key.magic) {
		key.remote = endpoint(c.RemoteMultiaddr())
		if isCircuit(c.RemoteMultiaddr()) {
			key.peer = c.RemotePeer()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	list := g.pending[key]
	if len(list) == 0 {
		return
	}
	if g.pending[key] = list[1:]; len(list) == 1 {
		delete(g.pending, key)
	}
	g.waiting--
	g.open[c.ID()] = list[0].source
}

func (g *gater) disconnected(c network.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if source, ok := g.open[c.ID()]; ok {
		delete(g.open, c.ID())
		g.drop(source)
	}
}

// inbound reports whether the other side opened the connection.
func (g *gater) inbound(c network.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.open[c.ID()]
	return ok
}

// sourceOf is what connections from an address are counted by.
func sourceOf(a ma.Multiaddr) (string, bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return "", false
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return "", false
	}
	return sourceOfIP(addr), true
}

func sourceOfIP(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		prefix, _ := addr.Prefix(64) // of 128 bits: never an error
		return prefix.String()
	}
	return addr.String()
}

// endpoint is address, transport and port, however the rest is written.
func endpoint(a ma.Multiaddr) string {
	if len(a) < 2 {
		return a.String()
	}
	return a[:2].String()
}

// isCircuit tells that the address leads over a stock relay.
func isCircuit(a ma.Multiaddr) bool {
	_, err := a.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

// sourceOf is what a connection of the magic transport is counted by: its
// direct address, or the relay and the key.
func (h *Host) sourceOf(p peer.ID) (string, bool) {
	k, err := magic.KeyOf(p)
	if err != nil {
		return "", false
	}
	id, rtt, since, ok := h.socket.Path(k)
	if !ok {
		return "", false
	}
	at := describe(id, rtt, since)
	if at.Kind == PathDirect {
		return sourceOfIP(id.Addr.Addr()), true
	}
	return "relay " + at.Relay.String() + " " + p.String(), true
}

// turnAway ends connections that strangers opened and do not use (Config.Stranger).
func (h *Host) turnAway() {
	if h.cfg.Stranger == nil || h.cfg.Relay != nil {
		return
	}
	for _, c := range h.libp2p.Network().Conns() {
		if h.gater.inbound(c) && time.Since(c.Stat().Opened) >= reapAfter && len(c.GetStreams()) == 0 && h.cfg.Stranger(c.RemotePeer()) {
			h.log.Debug("stranger turned away", "peer", c.RemotePeer())
			_ = c.Close()
		}
	}
}
