//go:build linux

package acceptance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	"github.com/libp2p/go-libp2p/p2p/host/observedaddrs"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// The stock go-libp2p pair that stands beside ours in the table of dials: a
// circuit relay, and two hosts that are told that they are private, with hole
// punching. What libp2p needs time for is granted to it before the clock runs.

const (
	stockRelay  = "relay"
	stockListen = "listen"
	stockDial   = "dial"

	stockPing = "/acceptance/stock"
)

// dialled is what one dial took, from the call to it.
type dialled struct {
	Online time.Duration // from the start of the node until it was reachable
	First  time.Duration // until the first byte was back
	Direct time.Duration // until the path was direct; 0: never
}

// stock runs one of them until standard input ends.
func stock(cfg roamConfig) error {
	observedaddrs.ActivationThresh = 1 // one relay is all there is to observe them
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h, err := stockHost(cfg)
	if err != nil {
		return err
	}
	defer h.Close()
	h.SetStreamHandler(stockPing, func(s network.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	if cfg.Stock != stockRelay {
		if err := stockReady(ctx, h, cfg.Stock == stockListen); err != nil {
			return err
		}
	}
	out := newLines()
	addr := ""
	for _, a := range h.Addrs() {
		if _, err := a.ValueForProtocol(ma.P_QUIC_V1); err == nil && manet.IsPublicAddr(a) {
			addr = fmt.Sprintf("%s/p2p/%s", a, h.ID())
		}
	}
	ended := inputEnds()
	if err := out.tell(roamLine{Ready: &roamReady{PeerID: h.ID().String(), Ticket: addr}}); err != nil {
		return err
	}
	if cfg.Stock == stockDial {
		took, err := stockDials(ctx, h, cfg)
		if err != nil {
			return err
		}
		return out.tell(roamLine{Dialled: &took})
	}
	<-ended
	return nil
}

func stockHost(cfg roamConfig) (host.Host, error) {
	opts := []libp2p.Option{libp2p.DisableMetrics(), libp2p.EnableRelay()}
	if cfg.Stock == stockRelay {
		opts = append(opts, libp2p.ListenAddrStrings("/ip4/0.0.0.0/udp/4001/quic-v1"),
			libp2p.ForceReachabilityPublic(), libp2p.EnableRelayService(relay.WithInfiniteLimits()))
		return libp2p.New(opts...)
	}
	via, err := peer.AddrInfoFromString(cfg.Join[0])
	if err != nil {
		return nil, err
	}
	opts = append(opts, libp2p.ListenAddrStrings("/ip4/0.0.0.0/udp/0/quic-v1"),
		libp2p.ForceReachabilityPrivate(), libp2p.EnableHolePunching(),
		libp2p.EnableAutoRelayWithStaticRelays([]peer.AddrInfo{*via}, autorelay.WithBootDelay(0)))
	h, err := libp2p.New(opts...)
	if err != nil {
		return nil, err
	}
	if err := h.Connect(context.Background(), *via); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// stockReady returns when the host has a reservation, if it needs one, and 3 s
// later, by when it knows its own public address.
func stockReady(ctx context.Context, h host.Host, reserved bool) error {
	for reserved && !slices.ContainsFunc(h.Addrs(), isCircuit) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("no reservation: %w", ctx.Err())
		}
	}
	time.Sleep(3 * time.Second)
	return nil
}

func isCircuit(a ma.Multiaddr) bool {
	_, err := a.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

func stockDials(ctx context.Context, h host.Host, cfg roamConfig) (took dialled, err error) {
	to, err := peer.AddrInfoFromString(cfg.Join[0] + "/p2p-circuit/p2p/" + cfg.Target)
	if err != nil {
		return took, err
	}
	ctx = network.WithAllowLimitedConn(ctx, "dial")
	begin := time.Now()
	if err := h.Connect(ctx, *to); err != nil {
		return took, err
	}
	s, err := h.NewStream(ctx, to.ID, stockPing)
	if err != nil {
		return took, err
	}
	defer s.Close()
	if _, err := s.Write([]byte{1}); err != nil {
		return took, err
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		return took, err
	}
	took.First = time.Since(begin)
	for time.Since(begin) < 20*time.Second {
		if slices.ContainsFunc(h.Network().ConnsToPeer(to.ID), func(c network.Conn) bool { return !isCircuit(c.RemoteMultiaddr()) }) {
			took.Direct = time.Since(begin)
			break
		}
		time.Sleep(time.Millisecond)
	}
	return took, nil
}
