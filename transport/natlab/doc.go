// Package natlab builds small internets with real NATs, for tests of
// peer-to-peer programs: Linux network namespaces joined by cables, home
// routers made of nftables and connection tracking, and events that change the
// network while programs run in it.
//
//	  relay   relay2 ...         public hosts, no NAT
//	    |       |
//	----+-------+-----------     inet: routes between public networks, no way out
//	    |               |
//	  a.nat           b.isp      carrier, 100.64.k.0/24 (CGNAT only)
//	    |               |
//	    |             b.nat      home router, 192.168.k.0/24
//	    |               |
//	    a               b        peers
//
// [Start] builds a lab in a test and takes it down with the test:
//
//	lab := natlab.Start(t, natlab.Config{
//		Public: []string{"relay"},
//		Peers: []natlab.Peer{
//			{Name: "a", Kind: natlab.PortRestricted},
//			{Name: "b", Kind: natlab.Symmetric},
//		},
//		Link: natlab.Link{Delay: 25 * time.Millisecond},
//	})
//	cmd := lab.Host("a").Command(ctx, "./program", "--join", lab.Host("relay").Addr().String())
//
// It runs on Linux as root, with the programs nft and ip (Debian packages
// nftables and iproute2). Elsewhere the package compiles and [New] returns
// [ErrUnavailable]; Start skips the test then, unless [Config] says Required.
//
// Nothing is connected to the real network: no interface is made outside the
// lab's namespaces, inet has no default route, and there is no DNS but with
// Peer.NAT64, for which files below /etc/netns are made and removed. Public
// addresses are made up (5.20.0.2, 31.21.0.2, … and 2a04:1000::/20), but none
// is private, documentation or benchmark space, so programs take them as
// public.
//
// # Kinds
//
// In the terms of RFC 4787: EIM and APDM are endpoint-independent and address-
// and port-dependent mapping; EIF, ADF and APDF are endpoint-independent,
// address-dependent, and address- and port-dependent filtering. All this is
// measured by the package's own tests.
//
//	kind               mapping  filtering  port kept  TCP out   what it is
//	None               none     EIF        yes        any       a public host
//	FullCone           EIM      EIF        yes        any       anyone reaches a mapped port
//	AddressRestricted  EIM      ADF        yes        any       addresses sent to may answer
//	PortRestricted     EIM      APDF       yes        any       the usual home router
//	Symmetric          APDM     APDF       no         any       a random port per connection, TCP too
//	CGNAT              EIM      APDF       no         any       port-restricted home, EIM/EIF carrier that hairpins
//	UDPBlocked         -        -          -          any       port-restricted, but UDP does not leave
//	Egress443Only      -        -          -          443       only TCP to port 443 leaves
//	IPv6Firewalled     none     APDF       yes        any       IPv6 only: no NAT, a stateful firewall
//	Masquerade         EIM*     APDF       yes        any       bare nftables masquerade
//
// Masquerade is EIM while alone. When another host behind it uses the same
// source port, the second keeps the port towards destinations the first does
// not use and gets another port elsewhere. The EIM kinds keep a table of
// their own and stay EIM. In all NAT kinds but Symmetric, TCP keeps its port
// and is filtered by connection, so TCP simultaneous open works. [Peer] has
// the options.
//
// # Events
//
//	NewIP           the NAT (or public host) gets a new public address, mappings gone
//	NewLAN          the peer gets a new LAN address behind the same NAT
//	Move            the peer changes to another network: new interface, new NAT
//	NATReset        the NAT reboots: all mappings gone
//	NATShuffle      the same, and from then on it gives other public ports
//	NATRemap        live UDP mappings get other public ports, TCP goes on
//	Connect         two hosts get a fast cable of their own, until Disconnect
//	Dark, Light     the uplink silently drops everything, until Light or for a time
//	Deaf, Mute      the same in one direction: to the host, or from it
//	Cut, Mend       the internet drops everything between two sites, CutOneWay in one direction
//	Unplug, Plug    the host's own interface goes down, until Plug or for a time
//	Kill            SIGKILL to all programs of a host; its kernel answers with RST and ICMP
//	SetLink         another delay, loss, rate or MTU on a cable
//
// # Limits
//
// Routers drop what comes unasked from outside and do not reject it. That
// matters: if the early packet of a punching pair is let in, connection
// tracking keeps its addresses and ports, and the later packet the other way
// gets another public port (see Peer.OpenInput).
//
// The EIM tables are for UDP only. Hairpinning is not filtered. There is no
// IPv6 NAT, and one router hop on the internet. UPnP, NAT-PMP and PCP
// (Peer.PortMapping) need one program more: miniupnpd, of the Debian package
// miniupnpd-nftables. So does NAT64 (Peer.NAT64): tayga, of the package of that
// name. It is the Masquerade of IPv4, and its DNS answers ipv4only.arpa only.
//
// All namespaces share one kernel, clock and processor: on a busy machine,
// judge outcomes and the scale of seconds, not milliseconds. Cables with a
// [Link] are carried by the process that built the lab, packet by packet, some
// 0.2 ms late; on two cores TCP reached 1.7 Gbit/s through two such cables of
// 1 ms, and 6.7 Gbit/s through kernel cables. When that process dies, the
// cables vanish at once, and the rest of the lab with the next [New].
package natlab
