package transport

import (
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// PathKind is what a peer's packets travel over.
type PathKind string

// The kinds of path.
const (
	PathNone    PathKind = "none"
	PathRelayed PathKind = "relayed"
	PathDirect  PathKind = "direct"
)

// Path is how a peer is reached at this moment (PATH-6).
type Path struct {
	Kind  PathKind
	Addr  string        // remote address of a direct path: host:port for UDP, a multiaddr else; "" otherwise
	Relay peer.ID       // forwarding relay of a relayed path, "" otherwise
	RTT   time.Duration // smoothed; 0 when not measured
	Since time.Time     // when this path was chosen
}

// PathEvent is a change of the paths to a peer (PATH-6).
type PathEvent struct {
	Peer   peer.ID
	What   string // opened, selected, suspect, closed
	Path   Path
	Reason string // for people
}

// Path tells how packets reach the peer now.
func (h *Host) Path(p peer.ID) Path {
	c := h.bestConn(p)
	if c == nil {
		return Path{Kind: PathNone}
	}
	return h.pathOf(c)
}

func (h *Host) pathOf(c network.Conn) Path {
	if !isMagic(c) {
		return Path{Kind: PathDirect, Addr: c.RemoteMultiaddr().String(), RTT: h.latency(c), Since: c.Stat().Opened}
	}
	k, err := magic.KeyOf(c.RemotePeer())
	if err != nil {
		return Path{Kind: PathNone}
	}
	id, rtt, since, ok := h.socket.Path(k)
	if !ok {
		return Path{Kind: PathNone}
	}
	return describe(id, rtt, since)
}

// latency is the round trip libp2p's QUIC measures; other transports do not
// tell.
func (h *Host) latency(c network.Conn) time.Duration {
	if qc := quicOf(c); qc != nil {
		return qc.ConnectionStats().SmoothedRTT
	}
	return 0
}

func describe(id path.ID, rtt time.Duration, since time.Time) Path {
	p := Path{Kind: PathRelayed, RTT: rtt, Since: since}
	if id.Kind() == path.Direct {
		p.Kind, p.Addr = PathDirect, id.Addr.String()
		if a, err := manet.FromNetAddr(net.TCPAddrFromAddrPort(id.Addr)); id.TCP && err == nil {
			p.Addr = a.String() // as of a stock connection
			if id.Web {
				p.Addr += webPath
			}
		}
		return p
	}
	p.Relay, _ = magic.PeerID(id.Relay) // a relay we have a link to has a valid key
	return p
}

// PathEvents reports changes of the paths to the peer until stop is called.
// A reader that is slow loses the oldest events, never the newest.
func (h *Host) PathEvents(p peer.ID) (events <-chan PathEvent, stop func()) {
	return h.events.subscribe(p)
}

// pathEvents hands events to those who asked for them.
type pathEvents struct {
	mu   sync.Mutex
	subs map[peer.ID]map[chan PathEvent]struct{}
}

const eventBuffer = 32

func (e *pathEvents) subscribe(p peer.ID) (<-chan PathEvent, func()) {
	ch := make(chan PathEvent, eventBuffer)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.subs == nil {
		e.subs = make(map[peer.ID]map[chan PathEvent]struct{})
	}
	if e.subs[p] == nil {
		e.subs[p] = make(map[chan PathEvent]struct{})
	}
	e.subs[p][ch] = struct{}{}
	var once sync.Once
	return ch, func() {
		once.Do(func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.subs[p], ch)
			if len(e.subs[p]) == 0 {
				delete(e.subs, p)
			}
			close(ch)
		})
	}
}

// emit never blocks: it is called from within the socket.
func (e *pathEvents) emit(ev PathEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ch := range e.subs[ev.Peer] {
		for sent := false; !sent; {
			select {
			case ch <- ev:
				sent = true
			default:
				select {
				case <-ch:
				default:
				}
			}
		}
	}
}

// pathChanged translates an event of the socket.
func (h *Host) pathChanged(k relay.Key, ev path.Event) {
	p, err := magic.PeerID(k)
	if err != nil {
		return
	}
	if ev.Kind == path.Suspected && ev.Path.Kind() == path.Direct {
		h.reflectors.kick() // this node may have another address now
	}
	d := describe(ev.Path, ev.RTT, time.Now())
	h.pathStep(p, ev, d)
	h.events.emit(PathEvent{Peer: p, What: ev.Kind.String(), Reason: ev.Reason, Path: d})
}
