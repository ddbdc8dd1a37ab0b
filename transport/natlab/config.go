package natlab

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

const (
	defaultUDPTimeout = 30 * time.Second
	defaultUDPStream  = 120 * time.Second
)

// Config describes a lab. Names of hosts are 1 to 15 letters and digits, the
// first a letter; "inet" is taken.
type Config struct {
	// ID tells labs of one machine apart: 1 to 12 lower-case letters and
	// digits. Default: random. Namespaces are called natlab-ID-HOST.
	ID string
	// Public names the hosts that stand on the open internet.
	Public []string
	// Peers are the hosts behind NATs.
	Peers []Peer
	// Link is the cable between each site (a public host, or a NAT with all
	// behind it) and the internet. The zero value is a fast kernel cable
	// without delay, which [Lab.SetLink] cannot change.
	Link Link
	// Links are exceptions from Link by the name of a host. A host named here
	// has a cable that SetLink can change, even if its Link is zero.
	Links map[string]Link
	// Required makes [Start] fail the test where it would skip it, because the
	// machine cannot build labs.
	Required bool
}

// Peer is a host and the network it is in.
type Peer struct {
	// Name is the host's name.
	Name string
	// Kind is the NAT or firewall before the host. Default: PortRestricted.
	Kind Kind
	// Behind puts the host behind the NAT of another host that is named
	// earlier; all other fields but Name stay zero then.
	Behind string

	// Hairpin makes the NAT loop packets from its LAN to its own public
	// endpoints back. Only for kinds that are EIM with a table of their own.
	Hairpin bool
	// Isolated keeps the hosts of the LAN from reaching each other directly.
	Isolated bool
	// RandomPorts makes the public port differ from the local one.
	RandomPorts bool
	// IPv6 adds IPv6 behind a stateful firewall. Not for CGNAT.
	IPv6 bool
	// NAT64 lets a host of kind IPv6Firewalled reach IPv4 by its router, which
	// translates (see NAT64Prefix), and whose DNS says so (RFC 7050) to programs
	// of Host.Command that began while the host was in such a network.
	NAT64 bool
	// NoIPv4 and NoIPv6 leave a host of kind None, which has both, with one.
	NoIPv4, NoIPv6 bool
	// OpenInput leaves the router's own WAN side unprotected, as on a plain
	// Linux machine; see the package comment's limits.
	OpenInput bool
	// Carrier names an earlier CGNAT peer whose carrier this CGNAT peer
	// shares.
	Carrier string
	// PortMapping makes the home router give public ports on request. Not for
	// a host without a NAT.
	PortMapping PortMapping
	// UDPTimeout is when the NAT forgets an idle UDP mapping, in whole
	// seconds. Default 30 s, or 120 s (UDPStream) once it was answered.
	UDPTimeout time.Duration
	// UDPStream is UDPTimeout for mappings that were answered. Default:
	// UDPTimeout if that is set, else 120 s.
	UDPStream time.Duration
}

var (
	// ErrUnavailable is wrapped by errors that say what this machine lacks for
	// building labs.
	ErrUnavailable = errors.New("natlab needs Linux, root, nft and ip")
	// ErrClosed is returned for a lab that was closed.
	ErrClosed = errors.New("lab is closed")

	hostName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,14}$`)
	labID    = regexp.MustCompile(`^[a-z0-9]{1,12}$`)
)

// check finds what can be told wrong before anything is built.
func (c Config) check() error {
	if c.ID != "" && !labID.MatchString(c.ID) {
		return fmt.Errorf("lab ID %q: want 1 to 12 lower-case letters and digits", c.ID)
	}

	kinds := make(map[string]Kind)
	name := func(n string, k Kind) error {
		if !hostName.MatchString(n) || n == inetName {
			return fmt.Errorf("host name %q: want 1 to 15 letters and digits, not %q", n, inetName)
		}
		if _, taken := kinds[n]; taken {
			return fmt.Errorf("two hosts named %q", n)
		}
		kinds[n] = k

		return nil
	}

	for _, n := range c.Public {
		if err := name(n, None); err != nil {
			return err
		}
	}
	for _, p := range c.Peers {
		p = p.normal()
		if err := p.check(kinds); err != nil {
			return fmt.Errorf("peer %q: %w", p.Name, err)
		}
		kind := p.Kind
		if p.Behind != "" {
			kind = kinds[p.Behind]
		}
		if err := name(p.Name, kind); err != nil {
			return err
		}
	}
	for n, link := range c.Links {
		if _, ok := kinds[n]; !ok {
			return fmt.Errorf("link of host %q: %w", n, errNoHost)
		}
		if err := link.check(); err != nil {
			return fmt.Errorf("link of host %q: %w", n, err)
		}
	}

	return c.Link.check()
}

// link returns the cable settings of a host and whether they can change.
func (c Config) link(host string) (l Link, adjustable bool) {
	if l, ok := c.Links[host]; ok {
		return l, true
	}

	return c.Link, c.Link != Link{}
}

// normal fills in the default kind.
func (p Peer) normal() Peer {
	if p.Kind == "" && p.Behind == "" {
		p.Kind = PortRestricted
	}

	return p
}

// check judges p beside the kinds of the hosts that exist.
func (p Peer) check(kinds map[string]Kind) error {
	if p.Behind != "" {
		if p != (Peer{Name: p.Name, Behind: p.Behind}) {
			return fmt.Errorf("behind %q: the NAT is set by that peer, other fields must be zero", p.Behind)
		}
		kind, ok := kinds[p.Behind]
		if !ok {
			return fmt.Errorf("behind %q: %w", p.Behind, errNoHost)
		}
		if kind == None {
			return fmt.Errorf("behind %q: that host has no NAT to share", p.Behind)
		}

		return nil
	}

	if !p.Kind.known() {
		return fmt.Errorf("unknown kind %q", p.Kind)
	}
	if p.Kind == None && p != (Peer{Name: p.Name, Kind: None, NoIPv4: p.NoIPv4, NoIPv6: p.NoIPv6}) {
		return errors.New("kind none takes no options but NoIPv4 and NoIPv6")
	}
	if p.NoIPv4 && p.NoIPv6 {
		return errors.New("a host without any address")
	}
	if p.Kind != None && (p.NoIPv4 || p.NoIPv6) {
		return fmt.Errorf("kind %s says itself which families there are", p.Kind)
	}
	if p.Hairpin && p.policy().mapping != perSocket {
		return fmt.Errorf("kind %s cannot hairpin", p.Kind)
	}
	if p.Carrier != "" && (p.Kind != CGNAT || kinds[p.Carrier] != CGNAT) {
		return fmt.Errorf("carrier of %q: both peers must be of kind %s", p.Carrier, CGNAT)
	}
	if p.NAT64 && p.Kind != IPv6Firewalled {
		return fmt.Errorf("kind %s has IPv4 and needs no NAT64", p.Kind)
	}
	if p.IPv6 && p.Kind == CGNAT {
		return fmt.Errorf("kind %s has no IPv6", CGNAT)
	}
	switch p.PortMapping {
	case NoPortMapping:
	case PortMappingGrants, PortMappingUPnP, PortMappingDenies:
		if p.policy().mapping == untranslated {
			return fmt.Errorf("kind %s has no ports to give", p.Kind)
		}
	default:
		return fmt.Errorf("unknown port mapping %q", p.PortMapping)
	}
	for _, d := range []time.Duration{p.UDPTimeout, p.UDPStream} {
		if d < 0 || d%time.Second != 0 {
			return fmt.Errorf("UDP timeout %v: want whole seconds", d)
		}
	}

	return nil
}

// seconds returns d in seconds, or the default if d is zero.
func seconds(d, byDefault time.Duration) int {
	if d == 0 {
		d = byDefault
	}

	return int(d / time.Second)
}
