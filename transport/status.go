package transport

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// Reachability says from where a node can be dialled at its own addresses.
type Reachability string

// The kinds of reachability. Over relays a node is reachable in every case.
const (
	ReachabilityPublic  Reachability = "public"
	ReachabilityPrivate Reachability = "private"
	ReachabilityLAN     Reachability = "lan"
	ReachabilityUnknown Reachability = "unknown"
)

// Status is what a host knows about its place in the network.
type Status struct {
	Online       bool
	Reachability Reachability
	NATMapping   string // RFC 4787: none, endpoint-independent, address-and-port-dependent, unknown
	NATFiltering string // the same words, and address-dependent
	Relays       []RelayStatus
	Serving      *Serving // nil unless this node is a relay
}

// Serving are a relay's counters since its start.
type Serving struct {
	relay.Stats
	Reflect relay.ReflectStats `json:"reflect"` // of all its reflectors
}

// RelayStatus is one link to a relay.
type RelayStatus struct {
	Peer  peer.ID
	Addr  string        // where the link goes
	Proxy string        // through which it goes there; "" for none
	RTT   time.Duration // 0 when not measured yet
	Home  bool          // this node can be reached there
	Up    bool
	Err   error // why it is down, if that is known
}

// Status tells the state at this moment.
func (h *Host) Status() Status {
	if !h.running() {
		return Status{Reachability: ReachabilityUnknown, NATMapping: "unknown", NATFiltering: "unknown"}
	}
	st := Status{Online: h.online.is() && h.linked(), Reachability: h.reachability(), NATMapping: h.reflectors.mapping(), NATFiltering: h.nat.get(false).Filtering, Serving: h.serving()}
	for _, home := range h.links.pool.Homes() {
		p, err := magic.PeerID(home.Key)
		if err != nil {
			continue
		}
		r := RelayStatus{Peer: p, RTT: home.RTT, Home: home.Home, Up: home.Up, Err: home.Err}
		if c := h.stockConn(p); c != nil {
			r.Addr, r.Proxy = c.RemoteMultiaddr().String(), h.dialer.Proxied(c.LocalMultiaddr())
		}
		st.Relays = append(st.Relays, r)
	}
	return st
}

// serving adds up what a relay does.
func (h *Host) serving() *Serving {
	if h.server == nil {
		return nil
	}
	s := &Serving{Stats: h.server.Stats()}
	for _, r := range h.reflecting {
		one := r.Stats()
		s.Reflect.Answered += one.Answered
		s.Reflect.Malformed += one.Malformed
		s.Reflect.Limited += one.Limited
		s.Reflect.NoOther += one.NoOther
	}
	return s
}

// linked tells that a home is up, or none is needed.
func (h *Host) linked() bool {
	if h.cfg.Relay != nil || h.cfg.NoRelays || len(h.cfg.Join) == 0 {
		return true
	}
	return slices.ContainsFunc(h.links.pool.Homes(), func(home relay.HomeInfo) bool { return home.Home && home.Up })
}

// reachability compares where relays see this node with what it has: a node
// behind a NAT is seen at an address that is none of its own.
func (h *Host) reachability() Reachability {
	if h.cfg.Relay != nil {
		return ReachabilityPublic
	}
	seen := h.links.seen()
	if len(seen) == 0 {
		if len(h.listen) == 0 {
			return ReachabilityUnknown
		}
		return ReachabilityLAN
	}
	own, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return ReachabilityUnknown
	}
	for _, text := range seen {
		a, err := ma.NewMultiaddr(text)
		if err != nil || len(a) == 0 {
			continue
		}
		for _, o := range own {
			if len(o) > 0 && o[0].Equal(&a[0]) {
				if manet.IsPublicAddr(a) {
					return ReachabilityPublic
				}
				return ReachabilityLAN
			}
		}
		return ReachabilityPrivate
	}
	return ReachabilityUnknown
}

// Ticket says by hand where this node is: its relays, and its own addresses
// when it is a relay, publishes them, or has no relay.
func (h *Host) Ticket() (*discovery.Ticket, error) {
	if !h.running() {
		return nil, ErrClosed
	}
	c := h.content()
	if len(c.Relays) == 0 && len(c.Addrs) == 0 {
		c.Addrs = h.ownAddrs()
	}
	return discovery.NewTicket(h.cfg.Network, h.id, c.Relays, c.Addrs)
}

// AddTicket remembers what a ticket says about its peer for the next dial.
func (h *Host) AddTicket(t *discovery.Ticket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.tickets) >= maxBook {
		clear(h.tickets)
	}
	h.tickets[t.Peer] = t
}

// Online returns once this node has been reached from outside over a relay,
// end to end (PATH-35). A relay, and a node that has no relay to ask, is
// online as soon as it has started.
func (h *Host) Online(ctx context.Context) error {
	if !h.running() {
		return ErrClosed
	}
	select {
	case <-h.online.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-h.ctx.Done():
		return ErrClosed
	}
}

// onlineState remembers whether this node was reached from outside.
type onlineState struct {
	once sync.Once
	done chan struct{}
}

func (o *onlineState) init() { o.done = make(chan struct{}) }
func (o *onlineState) set()  { o.once.Do(func() { close(o.done) }) }
func (o *onlineState) is() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// proveOnline sends this node a packet over the relay until one arrives.
func (h *Host) proveOnline(via relay.Key) {
	if h.online.is() {
		return
	}
	h.wg.Go(func() {
		ctx, cancel := context.WithTimeout(h.ctx, openTimeout)
		defer cancel()
		if h.socket.Loop(ctx, via) == nil && h.links.waitHome(ctx) == nil {
			h.online.set()
		}
	})
}

func publicOnly(addrs []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		if manet.IsPublicAddr(a) && discovery.CheckAddr(a) == nil {
			out = append(out, a)
		}
	}
	return out
}

func isLoopback(a ma.Multiaddr) bool { return manet.IsIPLoopback(a) }
