//go:build linux

package acceptance

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// optional is an ordinary go-libp2p program with our option added: its streams
// are libp2p's own, opened on its own host (PATH-2).
func optional(key ed25519.PrivateKey, cfg roamConfig, log *slog.Logger) error {
	ticket, err := discovery.ParseTicket(cfg.Option)
	if err != nil {
		return err
	}
	alknet, err := transport.New(transport.Config{
		Key: key, Network: ticket.Network, Join: []*discovery.Ticket{ticket}, NoMDNS: true, Logger: log,
	})
	if err != nil {
		return err
	}
	defer alknet.Close()
	host, err := libp2p.New(alknet.Option())
	if err != nil {
		return err
	}
	defer host.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	alknet.AddTicket(ticket)
	dial, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := alknet.Connect(dial, ticket.Peer); err != nil {
		return err
	}
	open := func(ctx context.Context) (duplex, error) {
		return host.NewStream(ctx, ticket.Peer, protocols.ProtocolID(roamALPN))
	}
	out := newLines()
	ended := inputEnds()
	if err := out.tell(roamLine{Ready: &roamReady{PeerID: host.ID().String()}}); err != nil {
		return err
	}
	look := func() (kind, addr string) { return pathTo(alknet, ticket.Peer) }
	return out.tell(roamLine{Report: drive(ctx, cfg, open, look, ended, out)})
}

func pathTo(h *transport.Host, p peer.ID) (kind, addr string) {
	path := h.Path(p)
	if path.Kind == transport.PathRelayed {
		return string(path.Kind), path.Relay.String()
	}
	return string(path.Kind), path.Addr
}
