package transport

import (
	"fmt"
	"time"
)

// Every trouble that Why and Doctor name: the cause, and the cure that whoever
// runs the node can apply.

// reason is a cause and its cure, as sentences without a full stop.
type reason struct{ cause, cure string }

// What is in the way of a direct path.
var (
	reasonSelfHides = reason{
		"this node hides its address (--hide-ip): its packets go by relays on purpose",
		"none is needed; without --hide-ip paths become direct",
	}
	reasonSelfNotDisclosed = reason{
		"this node does not disclose its addresses to that peer (--disclose known, or it is a stranger here)",
		"add the peer: alknet-p2p peer add NAME KEY",
	}
	reasonPeerSilent = reason{
		"the peer names no address: it hides (--hide-ip), does not disclose its addresses to this node (--disclose known), or does not admit it (--admission closed)",
		"its owner may add this node's key (peer add), or leave --hide-ip out",
	}
	reasonSelfUDP = reason{
		"UDP does not get through from this side, and no other direct way was found",
		"let UDP out of this network, to any port, or let the peer listen on TCP port 443 (--listen-443 there); until then the relay carries everything",
	}
	reasonPeerUDP = reason{
		"UDP does not get through from the peer's side, and no other direct way was found",
		"let UDP out of the peer's network, to any port, or listen on TCP port 443 here (--listen-443); until then the relay carries everything",
	}
	reasonBothUDP = reason{
		"UDP gets through from neither side, and no other direct way was found",
		"let UDP out of one of the two networks, better of both, or let one that others reach listen on TCP port 443 (--listen-443 there); until then the relay carries everything",
	}
	reasonBothHard = reason{
		"both NATs give every destination another port (symmetric): a direct path is not possible",
		"forward a UDP port on one of the two routers (--port and --external there), turn on PCP, NAT-PMP or UPnP in it, or use IPv6 on both sides",
	}
	reasonSelfHard = reason{
		"this side's NAT gives every destination another port (symmetric), and the peer's lets in only who was sent to: no probe met another",
		"forward a UDP port on one of the two routers (--port and --external there), turn on PCP, NAT-PMP or UPnP in it, or use IPv6 on both sides",
	}
	reasonPeerHard = reason{
		"the peer's NAT gives every destination another port (symmetric), and this side's lets in only who was sent to: no probe met another",
		"forward a UDP port on one of the two routers (--port and --external there), turn on PCP, NAT-PMP or UPnP in it, or use IPv6 on both sides",
	}
	reasonNoFamily = reason{
		"there is no address of a common family: one side has IPv4 only, the other IPv6 only",
		"give one side the other family too; until then the relay joins them",
	}
	reasonNothingToProbe = reason{
		"the peer named no address that may be probed from here",
		"both nodes need an address that the other can reach: look at doctor on both sides",
	}
	reasonFiltered = reason{
		"the peer did not answer at any address though probes left: a network between filters them",
		"look at doctor on both sides, for a firewall that drops UDP; forward a UDP port on one router (--port and --external there)",
	}
	reasonNoUDPSocket = reason{
		"this node has no UDP socket for direct paths",
		"let it listen on UDP, or leave --listen out",
	}
	reasonTooSoon = reason{
		"no address has answered yet; probing goes on",
		"ask again in some seconds",
	}
	reasonDirectLost = reason{
		"the direct path stopped answering",
		"it is tried again while the connection is used; a path that comes and goes waits longer",
	}
)

// Why a peer is not reached at all.
var (
	reasonNobodyKnows = reason{
		"nobody here knows where the peer is: it has never been online, or in another network",
		"see that it runs (alknet-p2p up) and has joined the same network, or dial its ticket instead of its key",
	}
	reasonNoRelayLink = reason{
		"this node has no link to any relay",
		"run doctor; and see that the tickets given with --join are still right",
	}
	reasonUnjoined = reason{
		"this node was told of no relay, and nobody in its own network knows the peer",
		"join a relay: alknet-p2p up --join TICKET; or dial the peer's ticket instead of its key",
	}
	reasonPeerOtherKey = reason{
		"at the peer's addresses a node with another key answers: its ticket is old, or the addresses are somebody else's by now",
		"ask for a new ticket, or its key (alknet-p2p ticket, alknet-p2p key, there)",
	}
	reasonPeerRelays = reason{
		"the peer's relays cannot be reached from here",
		"see that they run; run doctor",
	}
	reasonPeerGone = reason{
		"the peer is not at its relays: it is not online",
		"see that it runs (alknet-p2p up) and is online (alknet-p2p status)",
	}
	reasonNoHandshake = reason{
		"packets go out, but the peer does not answer the handshake",
		"see that it runs, and admits this node",
	}
	reasonNoRelays = reason{
		"this node uses no relay (--no-relay), and the peer did not answer at any address known",
		"dial its ticket, which names its addresses; or leave --no-relay out",
	}
)

// What Doctor finds.
var (
	reasonNoJoin = reason{
		"this node was told of no relay, so only its own network can find it",
		"join one: alknet-p2p up --join TICKET",
	}
	reasonNotLinked = reason{
		"there is no link to this relay",
		"see below which ways to it work; a relay that nothing reaches is down",
	}
	reasonOffline = reason{
		"this machine is offline: it has no route to anywhere",
		"look at the cable or the Wi-Fi",
	}
	reasonNoAddress = reason{
		"no address of this relay is known here: its name is not resolved, or its ticket holds none",
		"see dns; or join by a ticket with addresses",
	}
	reasonNoWay = reason{
		"this machine and this relay have no address family in common: one has IPv4 only, the other IPv6 only",
		"join by a ticket of a relay that has both, or give this machine the other family",
	}
	reasonOtherKey = reason{
		"at this relay's addresses a node with another key answers: the ticket is old, or the addresses are somebody else's by now",
		"join by a new ticket of the relay (alknet-p2p ticket, there)",
	}
	reasonStranger = reason{
		"something else answers in the relay's place: a page to log in at (hotel, airport), a firewall that looks into connections, or a name server that lies",
		"open any web page in a browser and log in; else ask whoever runs this network, or use another one",
	}
	reasonRefused = reason{
		"connections to this relay are refused: it is down, or has moved, or this network refuses them on purpose",
		"start the relay, or join by a newer ticket of it; else ask whoever runs this network",
	}
	reasonBlackHole = reason{
		"small packets reach this relay, large ones vanish on the way: the line carries less at a time than it says (a tunnel, a VPN, a firewall that drops ICMP)",
		"lower the MTU of this machine's network interface, to 1280 if need be (Linux: ip link set dev NAME mtu 1280), or let ICMP through",
	}
	reasonLocalFirewall = reason{
		"a firewall on this machine itself refuses to send UDP",
		"let alknet-p2p send UDP in this machine's own firewall (nftables, ufw, firewalld); until then relays carry everything over TCP",
	}
	reasonCutOffProxy = reason{
		"nothing leaves this network straight, and the proxy leads to no relay",
		"mend the proxy first: see there",
	}
	reasonRelayDead = reason{
		"nothing of this relay answers, others do: it is down, or has moved",
		"start it, or join by a newer ticket of it",
	}
	reasonCutOff = reason{
		"no relay answers in any way: this machine has no way to the internet, or all of them are down",
		"look at the cable, the Wi-Fi and the relays",
	}
	reasonUDPBlocked = reason{
		"UDP does not get out of this network, or not back: a firewall drops it",
		"let UDP out, to any port, and its answers in; until then relays carry everything over TCP",
	}
	reasonRelayUDP = reason{
		"UDP to other relays works: this relay's UDP ports are shut",
		"let UDP in at the relay, on the port it listens on and the two after it",
	}
	reasonTCPBlocked = reason{
		"this network lets no TCP out to this port",
		"nothing is needed while another way to a relay works; else let it out",
	}
	reasonRelayTCP = reason{
		"TCP to other relays works: this relay's port is shut",
		"let TCP in at the relay, on the port it listens on",
	}
	reasonQUICBlocked = reason{
		"packets of QUIC do not get through",
		"nothing is needed while TCP to a relay works; else let UDP out to this port",
	}
	reasonLargeBlocked = reason{
		"small packets of UDP reach this relay, those of QUIC, 1280 bytes and more, do not: the line carries less at a time (a tunnel, a VPN), or UDP to this port is blocked",
		"nothing is needed while TCP to a relay works; else give the line an MTU of 1308 or more, or let UDP out to this port",
	}
	reasonNoIPv6 = reason{
		"this machine has an IPv6 address, but IPv6 does not get through",
		"mend IPv6 in this network or turn it off; IPv4 is used meanwhile",
	}
	reasonSymmetric = reason{
		"the NAT gives every destination another port (symmetric): peers behind such a NAT, or a strict one, may not be reached directly",
		"forward a UDP port to this machine (--port and --external), or turn on PCP, NAT-PMP or UPnP in the router; or use IPv6",
	}
	reasonRouterRefuses = reason{
		"the router gives no port, and without one its NAT is in the way of direct paths",
		"turn on PCP, NAT-PMP or UPnP in the router, or forward a UDP port (--port and --external)",
	}
	reasonDoubleNAT = reason{
		"the router is behind another NAT, so that the port it gave is of no use",
		"make one of the two a bridge, or ask the provider for a public address or IPv6",
	}
	reasonDNS = reason{
		"the name of a relay is not resolved",
		"look at this machine's DNS (/etc/resolv.conf), or join by a ticket with addresses",
	}
)

var (
	reasonProxyAuth = reason{
		"the proxy does not take the name and password given",
		"set proxy in config.toml with both: http://NAME:PASSWORD@HOST:PORT, or socks5://…",
	}
	reasonProxyDown = reason{
		"the proxy does not answer",
		"see that proxy names the right host and port, and that it runs; without a proxy leave it out",
	}
	reasonProxyRefuses = reason{
		"the proxy answers, but lets nothing through to a relay",
		"ask whoever runs it to let CONNECT reach the relay's TCP port 443",
	}
)

func reasonClock(off time.Duration, relays int) reason {
	way := "behind"
	if off < 0 {
		way, off = "ahead of", -off
	}
	return reason{
		fmt.Sprintf("this machine's clock is %s %s %s", longTime(off), way, relaysClocks(relays)),
		"set the clock (by NTP): tickets and tokens are judged by it, and address records where the relays do not correct it",
	}
}

func relaysClocks(relays int) string {
	if relays == 1 {
		return "its relay's"
	}
	return fmt.Sprintf("those of its %d relays", relays)
}

// longTime is a time that may be years, in words.
func longTime(d time.Duration) string {
	const day = 24 * time.Hour
	if d < 2*day {
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%d days", d.Round(day)/day)
}

func reasonShortLife(life time.Duration) reason {
	return reason{
		fmt.Sprintf("the NAT forgets an idle UDP mapping before %s, sooner than it is refreshed (every %s)", life, reflectEvery),
		"let the router keep UDP mappings longer, or forward a UDP port (--port and --external)",
	}
}
