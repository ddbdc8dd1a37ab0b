package node

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// Config of a Node. Key is required, every other field has a default. It is
// copied by New.
type Config struct {
	// Key is the node key: who this node is.
	Key ed25519.PrivateKey
	// NextKey is the public key this identity will have after the next
	// rotation; the address record commits to it. May be nil.
	NextKey ed25519.PublicKey
	// Generation counts the keys this identity had before.
	Generation uint32
	// HandOvers are the sealed hand-overs (see discovery.SealHandOver) by which
	// Key followed this identity's earlier keys. They are published, and shown
	// to peers in the registry.
	HandOvers [][]byte
	// Network separates nodes that shall not meet; "main" when empty.
	Network string
	// Join are tickets of nodes to enter the network by.
	Join []string
	// Listen are multiaddrs to listen on. When nil: QUIC, TCP and WebSocket on
	// every interface, on port 4242 for a relay, else on a port chosen once and
	// kept in CacheDir; a relay on TCP port 443 too, where it may, with WebSocket
	// below TLS. Nothing when empty but not nil.
	Listen []string
	// Listen443 listens on TCP port 443 as well, as a relay does: peers whose
	// networks let nothing else out have direct paths then. Not to get the port is
	// an error of Start.
	Listen443 bool
	// Relay makes this node a relay, bootstrap node and DHT server.
	Relay *RelayConfig
	// PublishAddrs puts this node's public addresses into its address record,
	// not only its relays.
	PublishAddrs bool
	// HideIP keeps this node's addresses from everybody but its relays: it is
	// reached and reaches others over relays only.
	HideIP bool
	// NoRelays uses no relay: peers are reached where they, or this node, can be
	// dialled straight.
	NoRelays bool
	// DiscloseKnown lets only peers in the registry learn this node's addresses
	// when they dial it over a relay; with others the path stays relayed.
	DiscloseKnown bool
	// External are UDP addresses under which this node is known to be reachable
	// from outside, such as a forwarded port; beside those that are found. Port 443
	// is that of TCP, see Listen443.
	External []netip.AddrPort
	// Port is the UDP port of direct paths; the default is chosen once and kept
	// in CacheDir.
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
	// NoMDNS turns discovery on the local network off.
	NoMDNS bool
	// Peers says who peers are and what they may do; nobody is known when nil.
	// Reload it at any time, then call Recheck.
	Peers *auth.Peers
	// Admission says who may have sessions with this node where Peers says
	// nothing about it; the zero value is everyone. Change it by SetAdmission.
	Admission auth.Admission
	// Tickets keeps the capability tickets this node issues. When another process
	// changes what it keeps, call Recheck. Nil is memory that ends with the node.
	Tickets ticket.Store
	// Successions is told what is proven about the keys of peers in the registry;
	// nil looks for nothing.
	Successions Successions
	// DrainTimeout is how long Close lets handlers finish; 2 s when zero.
	DrainTimeout time.Duration
	// CallTimeout is the deadline of a call that names none, 30 s when zero;
	// MaxCallTimeout is the longest a caller may ask for, 5 min when zero.
	CallTimeout, MaxCallTimeout time.Duration
	// Overlays gives the operations of agent sessions; nil is none.
	Overlays call.OverlaySource
	// Routing is how call.PeerAny chooses among peers; the zero value takes the
	// first that has the operation.
	Routing call.Routing
	// Interceptors surround the calls this node serves, CallInterceptors those it
	// makes; the first is the outermost.
	Interceptors, CallInterceptors []call.Interceptor
	// Logger is silent when nil.
	Logger *slog.Logger
}

// RelayConfig is what a relay grants to others.
type RelayConfig struct {
	// Rate is what one client that is not known may send, in bits per second:
	// 0 for the default of 10 Mbit/s, negative for no limit. Peers in the
	// registry are not limited.
	Rate int64
	// Domain is the name under which others reach TCP port 443 of this machine;
	// its certificate comes from an ACME authority unless CertFile says otherwise.
	// Without one the relay is reached by IP address, with a certificate that it
	// signs itself.
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

// transport translates the part that concerns the host.
func (c *Config) transport(a *access) (transport.Config, error) {
	t := transport.Config{
		Key: c.Key, Generation: c.Generation, HandOvers: c.HandOvers, Network: c.Network, Listen: c.Listen, Listen443: c.Listen443,
		PublishAddrs: c.PublishAddrs, HideIP: c.HideIP, NoRelays: c.NoRelays, DiscloseKnown: c.DiscloseKnown,
		Stranger: a.isStranger, ConnsPerSource: a.connsPerSource,
		External: c.External, Port: c.Port, Proxy: c.Proxy, Known: knownTo(c.Peers), CacheDir: c.CacheDir, NoMDNS: c.NoMDNS, NoPortMapping: c.NoPortMapping, Logger: c.Logger,
	}
	if c.NextKey != nil {
		t.Next = sha256.Sum256(append([]byte("alknet-next-v1"), c.NextKey...)) // PATH-37
	}
	for _, text := range c.Join {
		ticket, err := discovery.ParseTicket(text)
		if err != nil {
			return t, fmt.Errorf("config: Join: %w", err)
		}
		t.Join = append(t.Join, ticket)
	}
	if c.Relay != nil {
		t.Relay = new(transport.RelayConfig(*c.Relay))
	}
	return t, nil
}
