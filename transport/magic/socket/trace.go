package socket

import (
	"net/netip"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// Trace is one thing that was done, or refused, on the way to a peer, for people
// who want to know why its path is what it is (PATH-34). Changes of paths are
// told by Config.Events.
type Trace struct {
	Kind   TraceKind
	Addr   netip.AddrPort   // the address probed, refused or heard from
	Addrs  []netip.AddrPort // what was named; not to be changed
	Peer   disco.Network    // what the peer says of its way out, with TraceHeard
	Relay  relay.Key        // over which, or whom it is about
	Reason string           // constant text
	Err    error            // why a relay, or a try, is of no use
}

// TraceKind says what happened.
type TraceKind uint8

// The kinds of Trace.
const (
	TraceRelayUp   TraceKind = iota + 1 // a link to a relay of the peer is up
	TraceRelayDown                      // there will be none: Err
	TraceGone                           // the relay does not know the peer
	TraceCalled                         // the peer was told our addresses, over its relays
	TraceHeard                          // the peer named its own
	TraceWithheld                       // the peer may not learn our addresses (PATH-13)
	TraceProbed                         // a probe left to an address that has not answered
	TraceHeld                           // the same, but the budget was used up (PATH-14)
	TraceRefused                        // an address of the peer must not be probed: Reason
	TraceKnocked                        // a probe of the peer came straight
	TracePunch                          // a hard NAT is tried, or not: Reason (PATH-23)
	TraceDialled                        // a try to connect to an address by TCP came to nothing: Err
)

// trace tells cfg.Trace. The caller may hold p.mu.
func (p *peer) trace(t Trace) {
	if p.s.cfg.Trace != nil {
		p.s.cfg.Trace(p.key, t)
	}
}
