package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/fx"

	"github.com/alkdev/alknet-p2p/transport/magic"
)

// Option builds the Host around the libp2p host of another program, in place
// of Start. The program keeps its transports, limits and handlers; beside them
// it gets connections by key that survive any change of path (PATH-2):
//
//	node, err := transport.New(transport.Config{Key: key, Join: tickets})
//	h, err := libp2p.New(libp2p.ListenAddrStrings(…), node.Option())
//	err = node.Connect(ctx, id) // by key alone
//	s, err := h.NewStream(ctx, id, "/my/protocol")
//
// The program may as well let libp2p dial: h.Connect to the address
// /alknet/p2p/12D3KooW….
//
// The option comes after the program's own; an Identity or AddrsFactory given
// later is refused by libp2p. The libp2p host has the Host's key. Direct paths
// use ports of their own on the addresses the program listens on; one that
// listens nowhere uses relays only. Config.Listen, Listen443, Relay, HideIP and
// Proxy must not be set.
//
// Closing either host closes both. When libp2p.New fails the Host is still to
// be closed.
func (h *Host) Option() libp2p.Option {
	return func(c *libp2p.Config) error {
		if err := h.begin(); err != nil {
			return fmt.Errorf("alknet option: %w", err)
		}
		switch {
		case h.cfg.Relay != nil:
			return errors.New("alknet option: a relay has a host of its own: use Start")
		case h.cfg.HideIP:
			return errors.New("alknet option: HideIP cannot be kept for a program's own transports: use Start")
		case h.cfg.Listen != nil || h.cfg.Listen443:
			return errors.New("alknet option: the libp2p host says where to listen, not Config.Listen")
		case h.cfg.Proxy != "":
			return errors.New("alknet option: Proxy cannot be kept for a program's own transports: use Start")
		case c.PeerKey != nil && !c.PeerKey.Equals(h.priv):
			return errors.New("alknet option: the libp2p host has another key than Config.Key")
		}
		c.PeerKey = h.priv
		c.AddrsFactory = stripBefore(c.AddrsFactory) // PATH-1
		var own libp2p.Config
		err := own.Apply(libp2p.Transport(func(lh host.Host, sw *swarm.Swarm, key crypto.PrivKey, gater connmgr.ConnectionGater, rcmgr network.ResourceManager) (transport.Transport, error) {
			if err := h.adopt(lh, sw, c.ListenAddrs); err != nil {
				return nil, err
			}
			return h.magic.Constructor(key, gater, rcmgr)
		}))
		if err != nil {
			return fmt.Errorf("alknet option: %w", err)
		}
		// Not among the program's transports: libp2p would then leave out its
		// default ones, and give this one to its hidden hosts (PATH-3).
		c.UserFxOptions = append(c.UserFxOptions, own.Transports...)
		c.UserFxOptions = append(c.UserFxOptions, fx.Invoke(func(l fx.Lifecycle) {
			l.Append(fx.StartStopHook(h.enterWith, h.Close))
		}))
		return nil
	}
}

// stripBefore keeps the magic transport's address from what is advertised,
// before the program's own choice.
func stripBefore(next func([]ma.Multiaddr) []ma.Multiaddr) func([]ma.Multiaddr) []ma.Multiaddr {
	if next == nil {
		return magic.Strip
	}
	return func(addrs []ma.Multiaddr) []ma.Multiaddr { return next(magic.Strip(addrs)) }
}

// adopt takes a libp2p host that is being built, and makes what it needs of
// this one.
func (h *Host) adopt(lh host.Host, sw *swarm.Swarm, listen []ma.Multiaddr) error {
	h.listen, h.cfg.Listen = listen, []string{}
	for _, a := range listen {
		h.cfg.Listen = append(h.cfg.Listen, a.String())
	}
	h.libp2p, h.swarm = lh, sw
	sw.Notify(&network.NotifyBundle{ConnectedF: h.connected, DisconnectedF: h.disconnected})
	return h.engine()
}

// enterWith enters the network once the adopted host listens; libp2p.New
// returns after it.
func (h *Host) enterWith(ctx context.Context) error {
	err := h.enter(ctx)
	if err != nil {
		_ = h.Close()
	}
	return err
}
