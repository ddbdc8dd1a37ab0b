package natlab

import (
	"errors"
	"fmt"
	"net/netip"
)

const (
	inetName = "inet"
	maxSites = 200
)

// uplink is a cable from a site to the internet: the near end is the eth0 of a
// public host or the wan of a router, the far end is in inet.
type uplink struct {
	inet, space namespace
	dev, far    string
	site        int
	addr, gw    netip.Addr // IPv4 of the near and the far end, in one /24
	addr6, gw6  netip.Addr // IPv6, in one /64
	ipv4, ipv6  bool       // which of them the near end has
	wire        *wire      // nil for a kernel cable, which has no settings
}

// newUplink lays the next site's cable, with the link of host, and sets up its
// far end.
func (l *Lab) newUplink(host string, space namespace, dev string, ipv4, ipv6 bool) (*uplink, error) {
	site := l.sites
	if site == maxSites {
		return nil, fmt.Errorf("lab is full: it had %d sites", site)
	}
	l.sites++
	// All are first octets of networks that programs take as public.
	octets := [...]byte{5, 31, 46, 62, 77, 84, 91, 109, 141, 151, 176, 188, 193, 195, 212, 217}
	four := [4]byte{octets[site%len(octets)], byte(20 + site), 0, 1}
	six := [16]byte{0: 0x2a, 1: 0x04, 2: 0x10, 3: byte(site), 15: 1}
	u := &uplink{
		inet: l.inet, space: space, dev: dev, far: fmt.Sprintf("site-%d", site), site: site,
		gw: netip.AddrFrom4(four), gw6: netip.AddrFrom16(six), ipv4: ipv4, ipv6: ipv6,
	}
	u.addr, u.addr6 = u.gw.Next(), u.gw6.Next()

	link, adjustable := l.config.link(host)
	if adjustable {
		w, err := newWire(space, dev, l.inet, u.far, link)
		if err != nil {
			return nil, err
		}
		u.wire = w
		l.wires = append(l.wires, w)
		if err := u.setMTU(link); err != nil {
			return nil, err
		}
	} else {
		err := ip(fmt.Sprintf("link add name %s netns %s type veth peer name %s netns %s", dev, space, u.far, l.inet))
		if err != nil {
			return nil, err
		}
	}

	err := l.inet.ip(append([]string{
		fmt.Sprintf("link set %s address %s txqueuelen 5000 up", u.far, u.mac(1)),
		fmt.Sprintf("address add %v/24 dev %s", u.gw, u.far),
		fmt.Sprintf("address add %v/64 dev %s nodad", u.gw6, u.far),
		fmt.Sprintf("route add %v via %v dev %s", u.lan6(), u.addr6, u.far),
	}, u.neighbors()...)...)
	if err != nil {
		return nil, err
	}

	return u, space.ip(append([]string{
		fmt.Sprintf("link set %s address %s txqueuelen 5000", dev, u.mac(2)),
	}, u.nearEnd()...)...)
}

// lan6 is the IPv6 network that is routed to the site.
func (u *uplink) lan6() netip.Prefix {
	b := u.gw6.As16()
	b[5], b[15] = 1, 0

	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

func (u *uplink) mac(end byte) string { return fmt.Sprintf("02:6e:6c:00:%02x:%02x", u.site, end) }

// nearEnd are the ip commands that bring the near end up, at first and after
// it was down.
func (u *uplink) nearEnd() []string {
	lines := []string{fmt.Sprintf("link set %s up", u.dev)}
	if u.ipv4 {
		lines = append(lines,
			fmt.Sprintf("address replace %v/24 dev %s", u.addr, u.dev),
			fmt.Sprintf("neighbor replace %v lladdr %s nud permanent dev %s", u.gw, u.mac(1), u.dev),
			fmt.Sprintf("route replace default via %v dev %s", u.gw, u.dev))
	}
	if u.ipv6 {
		lines = append(lines,
			fmt.Sprintf("address replace %v/64 dev %s nodad", u.addr6, u.dev),
			fmt.Sprintf("neighbor replace %v lladdr %s nud permanent dev %s", u.gw6, u.mac(1), u.dev),
			fmt.Sprintf("route replace ::/0 via %v dev %s", u.gw6, u.dev))
	}

	return lines
}

// neighbors are the ip commands that tell inet the near end's hardware
// address. Ends of cables never ask for each other's: on a slow cable the
// first packet would pay for the question.
func (u *uplink) neighbors() []string {
	return []string{
		fmt.Sprintf("neighbor replace %v lladdr %s nud permanent dev %s", u.addr, u.mac(2), u.far),
		fmt.Sprintf("neighbor replace %v lladdr %s nud permanent dev %s", u.addr6, u.mac(2), u.far),
	}
}

// reserve makes the next IPv4 address the near end's, and tells inet where it
// is. The near end itself has the old one until renumber.
func (u *uplink) reserve() (old netip.Addr, err error) {
	if !u.ipv4 {
		return netip.Addr{}, errNoIPv4
	}
	old = u.addr
	u.addr = old.Next()

	return old, u.inet.ip(u.neighbors()...)
}

// renumber gives the near end the address reserved in place of the old one.
func (u *uplink) renumber(old netip.Addr) error {
	return u.space.ip(append([]string{fmt.Sprintf("address del %v/24 dev %s", old, u.dev)}, u.nearEnd()...)...)
}

// remove takes the cable away.
func (u *uplink) remove() error {
	if u.wire != nil {
		return u.wire.close()
	}

	return u.space.ip("link del " + u.dev)
}

const darkTable = "add table inet natlab_dark\ndelete table inet natlab_dark\n"

// shade is the directions in which a cable swallows everything.
type shade int

const (
	inward shade = 1 << iota
	outward
)

// dark makes the cable swallow everything in the directions given, before
// anything else in the namespace sees it.
func (u *uplink) dark(s shade) error {
	var chains string
	if s&inward != 0 {
		chains += fmt.Sprintf("\tchain in { type filter hook prerouting priority -500; policy accept; iifname %q drop; }\n", u.dev)
	}
	if s&outward != 0 {
		chains += fmt.Sprintf("\tchain out { type filter hook postrouting priority 500; policy accept; oifname %q drop; }\n", u.dev)
	}

	return u.space.nft(darkTable + "table inet natlab_dark {\n" + chains + "}\n")
}

func (u *uplink) light() error { return u.space.nft(darkTable) }

// cut makes the internet swallow everything between two sites, in the
// directions given.
func (u *uplink) cut(other *uplink, s shade) error {
	var rules string
	if s&outward != 0 {
		rules += fmt.Sprintf("\t\tiifname %q oifname %q drop\n", u.far, other.far)
	}
	if s&inward != 0 {
		rules += fmt.Sprintf("\t\tiifname %q oifname %q drop\n", other.far, u.far)
	}

	return u.inet.nft(cutTable(u, other) + fmt.Sprintf(`table inet %s {
	chain between {
		type filter hook forward priority 0; policy accept;
%s	}
}
`, cutName(u, other), rules))
}

func (u *uplink) mend(other *uplink) error { return u.inet.nft(cutTable(u, other)) }

func cutName(a, b *uplink) string {
	return fmt.Sprintf("natlab_cut_%d_%d", min(a.site, b.site), max(a.site, b.site))
}

// cutTable makes sure that there is no table.
func cutTable(a, b *uplink) string {
	name := cutName(a, b)

	return fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", name)
}

// setLink changes a cable that was laid with settings.
func (u *uplink) setLink(link Link) error {
	if u.wire == nil {
		return errors.New("its cable has no settings: name the host in Config.Links")
	}

	if err := u.setMTU(link); err != nil {
		return err
	}

	return u.wire.set(link)
}

// setMTU tells both ends of the cable.
func (u *uplink) setMTU(link Link) error {
	mtu := link.deviceMTU()
	if err := u.space.ip(fmt.Sprintf("link set %s mtu %d", u.dev, mtu)); err != nil {
		return err
	}

	return u.inet.ip(fmt.Sprintf("link set %s mtu %d", u.far, mtu))
}
