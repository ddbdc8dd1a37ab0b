package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2/maybe"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// RelayPort is where relays listen unless told otherwise, UDP and TCP.
const RelayPort = 4242

const (
	portFile  = "port"
	minPort   = 20000 // random ports keep clear of well-known services
	maxPort   = 60000
	portTries = 16
)

// bind listens on the configured addresses, or on the default ones. Nothing
// that was asked for may fail; of the defaults, IPv6 may be missing.
func (h *Host) bind() error {
	if h.cfg.Listen != nil {
		for _, a := range h.listen {
			if err := h.listenOn(a); err != nil {
				return fmt.Errorf("%w on %s: %w", ErrBind, a, err)
			}
		}
	} else if err := h.bindDefault(); err != nil {
		return err
	}
	if h.cfg.Listen443 || h.cfg.Relay != nil && h.cfg.Listen == nil {
		return h.bindWeb()
	}
	return nil
}

// bindDefault listens on a relay's port, or on the one this node had before.
func (h *Host) bindDefault() (err error) {
	if h.cfg.Relay != nil {
		return h.bindPort(RelayPort)
	}
	port := h.savedPort()
	for range portTries {
		if port == 0 {
			port = minPort + rand.IntN(maxPort-minPort)
		}
		if err = h.bindPort(port); err == nil {
			h.savePort(port)
			return nil
		}
		port = 0
	}
	return err
}

// bindPort listens on one port in every way, or in none.
func (h *Host) bindPort(port int) error {
	var bound []ma.Multiaddr
	for _, network := range []string{"udp", "tcp"} {
		if err := tryPort(h.ctx, network, fmt.Sprintf("0.0.0.0:%d", port)); err != nil {
			return fmt.Errorf("%w on %s port %d: %w", ErrBind, network, port, err)
		}
	}
	for _, form := range []string{"/ip4/0.0.0.0/udp/%d/quic-v1", "/ip4/0.0.0.0/tcp/%d", "/ip4/0.0.0.0/tcp/%d/ws", "/ip6/::/udp/%d/quic-v1", "/ip6/::/tcp/%d"} {
		a := ma.StringCast(fmt.Sprintf(form, port))
		err := h.swarm.AddListenAddr(a)
		if err == nil {
			bound = append(bound, a)
			continue
		}
		if a[0].Protocol().Code == ma.P_IP6 {
			h.log.Info("not listening on IPv6", "addr", a, "err", err)
			continue
		}
		h.swarm.ListenClose(bound...)
		return fmt.Errorf("%w on %s: %w", ErrBind, a, err)
	}
	h.listen = bound
	return nil
}

// listenOn listens on one address unless somebody else does: libp2p sets
// SO_REUSEPORT, with which two processes would take each other's connections.
func (h *Host) listenOn(a ma.Multiaddr) error {
	network, addr, err := manet.DialArgs(a)
	if err == nil && !slices.ContainsFunc(h.swarm.ListenAddresses(), func(o ma.Multiaddr) bool { return samePort(o, a) }) {
		if err := tryPort(h.ctx, network, addr); err != nil {
			return err
		}
	}
	return h.swarm.AddListenAddr(a)
}

// samePort tells that two addresses of this node share a port, as TCP and
// WebSocket may.
func samePort(a, b ma.Multiaddr) bool {
	return len(a) > 1 && len(b) > 1 && a[:2].Equal(b[:2])
}

// tryPort fails when the port is taken.
func tryPort(ctx context.Context, network, addr string) error {
	if strings.HasPrefix(network, "udp") {
		c, err := new(net.ListenConfig).ListenPacket(ctx, network, addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// savedPort is the port of the last run: NAT mappings and firewall rules made
// for it stay good. 0 when there is none.
func (h *Host) savedPort() int {
	if h.cfg.CacheDir == "" {
		return 0
	}
	text, err := os.ReadFile(filepath.Join(h.cfg.CacheDir, portFile))
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || port < minPort || port >= maxPort {
		return 0
	}
	return port
}

func (h *Host) savePort(port int) {
	if h.cfg.CacheDir == "" {
		return
	}
	err := errors.Join(
		os.MkdirAll(h.cfg.CacheDir, 0o700),
		maybe.WriteFile(filepath.Join(h.cfg.CacheDir, portFile), []byte(strconv.Itoa(port)+"\n"), 0o600))
	if err != nil {
		h.log.Warn("port not remembered", "err", err)
	}
}
