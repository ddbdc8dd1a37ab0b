package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/alkdev/alknet-p2p/transport/magic/nat64"
)

const (
	nat64Again   = time.Second // after no answer, doubling
	nat64Longest = time.Minute
	nat64Renew   = 30 * time.Minute // after an answer, as DNS64s forget theirs
)

// nat64State knows the NAT64 of a network that has no IPv4, by which IPv4
// addresses are reached there (PATH-24).
type nat64State struct {
	h    *Host
	wake chan struct{}

	mu       sync.Mutex
	prefixes []netip.Prefix
	ipv4     bool  // the network has IPv4 of its own
	err      error // why there are no prefixes
}

func newNAT64State(h *Host) *nat64State {
	return &nat64State{h: h, wake: make(chan struct{}, 1), ipv4: true}
}

// kick makes it look again: the network changed.
func (n *nat64State) kick() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run looks for prefixes until the host is closed.
func (n *nat64State) run() {
	if loopbackOnly(n.h.listen) {
		return
	}
	again := nat64Again
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-n.h.ctx.Done():
			return
		case <-n.wake:
			again = nat64Again
		case <-timer.C:
		}
		found, err := n.look(n.h.ctx)
		wait := nat64Renew
		if err != nil && !errors.Is(err, nat64.ErrNone) { // DNS may come up later than the address
			wait, again = again, min(2*again, nat64Longest)
		}
		if n.put(found, err) {
			n.changed(found)
		}
		timer.Reset(wait)
	}
}

// look asks for the prefixes, unless the network has IPv4 of its own.
func (n *nat64State) look(ctx context.Context) ([]netip.Prefix, error) {
	has := routed(netip.AddrFrom4([4]byte{192, 0, 0, 170})) // of the internet, and nobody's
	n.mu.Lock()
	n.ipv4 = has
	n.mu.Unlock()
	if has {
		return nil, nil
	}
	return nat64.Discover(ctx, net.DefaultResolver)
}

// put notes what was found and tells whether that is news. What was known
// outlives a question without an answer.
func (n *nat64State) put(found []netip.Prefix, err error) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
	if err != nil && !errors.Is(err, nat64.ErrNone) || slices.Equal(n.prefixes, found) {
		return false
	}
	n.prefixes = found
	return true
}

// changed lets everything that could not reach IPv4 try again.
func (n *nat64State) changed(found []netip.Prefix) {
	n.h.log.Info("NAT64 of this network", "prefixes", found)
	n.h.socket.SetNAT64(n.prefix())
	n.h.links.pool.Kick()
	n.h.reflectors.reset()
	n.h.nat.forget()
	n.h.nat.kick()
	n.h.gather()
}

func (n *nat64State) known() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.prefixes
}

// prefix is the one by which packets go; the zero Prefix without a NAT64.
func (n *nat64State) prefix() netip.Prefix {
	if known := n.known(); len(known) > 0 {
		return known[0]
	}
	return netip.Prefix{}
}

// plain returns the IPv4 address that a synthesised one stands for, and others as
// they are.
func (n *nat64State) plain(ip netip.Addr) netip.Addr {
	for _, p := range n.known() {
		if v4 := nat64.Extract(p, ip); v4.IsValid() {
			return v4
		}
	}
	return ip
}

// translate returns the addresses to dial: instead of each public IPv4 one those
// that the NAT64 takes, if there is one.
func (n *nat64State) translate(addrs []ma.Multiaddr) []ma.Multiaddr {
	known := n.known()
	if len(known) == 0 {
		return addrs
	}
	var out []ma.Multiaddr
	for _, a := range addrs {
		ips := ipsOf([]ma.Multiaddr{a})
		if len(ips) == 0 || !nat64.Public(ips[0]) {
			out = append(out, a)
			continue
		}
		for _, p := range known {
			c, err := manet.FromIP(nat64.Synthesize(p, ips[0]).AsSlice())
			if err == nil {
				out = append(out, append(c, a[1:]...))
			}
		}
	}
	return out
}

// check is doctor's finding.
func (n *nat64State) check() Check {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := Check{Name: "nat64", OK: true}
	switch {
	case len(n.prefixes) > 0:
		c.Detail = n.prefixes[0].String() + ": IPv4 addresses are reached by it"
	case n.ipv4:
		c.Detail = "none is needed: this network has IPv4"
	case n.err != nil:
		c.Detail = "none: " + n.err.Error()
	default:
		c.Detail = "none"
	}
	return c
}
