package socket

import (
	"maps"
	"net/netip"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

// index finds peers. It is never changed, only replaced, so that the data
// plane reads it without a lock (PATH-8).
type index struct {
	byKey  map[relay.Key]*peer
	byAddr map[netip.Addr]*peer     // virtual addresses
	byPath map[netip.AddrPort]*peer // validated direct paths
}

func newIndex() *index {
	return &index{
		byKey:  make(map[relay.Key]*peer),
		byAddr: make(map[netip.Addr]*peer),
		byPath: make(map[netip.AddrPort]*peer),
	}
}

func (x *index) with(p *peer) *index {
	n := &index{byKey: maps.Clone(x.byKey), byAddr: maps.Clone(x.byAddr), byPath: x.byPath}
	n.byKey[p.key] = p
	n.byAddr[p.addr.AddrPort().Addr()] = p
	return n
}

func (x *index) without(p *peer) *index {
	n := &index{byKey: maps.Clone(x.byKey), byAddr: maps.Clone(x.byAddr), byPath: x.byPath}
	delete(n.byKey, p.key)
	delete(n.byAddr, p.addr.AddrPort().Addr())
	return n.withPaths(p, nil)
}

// withPaths makes addrs the only addresses from which packets of p are taken.
func (x *index) withPaths(p *peer, addrs []netip.AddrPort) *index {
	n := &index{byKey: x.byKey, byAddr: x.byAddr, byPath: maps.Clone(x.byPath)}
	maps.DeleteFunc(n.byPath, func(_ netip.AddrPort, o *peer) bool { return o == p })
	for _, a := range addrs {
		n.byPath[a] = p
	}
	return n
}
