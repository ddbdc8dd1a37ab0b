package natlab

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
)

const (
	maxLANs      = 200
	firstLAN     = 10 // third octet
	firstLANHost = 10
	maxLANHost   = 250
)

// router is a NAT or firewall with a LAN: a home router, or a carrier whose
// LAN holds home routers.
type router struct {
	space    namespace
	policy   policy
	owner    string       // the host it was made for, whose link its cable has
	lan      netip.Prefix // its own address is the first
	lan6     netip.Prefix // zero without IPv6
	nextHost int          // last octet in lan
	wan      netip.Addr   // IPv4 on the outer side
	uplink   *uplink      // nil behind a carrier
	carrier  *router      // nil on the internet
}

// newRouter makes a router for the host owner, behind a carrier unless that is
// nil.
func (l *Lab) newRouter(owner, role string, p policy, carrier *router) (*router, error) {
	lan, err := l.nextLAN()
	if err != nil {
		return nil, err
	}
	r := &router{
		// Numbered, because a host that moves gets another router.
		space:    l.space(fmt.Sprintf("%s.%s%d", owner, role, lan)),
		policy:   p,
		owner:    owner,
		lan:      netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(firstLAN + lan), 0}), 24),
		nextHost: firstLANHost,
		carrier:  carrier,
	}
	if role == "isp" {
		r.lan = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(lan), 0}), 24)
	}

	if err := addNamespaces(r.space); err != nil {
		return nil, err
	}
	if err := r.space.sysctl("ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1"); err != nil {
		return nil, err
	}
	// Kernels with br_netfilter would translate inside the bridge; others do
	// not have the setting.
	err = r.space.sysctl("bridge/bridge-nf-call-iptables=0", "bridge/bridge-nf-call-ip6tables=0")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := r.space.ip(
		"link add name lan type bridge",
		fmt.Sprintf("address add %v/24 dev lan", r.gateway()),
		"link set lan up",
	); err != nil {
		return nil, err
	}
	if err := r.connect(l); err != nil {
		return nil, err
	}

	if err := r.load(); err != nil {
		return nil, err
	}
	if p.nat64 {
		if err := errors.Join(r.startNAT64(), l.startNameServer(r)); err != nil {
			return nil, err
		}
	}
	return r, r.startMapper()
}

// nextLAN numbers a new private network.
func (l *Lab) nextLAN() (int, error) {
	if l.lans == maxLANs {
		return 0, fmt.Errorf("lab is full: it had %d LANs", l.lans)
	}
	l.lans++

	return l.lans - 1, nil
}

// connect gives the router its outer side.
func (r *router) connect(l *Lab) error {
	if r.carrier != nil {
		port, addr, err := r.carrier.nextPort()
		if err != nil {
			return err
		}
		r.wan = addr
		if err := r.carrier.plug(port, r.space, "wan"); err != nil {
			return err
		}

		return r.space.ip(
			"link set wan up",
			fmt.Sprintf("address add %v/24 dev wan", addr),
			fmt.Sprintf("route add default via %v", r.carrier.gateway()),
		)
	}

	u, err := l.newUplink(r.owner, r.space, "wan", true, true)
	if err != nil {
		return err
	}
	r.uplink, r.wan = u, u.addr
	if !r.policy.ipv6 {
		return nil
	}
	r.lan6 = u.lan6()

	return r.space.ip(fmt.Sprintf("address add %v/64 dev lan nodad", r.gateway6()))
}

func (r *router) gateway() netip.Addr  { return r.lan.Addr().Next() }
func (r *router) gateway6() netip.Addr { return r.lan6.Addr().Next() }

// edge is the cable by which what is behind r meets the internet.
func (r *router) edge() *uplink { return r.outermost().uplink }

func (r *router) outermost() *router {
	for r.carrier != nil {
		r = r.carrier
	}

	return r
}

// nextPort returns a free port of the LAN and the address that belongs to it.
func (r *router) nextPort() (port string, addr netip.Addr, err error) {
	if r.nextHost > maxLANHost {
		return "", netip.Addr{}, fmt.Errorf("LAN %v is full", r.lan)
	}
	b := r.lan.Addr().As4()
	b[3] = byte(r.nextHost)
	port = fmt.Sprintf("p-%d", r.nextHost)
	r.nextHost++

	return port, netip.AddrFrom4(b), nil
}

// plug joins a new interface in another namespace to a port of the LAN.
func (r *router) plug(port string, space namespace, dev string) error {
	if err := ip(fmt.Sprintf("link add name %s netns %s type veth peer name %s netns %s", dev, space, port, r.space)); err != nil {
		return err
	}
	lines := []string{fmt.Sprintf("link set %s master lan up", port)}
	if r.policy.isolated {
		lines = append(lines, fmt.Sprintf("link set %s type bridge_slave isolated on", port))
	}

	return r.space.ip(lines...)
}

// load sets the router's rules, and with them empties its tables.
func (r *router) load() error {
	if err := r.space.nft(r.rules()); err != nil {
		return err
	}

	return r.space.sysctl(
		fmt.Sprintf("netfilter/nf_conntrack_udp_timeout=%d", r.policy.udpTimeout),
		fmt.Sprintf("netfilter/nf_conntrack_udp_timeout_stream=%d", r.policy.udpStream),
	)
}

// reset makes the router forget all mappings and connections.
func (r *router) reset() error {
	return r.renew(func() error { return errors.Join(r.startMapper(), r.space.forget()) })
}

// move is reset with another address of the outer side, r.wan, which renumber
// gives it. Nothing need be held: the rules learn of that address only, so that
// what is known of the old one stays out of the new tables, and is forgotten last.
func (r *router) move(renumber func() error) error {
	if err := r.load(); err != nil {
		return err
	}
	if err := renumber(); err != nil {
		return err
	}

	return errors.Join(r.startMapper(), r.space.forget())
}

// renew sets the rules anew, with empty tables, and lets forget drop what
// connection tracking knows. Nothing is forwarded meanwhile: a connection that
// is still known would bring its old port back into the tables.
func (r *router) renew(forget func() error) error {
	const held = "add table inet natlab_held\ndelete table inet natlab_held\n"
	err := r.space.nft(held + "table inet natlab_held {\n\tchain forward { type filter hook forward priority -500; policy drop; }\n}\n")
	if err != nil {
		return err
	}

	return errors.Join(r.load(), forget(), r.space.nft(held))
}

// rules writes the router's nftables rules.
//
// A NAT with a table of its own keeps one row for each UDP socket behind it,
// made by the socket's first packet out: `public` leads from the socket to its
// public endpoint and fixes the source of every new connection, `private`
// leads from the public port back, and `friends` holds which addresses the
// socket has sent to. Rows live as long as packets go out.
//
// What comes unasked and is let to nobody reaches `input` and is dropped there
// before connection tracking confirms it. Were it let in or answered, its entry
// would hold the public port, and a later packet out to the same remote would
// get another one.
func (r *router) rules() string {
	p := r.policy
	var before, after, learn, forward []string

	if p.mapping == perSocket {
		fromWAN := fmt.Sprintf("ip daddr %v meta l4proto udp dnat ip to udp dport map @private", r.wan)
		if p.filtering != fromConnection {
			before = append(before, `iifname "wan" `+fromWAN)
		}
		if p.hairpin {
			before = append(before, `iifname "lan" `+fromWAN)
			looped := fmt.Sprintf(`oifname "lan" ip saddr %v ct status dnat meta l4proto udp snat ip to `, r.lan)
			after = append(after, looped+"ip saddr . udp sport map @public", looped+r.wan.String())
		}

		random := "masquerade to :20000-59999 random,fully-random"
		if p.keepPort {
			random = "udp sport @taken " + random
		}
		after = append(after,
			`oifname "wan" meta l4proto udp snat ip to ip saddr . udp sport map @public`,
			`oifname "wan" meta l4proto udp `+random)

		// A connection that came in by `private` sends its packets out as
		// replies.
		for _, direction := range []string{"original", "reply"} {
			socket := fmt.Sprintf("ct %[1]s ip saddr . ct %[1]s proto-src", direction)
			out := fmt.Sprintf(`oifname "wan" meta l4proto udp ct direction %s ip saddr %v update `, direction, r.wan)
			learn = append(learn,
				out+fmt.Sprintf("@public { %s : ip saddr . udp sport }", socket),
				out+fmt.Sprintf("@private { udp sport : %s }", socket),
				out+"@taken { udp sport }",
				out+fmt.Sprintf("@friends { %s . ip daddr }", socket))
		}
	}
	if p.mapping == perConnection {
		after = append(after, `oifname "wan" meta l4proto { tcp, udp } masquerade to :1024-65535 random,fully-random`)
	}
	if p.mapping != untranslated {
		after = append(after, `oifname "wan" masquerade`)
	}

	if p.nat64 {
		after = append(after, `oifname "wan" ip saddr `+nat64Pool+` masquerade`)
		forward = append(forward,
			`iifname "lan" oifname "nat64" meta nfproto ipv6 accept`,
			`iifname "nat64" oifname "wan" meta nfproto ipv4 accept`)
	}
	if p.ipv4 {
		forward = append(forward, `iifname "lan" oifname "wan" meta nfproto ipv4 `+string(p.egress))
	}
	if p.ipv6 {
		forward = append(forward, `iifname "lan" oifname "wan" meta nfproto ipv6 accept`)
	}
	if p.hairpin {
		forward = append(forward, `iifname "lan" oifname "lan" ct status dnat accept`)
	}
	switch {
	case p.mapping != perSocket, p.filtering == fromConnection:
	case p.filtering == fromAddress:
		forward = append(forward, `iifname "wan" meta l4proto udp ct status dnat ip daddr . udp dport . ip saddr @friends accept`)
	case p.filtering == fromAnyone:
		forward = append(forward, `iifname "wan" meta l4proto udp ct status dnat accept`)
	}
	if p.mapper != NoPortMapping {
		forward = append(forward, `iifname "wan" ct status dnat accept`)
	}
	input := "drop"
	if p.openInput {
		input = "accept"
	}

	return fmt.Sprintf(`add table inet natlab
delete table inet natlab
table inet natlab {
	map public { type ipv4_addr . inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout %[1]ds; size 60000; }
	map private { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout %[1]ds; size 60000; }
	set taken { type inet_service; flags dynamic,timeout; timeout %[1]ds; size 60000; }
	set friends { type ipv4_addr . inet_service . ipv4_addr; flags dynamic,timeout; timeout %[1]ds; size 60000; }
	chain before {
		type nat hook prerouting priority dstnat; policy accept;
		meta nfproto ipv6 accept%[2]s
	}
	chain after {
		type nat hook postrouting priority srcnat; policy accept;
		meta nfproto ipv6 accept%[3]s
	}
	chain learn {
		type filter hook postrouting priority srcnat + 50; policy accept;
		meta nfproto ipv6 accept%[4]s
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid drop
		ct state established,related accept%[5]s
	}
	chain input {
		type filter hook input priority filter; policy %[6]s;
		iifname { "lo", "lan" } accept
		ct state established,related accept
		icmp type echo-request accept
		meta l4proto ipv6-icmp accept
	}
}
`, p.udpStream, statements(before), statements(after), statements(learn), statements(forward), input)
}

// statements sets rules one a line, below a line that stands already.
func statements(rules []string) string {
	var b strings.Builder
	for _, r := range rules {
		b.WriteString("\n\t\t" + r)
	}

	return b.String()
}
