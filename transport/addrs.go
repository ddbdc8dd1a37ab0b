package transport

import (
	"net"
	"net/netip"
	"slices"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/portmap"
)

// openUDP opens the sockets of the direct paths, one for each family that is
// listened on. A family this machine does not have is left out; without any
// the node uses relays only.
func (h *Host) openUDP() []*udp.Conn {
	var conns []*udp.Conn
	for network, ip := range h.bindIPs() {
		c, err := udp.Listen(network, netip.AddrPortFrom(ip, h.udpPort()))
		if err != nil && h.udpPort() != 0 {
			c, err = udp.Listen(network, netip.AddrPortFrom(ip, 0))
		}
		if err != nil {
			h.log.Info("no direct paths in one address family", "network", network, "err", err)
			continue
		}
		conns = append(conns, c)
	}
	return conns
}

// bindIPs are the addresses to bind, by network: those of Config.Listen.
func (h *Host) bindIPs() map[string]netip.Addr {
	if h.cfg.Listen == nil {
		return map[string]netip.Addr{"udp4": netip.IPv4Unspecified(), "udp6": netip.IPv6Unspecified()}
	}
	ips := make(map[string]netip.Addr)
	for _, a := range h.listen {
		raw, err := manet.ToIP(a)
		if err != nil {
			continue
		}
		ip, ok := netip.AddrFromSlice(raw)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		network := "udp4"
		if ip.Is6() {
			network = "udp6"
		}
		if _, have := ips[network]; !have {
			ips[network] = ip
		}
	}
	return ips
}

// udpPort is the port of the direct paths: the one after the stock
// transports', so that it lasts as well. 0 for any.
func (h *Host) udpPort() uint16 {
	switch {
	case h.cfg.Port != 0:
		return h.cfg.Port
	case h.cfg.Listen != nil:
		return 0
	case h.cfg.Relay != nil:
		return RelayPort + 3 // after its reflectors'
	}
	if p := h.savedPort(); p != 0 {
		return uint16(p) + 1
	}
	return 0
}

// gather tells the socket where peers may try to reach this node straight: at
// what the router gave and as reflectors see it first, then on its own networks.
func (h *Host) gather() {
	addrs := slices.Clone(h.cfg.External)
	var mapped []netip.AddrPort
	if m := h.mapper.Load(); m != nil {
		if a, ok := m.External(); ok {
			mapped = []netip.AddrPort{a}
		}
	}
	for _, a := range slices.Concat(mapped, h.reflectors.addrs(), h.localAddrs()) {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	h.socket.SetNetwork(h.reflectors.network()) // first: it goes out with the addresses
	h.socket.SetAddrs(addrs[:min(len(addrs), disco.MaxAddrs)])
	h.socket.SetTCP(h.tcpAddrs(), h.reflectors.silent())
}

// startMapper asks the router for a public port of the direct paths' IPv4
// socket, if there is one that others may reach (PATH-24).
func (h *Host) startMapper() {
	if h.cfg.NoPortMapping {
		return
	}
	for _, c := range h.udp {
		if at := c.LocalAddr(); at.Addr().Is4() && !at.Addr().IsLoopback() {
			h.mapper.Store(portmap.Start(portmap.Config{Port: at.Port(), Changed: h.gather, Logger: h.log}))
			h.gather() // what it found before it was stored
			return
		}
	}
}

// localAddrs are the addresses of the direct paths' sockets on this machine.
func (h *Host) localAddrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, c := range h.udp {
		bound := c.LocalAddr()
		if !bound.Addr().IsUnspecified() {
			addrs = append(addrs, bound)
			continue
		}
		ifaces, err := net.InterfaceAddrs()
		if err != nil {
			h.log.Warn("interface addresses not read", "err", err)
			continue
		}
		for _, ia := range ifaces {
			n, ok := ia.(*net.IPNet)
			if !ok {
				continue
			}
			ip, ok := netip.AddrFromSlice(n.IP)
			if !ok {
				continue
			}
			ip = ip.Unmap()
			if ip.Is4() == bound.Addr().Is4() && ip.IsGlobalUnicast() {
				addrs = append(addrs, netip.AddrPortFrom(ip, bound.Port()))
			}
		}
	}
	return addrs
}

// loopbackOnly tells that this node listens on loopback addresses only, so
// that its peers are on the same machine.
func loopbackOnly(addrs []ma.Multiaddr) bool {
	return len(addrs) > 0 && !slices.ContainsFunc(addrs, func(a ma.Multiaddr) bool { return !manet.IsIPLoopback(a) })
}
