package transport

import (
	"net/netip"
	"slices"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// tcpAddrs are where peers may try this node by TCP if UDP does not get through
// (PATH-20): the port numbers of its direct paths at each of its IP addresses,
// and port 443 there if this node listens on it. Outside they are the same behind most NATs. Without UDP only relays say which
// those are.
func (h *Host) tcpAddrs() []netip.AddrPort {
	all := slices.Clone(h.cfg.External)
	for _, a := range h.reflectors.addrs() {
		all = append(all, h.atOwnPort(a.Addr()))
	}
	seen := h.links.seen()
	slices.Sort(seen) // so that nothing changes when nothing does
	for _, text := range seen {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			continue
		}
		ip, err := manet.ToIP(a)
		if err != nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(ip); ok {
			all = append(all, h.atOwnPort(ip.Unmap()))
		}
	}
	all = append(all, h.localAddrs()...)
	var out []netip.AddrPort
	for _, a := range all {
		if a.Port() != 0 && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return h.withWeb(out)
}

// atOwnPort is the address with the port of the direct paths of its family; 0
// when there are none.
func (h *Host) atOwnPort(ip netip.Addr) netip.AddrPort {
	four := ip.Is4() && !h.nat64.prefix().IsValid() // a NAT64 translates the other socket
	for _, c := range h.udp {
		if at := c.LocalAddr(); at.Addr().Is4() == four {
			return netip.AddrPortFrom(ip, at.Port())
		}
	}
	return netip.AddrPort{}
}
