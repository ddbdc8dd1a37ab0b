package natlab

import "slices"

// A Kind names what stands between a peer and the internet. The package
// comment says how each behaves.
type Kind string

// The kinds of networks a peer can be in.
const (
	None              Kind = "none"
	FullCone          Kind = "full-cone"
	AddressRestricted Kind = "address-restricted"
	PortRestricted    Kind = "port-restricted"
	Symmetric         Kind = "symmetric"
	CGNAT             Kind = "cgnat"
	UDPBlocked        Kind = "udp-blocked"
	Egress443Only     Kind = "egress-443-only"
	IPv6Firewalled    Kind = "ipv6-firewalled"
	Masquerade        Kind = "masquerade"
)

// Kinds returns all kinds, in the order of the package comment's table.
func Kinds() []Kind {
	return []Kind{
		None, FullCone, AddressRestricted, PortRestricted, Symmetric,
		CGNAT, UDPBlocked, Egress443Only, IPv6Firewalled, Masquerade,
	}
}

func (k Kind) known() bool { return slices.Contains(Kinds(), k) }

// mapping is how a router chooses the public port of a UDP socket.
type mapping int

const (
	untranslated  mapping = iota
	perSocket             // endpoint-independent: a table of our own
	perConnection         // address- and port-dependent: a random port each time
	byKernel              // whatever nftables masquerade does
)

// filtering is whose UDP packets a router lets in to a mapped port.
type filtering int

const (
	fromConnection filtering = iota // the very endpoints that were sent to
	fromAddress                     // any port of the addresses that were sent to
	fromAnyone
)

// egress is what a router lets out.
type egress string

const (
	everything egress = "accept"
	noUDP      egress = "meta l4proto != udp accept"
	only443    egress = "tcp dport 443 accept"
)

// policy is the behaviour of one router.
type policy struct {
	mapping   mapping
	filtering filtering
	egress    egress
	keepPort  bool // the public port is the local one unless it is taken
	hairpin   bool // LAN hosts reach each other by their public endpoints
	isolated  bool // LAN hosts do not reach each other directly
	openInput bool // the router's own WAN side is not protected
	mapper    PortMapping
	ipv4      bool
	ipv6      bool
	nat64     bool // IPv6 hosts reach IPv4 by it
	// Seconds after which an idle UDP mapping is forgotten: one that was never
	// answered, and one that was.
	udpTimeout, udpStream int
}

// policy returns the behaviour of the router that the peer p asks for.
func (p Peer) policy() policy {
	stream := defaultUDPStream
	if p.UDPTimeout > 0 {
		stream = p.UDPTimeout
	}
	out := policy{
		mapping:    perSocket,
		filtering:  fromConnection,
		egress:     everything,
		keepPort:   !p.RandomPorts,
		hairpin:    p.Hairpin,
		isolated:   p.Isolated,
		openInput:  p.OpenInput,
		mapper:     p.PortMapping,
		ipv4:       true,
		ipv6:       p.IPv6,
		nat64:      p.NAT64,
		udpTimeout: seconds(p.UDPTimeout, defaultUDPTimeout),
		udpStream:  seconds(p.UDPStream, stream),
	}

	switch p.Kind {
	case FullCone:
		out.filtering = fromAnyone
	case AddressRestricted:
		out.filtering = fromAddress
	case Symmetric:
		out.mapping, out.keepPort = perConnection, false
	case UDPBlocked:
		out.egress = noUDP
	case Egress443Only:
		out.egress = only443
	case IPv6Firewalled:
		out.mapping, out.ipv4, out.ipv6 = untranslated, false, true
	case Masquerade:
		out.mapping = byKernel
	default: // port-restricted, and the home router of cgnat
	}

	return out
}

// carrier returns the behaviour of the provider's NAT above the router home.
func (home policy) carrier() policy {
	return policy{
		mapping:    perSocket,
		filtering:  fromAnyone,
		egress:     everything,
		hairpin:    true,
		ipv4:       true,
		udpTimeout: home.udpTimeout,
		udpStream:  home.udpStream,
	}
}
