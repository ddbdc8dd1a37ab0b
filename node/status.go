package node

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/transport"
)

// Status is what a node knows of its place in the network, in the form in
// which the command prints it.
type Status struct {
	NodeKey      string          `json:"node_key"`
	PeerID       string          `json:"peer_id"`
	Network      string          `json:"network"`
	Online       bool            `json:"online"`
	Reachability string          `json:"reachability"` // public, private, lan, unknown
	NAT          NAT             `json:"nat"`
	HomeRelay    *string         `json:"home_relay"` // peer ID, null without one
	Relays       []RelayStatus   `json:"relays"`
	Sessions     []SessionStatus `json:"sessions"`
	// Serving is what this node, as a relay, did for others; nil for any other
	// node.
	Serving *transport.Serving `json:"serving,omitempty"`
}

// NAT is how the NAT before this node behaves (RFC 4787), "unknown" until it
// was measured.
type NAT struct {
	Mapping   string `json:"mapping"`
	Filtering string `json:"filtering"`
}

// RelayStatus is one link to a relay.
type RelayStatus struct {
	PeerID string   `json:"peer_id"`
	Addr   string   `json:"addr"`
	RTT    *float64 `json:"rtt_ms"` // null when not measured
	Home   bool     `json:"home"`
	Up     bool     `json:"up"`
	Error  string   `json:"error,omitempty"` // why it is down
	Proxy  string   `json:"proxy,omitempty"` // through which the link goes
}

// SessionStatus is one session.
type SessionStatus struct {
	Peer   string    `json:"peer"` // peer name, or a UUID for strangers
	PeerID string    `json:"peer_id"`
	ALPN   string    `json:"alpn"`
	Path   string    `json:"path"` // direct, relayed, none
	RTT    *float64  `json:"rtt_ms"`
	Addr   string    `json:"addr"` // remote address, or the relay's peer ID
	Since  time.Time `json:"since"`
}

// Status tells the state at this moment.
func (n *Node) Status() Status {
	st := Status{
		NodeKey: n.key, PeerID: n.ID().String(), Network: n.network,
		Reachability: string(transport.ReachabilityUnknown),
		NAT:          NAT{Mapping: "unknown", Filtering: "unknown"},
		Relays:       []RelayStatus{}, Sessions: []SessionStatus{},
	}
	router := n.router.Load()
	if router == nil {
		return st
	}
	host := n.host.Status()
	st.Online, st.Reachability, st.NAT = host.Online, string(host.Reachability), NAT{Mapping: host.NATMapping, Filtering: host.NATFiltering}
	st.Serving = host.Serving
	for _, r := range host.Relays {
		id := r.Peer.String()
		if st.HomeRelay == nil && r.Home && r.Up {
			st.HomeRelay = &id
		}
		rs := RelayStatus{PeerID: id, Addr: r.Addr, RTT: millis(r.RTT), Home: r.Home, Up: r.Up, Proxy: r.Proxy}
		if r.Err != nil && !r.Up {
			rs.Error = r.Err.Error()
		}
		st.Relays = append(st.Relays, rs)
	}
	for _, s := range router.Sessions() {
		p := n.host.Path(s.Peer)
		st.Sessions = append(st.Sessions, SessionStatus{
			Peer: string(s.PeerName), PeerID: s.Peer.String(), ALPN: s.ALPN,
			Path: string(p.Kind), RTT: millis(p.RTT), Addr: pathAddr(p), Since: s.Since.UTC(),
		})
	}
	return st
}

// Ticket is what others need to dial this node, as text: its key and where it
// can be found now. It is empty before Start.
func (n *Node) Ticket() string {
	t, err := n.host.Ticket()
	if err != nil {
		return ""
	}
	return t.String()
}

// Path tells how the packets of a connected peer travel at this moment.
func (n *Node) Path(p peer.ID) transport.Path { return n.host.Path(p) }

func pathAddr(p transport.Path) string {
	if p.Kind == transport.PathRelayed {
		return p.Relay.String()
	}
	return p.Addr
}

// millis is a duration in milliseconds, nil when it was not measured.
func millis(d time.Duration) *float64 {
	if d <= 0 {
		return nil
	}
	ms := float64(d.Microseconds()) / 1000
	return &ms
}
