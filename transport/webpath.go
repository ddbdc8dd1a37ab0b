package transport

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
	"github.com/alkdev/alknet-p2p/transport/web"
)

// webPath is what follows the TCP port in the address of a direct path that
// looks like the web's (PATH-20).
const webPath = "/tls/ws"

// dialWeb opens a connection to port 443 of a peer, for a direct path.
func (h *Host) dialWeb(ctx context.Context, to netip.AddrPort) (tcp.Carrier, error) {
	c, err := h.dialer.Direct(ctx, to)
	switch {
	case errors.Is(err, web.ErrNoPeer):
		return nil, noPeerError{err}
	case err != nil:
		return nil, err
	}
	if proxy := c.Proxy(); proxy != "" {
		h.log.Debug("direct path through the proxy", "addr", to, "proxy", proxy)
	}
	return c, nil
}

// noPeerError is such an error of package web as the socket knows it.
type noPeerError struct{ error }

// Is implements what errors.Is asks for.
func (noPeerError) Is(target error) bool { return target == socket.ErrNoPeer }

// takeWeb takes a connection for a direct path to this node.
func (h *Host) takeWeb(c *web.Direct) { h.socket.TakeWeb(c, c.Remote()) }

// webPorts is where this node takes direct paths by TLS: on port 443 of this
// machine, of IPv4 and IPv6, or on another, to which a router may forward 443.
type webPorts struct{ at443 [2]bool }

// noteWeb remembers on what this node listens by now. What listens on loopback
// only is behind something that others reach, if they do.
func (h *Host) noteWeb() {
	if h.certs == nil {
		return
	}
	var w *webPorts
	for _, a := range h.swarm.ListenAddresses() {
		if !isWSS(a) {
			continue
		}
		if w == nil {
			w = new(webPorts)
		}
		if a[1].Value() == strconv.Itoa(web.Port) && !manet.IsIPLoopback(a) {
			w.at443[family(a[0].Code() == ma.P_IP6)] = true
		}
	}
	h.web.Store(w)
	h.gather()
}

// withWeb adds to the addresses at which peers may try this node by TCP those at
// port 443, each behind the first at that IP address: a list is cut at its end, and
// neither kind must be missing then.
func (h *Host) withWeb(addrs []netip.AddrPort) []netip.AddrPort {
	w := h.web.Load()
	if w == nil {
		return slices.DeleteFunc(addrs, func(a netip.AddrPort) bool { return a.Port() == web.Port })
	}
	var out []netip.AddrPort
	for _, a := range addrs {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
		at := netip.AddrPortFrom(a.Addr(), web.Port)
		if w.at443[family(a.Addr().Is6())] && !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}

// checkListen443 says where peers are told that this node takes direct paths by
// TLS. Whether a router lets them in nobody here can see.
func (h *Host) checkListen443() Check {
	c := Check{Name: "listen443", OK: true}
	var at []string
	for _, a := range h.tcpAddrs() {
		if a.Port() == web.Port {
			at = append(at, a.String())
		}
	}
	switch {
	case h.web.Load() == nil:
		c.Detail = "not listening on TCP port 443"
	case len(at) == 0:
		c.Detail = "listening, and no address is known at which TCP port 443 leads here"
	default:
		c.Detail = "peers whose networks let nothing else out are told to come to " + strings.Join(at, ", ")
		if h.reachability() == ReachabilityPrivate {
			c.Detail += "; the router has to forward TCP port 443 to this machine"
		}
	}
	return c
}
