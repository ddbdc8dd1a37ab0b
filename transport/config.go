package transport

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// Config of a Host. Key is required, every other field has a default.
type Config struct {
	// Key is the node key.
	Key ed25519.PrivateKey
	// Next is the commitment to the key that follows this one, published in
	// the address record; all zero for none.
	Next [32]byte
	// Generation counts the keys this identity had before.
	Generation uint32
	// HandOvers are the sealed hand-overs by which Key followed earlier ones;
	// they are published beside the address record.
	HandOvers [][]byte
	// Network separates nodes that shall not meet; "main" when empty.
	Network string
	// Listen are multiaddrs to listen on. When nil: QUIC, TCP and WebSocket on
	// every interface, on port 4242 for a relay, else on a port chosen once and
	// kept in CacheDir; a relay on TCP port 443 too, where it may, with WebSocket
	// below TLS (…/tcp/443/tls/ws). Nothing when empty but not nil.
	Listen []string
	// Listen443 listens on TCP port 443 as well, as a relay does: peers whose
	// networks let nothing else out have direct paths then. Not to get the port is
	// an error. With an empty Listen there are no direct paths, and that is one too.
	Listen443 bool
	// Join are tickets of nodes to enter the network by.
	Join []*discovery.Ticket
	// Relay makes this node a relay, bootstrap node and DHT server; nil for an
	// ordinary one.
	Relay *RelayConfig
	// PublishAddrs puts this node's public addresses into its address record,
	// beside its relays (PATH-37). Without it they are found by those only who
	// are given a ticket.
	PublishAddrs bool
	// HideIP keeps this node's addresses from everybody but its relays: nothing
	// is listened on, published, or dialled straight (PATH-38).
	HideIP bool
	// NoRelays uses no relay: peers are reached where they, or this node, can be
	// dialled straight.
	NoRelays bool
	// Known tells whose key is in the registry: its traffic over this node, if
	// that is a relay, has no limit, and it may name private addresses. Nil
	// knows nobody.
	Known func(relay.Key) bool
	// DiscloseKnown lets only known peers learn this node's addresses when they
	// dial it over a relay (PATH-13); otherwise everybody does, and the path to
	// anybody becomes direct.
	DiscloseKnown bool
	// Stranger tells who has no business with this node at this moment, where it
	// is closed: such keys are told no address (PATH-13), and a connection that
	// one opened and has no stream on is ended after some seconds; unless this
	// node is a relay, whose duties are for all. They may still knock with a
	// ticket. Nil knows no strangers.
	Stranger func(peer.ID) bool
	// ConnsPerSource says how many connections one IP address may have open at
	// this moment, a /64 of IPv6, or one key behind a relay (NODE-34). Nil is 100.
	ConnsPerSource func() int
	// External are addresses under which this node's direct paths are known to
	// be reachable from outside, such as a forwarded port; beside those that
	// are found. Port 443 is that of TCP.
	External []netip.AddrPort
	// Port is the UDP port of the direct paths; the default is chosen once and
	// kept in CacheDir.
	Port uint16
	// Proxy is an HTTP or SOCKS5 proxy to dial TCP through where the straight way
	// is blocked: http://[user:password@]host:port or socks5://…. None when empty;
	// the environment is not asked.
	Proxy string
	// CacheDir keeps what was learnt of the network over restarts; memory only
	// when empty.
	CacheDir string
	// NoPortMapping asks no router for a public port.
	NoPortMapping bool
	// NoMDNS turns local discovery off.
	NoMDNS bool
	// Logger is silent when nil.
	Logger *slog.Logger

	now func() time.Time // this machine's clock; nil = time.Now
}

// RelayConfig is what a relay grants.
type RelayConfig struct {
	// Rate is what one client that is not known may send, in bits per second:
	// 0 for the default of 10 Mbit/s, negative for no limit.
	Rate int64
	// Domain is the name under which others reach TCP port 443 of this machine;
	// it has a certificate then (PATH-31), of an ACME authority unless CertFile
	// says otherwise. Without one it is reached by IP address, with a certificate
	// it signs itself.
	Domain string
	// CertFile and KeyFile are PEM files of a certificate chain and its key, read
	// again when they change.
	CertFile, KeyFile string
	// ACMEDirectory is the URL of the authority, Let's Encrypt when empty. Naming a
	// Domain is to agree to its terms of service.
	ACMEDirectory string
	// ACMERoots is a PEM file of certificates that the authority's server is
	// checked against; the system's when empty.
	ACMERoots string
}

// DefaultNetwork is the name of the network nodes join when none is given.
const DefaultNetwork = "main"

// prepare fills the defaults in and refuses what cannot work.
func (c *Config) prepare() ([]ma.Multiaddr, error) {
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("config: Key is required")
	}
	if c.Network == "" {
		c.Network = DefaultNetwork
	}
	if err := discovery.CheckNetwork(c.Network); err != nil {
		return nil, fmt.Errorf("config: Network: %w", err)
	}
	if c.HideIP {
		if c.Relay != nil || c.PublishAddrs || c.NoRelays || c.Listen443 {
			return nil, errors.New("config: HideIP: a relay, and a node that is dialled straight, cannot hide its address")
		}
		c.Listen, c.NoMDNS, c.External = []string{}, true, nil
	}
	if c.Listen443 && c.Listen != nil && len(c.Listen) == 0 {
		return nil, errors.New("config: Listen443 is for direct paths, and with an empty Listen there are none: leave Listen out")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	var addrs []ma.Multiaddr
	for _, text := range c.Listen {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			return nil, fmt.Errorf("config: Listen: %q: %w", text, err)
		}
		addrs = append(addrs, a)
	}
	for _, t := range c.Join {
		if t.Network != c.Network {
			return nil, fmt.Errorf("config: Join: the ticket is for network %q, this node is in %q", t.Network, c.Network)
		}
	}
	return addrs, nil
}
