package transport

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/web"
)

// certDir holds the account and the certificate of an ACME authority, within
// CacheDir.
const certDir = "tls"

// prepareWeb makes what dials through proxies, and the certificate of port 443.
func (h *Host) prepareWeb() error {
	var proxy *web.Proxy
	if h.cfg.Proxy != "" {
		var err error
		if proxy, err = web.ParseProxy(h.cfg.Proxy); err != nil {
			return fmt.Errorf("config: Proxy: %w", err)
		}
	}
	h.dialer = web.NewDialer(proxy)
	r := h.cfg.Relay
	switch {
	case r == nil && !h.cfg.Listen443:
		return nil
	case r == nil:
		r = &RelayConfig{}
	}
	cfg := web.CertificateConfig{
		Domain: r.Domain, CertFile: r.CertFile, KeyFile: r.KeyFile,
		Directory: r.ACMEDirectory, DirectoryRoots: r.ACMERoots, Logger: h.log,
	}
	if h.cfg.CacheDir != "" {
		cfg.CacheDir = filepath.Join(h.cfg.CacheDir, certDir)
	}
	var err error
	if h.certs, err = web.NewCertificates(cfg); err != nil {
		return fmt.Errorf("config: Relay: %w", err)
	}
	if (r.Domain != "" || r.CertFile != "") && h.cfg.Listen != nil && !h.cfg.Listen443 && !slices.ContainsFunc(h.listen, isWSS) {
		return fmt.Errorf("config: Relay: a certificate, and nothing to use it on: add /ip4/0.0.0.0/tcp/%d/tls/ws to Listen", web.Port)
	}
	return nil
}

// webTLS is what is listened with below TLS; nil unless a relay, or on port 443.
func (h *Host) webTLS() *tls.Config {
	if h.certs == nil {
		return nil
	}
	return h.certs.TLS()
}

// bindWeb lets this node be reached from networks that let nothing but the web
// out: stock TCP, WebSocket below TLS and direct paths, on one port. It may be
// somebody else's, or closed to users without privileges: a relay does without,
// unless a certificate, or the port itself, was asked for.
func (h *Host) bindWeb() error {
	var failed error // on IPv4, which every machine has
	for _, host := range []string{"/ip4/0.0.0.0", "/ip6/::"} {
		for _, rest := range []string{"", "/tls/ws"} {
			a := ma.StringCast(fmt.Sprintf("%s/tcp/%d%s", host, web.Port, rest))
			if slices.ContainsFunc(h.listen, a.Equal) {
				continue // Config.Listen names it as well
			}
			if err := h.listenOn(a); err != nil {
				if a[0].Code() == ma.P_IP4 {
					failed = fmt.Errorf("%w on %s: %w", ErrBind, a, err)
				} else {
					h.log.Info("not listening on IPv6", "addr", a, "err", err)
				}
				break
			}
			h.listen = append(h.listen, a)
		}
	}
	switch {
	case failed == nil:
		return nil
	case h.cfg.Listen443:
		return fmt.Errorf("%w: %w", ErrListen443, failed)
	case h.cfg.Relay.Domain != "" || h.cfg.Relay.CertFile != "":
		return fmt.Errorf("a relay with a certificate needs TCP port %d: %w", web.Port, failed)
	}
	h.log.Warn("not listening on TCP port 443: networks that let nothing else out do not reach this relay", "err", failed)
	return nil
}

// advertised are the addresses that others learn: not the magic transport's
// (PATH-1), but that of the domain.
func (h *Host) advertised(addrs []ma.Multiaddr) []ma.Multiaddr {
	addrs = magic.Strip(addrs)
	if h.cfg.Relay == nil || h.cfg.Relay.Domain == "" {
		return addrs
	}
	for _, a := range addrs {
		if isWSS(a) {
			port, _ := a.ValueForProtocol(ma.P_TCP)
			domain := h.cfg.Relay.Domain
			named, err := ma.NewMultiaddr(fmt.Sprintf("/dns4/%s/tcp/%s/tls/sni/%s/ws", domain, port, domain))
			if err != nil {
				return addrs
			}
			return append([]ma.Multiaddr{named}, addrs...)
		}
	}
	return addrs
}

// isNamed tells that an address begins with a name.
func isNamed(a ma.Multiaddr) bool {
	switch a[0].Code() {
	case ma.P_DNS, ma.P_DNS4, ma.P_DNS6, ma.P_DNSADDR:
		return true
	}
	return false
}

// isWSS tells that an address is WebSocket below TLS.
func isWSS(a ma.Multiaddr) bool {
	if len(a) < 3 || a[1].Code() != ma.P_TCP {
		return false
	}
	c := a[2].Code()
	return c == ma.P_WSS || c == ma.P_TLS && a[len(a)-1].Code() == ma.P_WS
}

// The ways to a relay, in the order in which they are tried (PATH-25, PATH-31):
// TCP carries more than QUIC there, and where one is blocked another may not be.
const (
	wayTCP    = iota
	wayTCP443 // firewalls that look at ports
	wayQUIC   // TCP that is broken
	wayWSS    // firewalls that look at what is said
	wayOther  // the plain WebSocket is for browsers
	wayEnd
)

// linkOrder puts the addresses of a relay in the order to dial them: each way
// once before any of them twice, so that a blocked one costs little.
func linkOrder(addrs []ma.Multiaddr) []ma.Multiaddr {
	var ways [wayEnd][]ma.Multiaddr
	for _, a := range addrs {
		w := wayOf(a)
		ways[w] = append(ways[w], a)
	}
	out := make([]ma.Multiaddr, 0, len(addrs))
	for len(out)+len(ways[wayOther]) < len(addrs) {
		for w := range ways[:wayOther] {
			if len(ways[w]) > 0 {
				out = append(out, ways[w][0])
				ways[w] = ways[w][1:]
			}
		}
	}
	return append(out, ways[wayOther]...)
}

func wayOf(a ma.Multiaddr) int {
	switch {
	case isWSS(a):
		return wayWSS
	case len(a) > 1 && a[1].Code() == ma.P_UDP:
		return wayQUIC
	case len(a) != 2 || a[1].Code() != ma.P_TCP:
		return wayOther
	case a[1].Value() == strconv.Itoa(web.Port):
		return wayTCP443
	}
	return wayTCP
}
