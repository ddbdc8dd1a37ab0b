package transport

import (
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/x/rate"
)

// Connections from one address: many homes and whole companies share one. By
// default libp2p takes 16, and then one every five seconds.
const (
	connsPerAddr     = 1024
	newConnsPerAddr  = 20 // a second
	newConnsAtOnce   = 512
	newConnsPerBlock = 4 // times as many for the IPv6 block of a provider's customer
)

// maxHandshakes is how many connections that others open may be coming up at a
// relay. When all its clients come at once, those it takes are up within about
// a second on one processor, and the others, turned away, come again. Were all
// taken, none would be up before its time is over, over and over again.
const maxHandshakes = 512

// newResourceManager bounds what others can make libp2p hold.
func newResourceManager(relay bool) (network.ResourceManager, error) {
	per := rate.Limit{RPS: newConnsPerAddr, Burst: newConnsAtOnce}
	block := rate.Limit{RPS: newConnsPerBlock * per.RPS, Burst: newConnsPerBlock * per.Burst}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(resourceLimits(relay)),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: connsPerAddr}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: connsPerAddr}, {PrefixLength: 48, ConnCount: 4 * connsPerAddr}}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			// This machine itself is not limited.
			NetworkPrefixLimits: []rate.PrefixLimit{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")}},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: per}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: per}, {PrefixLength: 48, Limit: block}},
				GracePeriod:      time.Minute,
			},
		}))
}

// resourceLimits are set explicitly: libp2p's defaults scale with the machine
// and stop at a few hundred connections.
func resourceLimits(relay bool) rcmgr.ConcreteLimitConfig {
	conns, streams := 4096, 65536
	if relay {
		conns, streams = 32768, 262144
	}
	system := rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(conns), ConnsInbound: rcmgr.LimitVal(conns), ConnsOutbound: rcmgr.LimitVal(conns),
		Streams: rcmgr.LimitVal(streams), StreamsInbound: rcmgr.LimitVal(streams), StreamsOutbound: rcmgr.LimitVal(streams),
		FD: rcmgr.LimitVal(conns), Memory: 2 << 30,
	}
	transient := rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(conns / 4), ConnsInbound: rcmgr.LimitVal(conns / 4), ConnsOutbound: rcmgr.LimitVal(conns / 4),
		Streams: rcmgr.LimitVal(streams / 4), StreamsInbound: rcmgr.LimitVal(streams / 4), StreamsOutbound: rcmgr.LimitVal(streams / 4),
		FD: rcmgr.LimitVal(conns / 4), Memory: 512 << 20,
	}
	if relay {
		transient.ConnsInbound = maxHandshakes
	}
	perPeer := rcmgr.ResourceLimits{
		Conns: 16, ConnsInbound: 8, ConnsOutbound: 8,
		Streams: 2048, StreamsInbound: 1024, StreamsOutbound: 1024,
		FD: 8, Memory: 128 << 20,
	}
	perProtocol := rcmgr.ResourceLimits{
		Streams: rcmgr.LimitVal(streams), StreamsInbound: rcmgr.LimitVal(streams), StreamsOutbound: rcmgr.LimitVal(streams),
		Memory: 1 << 30,
	}
	return rcmgr.PartialLimitConfig{
		System: system, Transient: transient,
		PeerDefault: perPeer, ProtocolDefault: perProtocol, ProtocolPeerDefault: perPeer,
		ServiceDefault: perProtocol, ServicePeerDefault: perPeer,
		Conn:   rcmgr.ResourceLimits{Conns: 1, ConnsInbound: 1, ConnsOutbound: 1, FD: 1, Memory: 64 << 20, Streams: 2048, StreamsInbound: 1024, StreamsOutbound: 1024},
		Stream: rcmgr.ResourceLimits{Streams: 1, StreamsInbound: 1, StreamsOutbound: 1, Memory: 32 << 20},
	}.Build(rcmgr.InfiniteLimits)
}

// circuitLimits size the stock circuit relay that relays run beside their own:
// no limit of time or data, but of numbers (PATH-31). libp2p's defaults allow
// eight reservations per IPv4 address.
func circuitLimits() []circuit.Option {
	rc := circuit.DefaultResources()
	rc.Limit = nil
	rc.MaxReservations = 1024
	rc.MaxCircuits = 64
	rc.MaxReservationsPerIP = 256
	rc.MaxReservationsPerASN = 1024
	return []circuit.Option{circuit.WithResources(rc)}
}
