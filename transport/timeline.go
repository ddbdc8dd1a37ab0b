package transport

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/alkdev/alknet-p2p/transport/web"
)

// Limits of what is kept to answer Why.
const (
	maxTimelines = 1024 // peers, those of the latest steps
	maxSteps     = 256  // of one peer; the first half of them stays, of the others the latest
	maxProbed    = 64   // addresses of one peer
	maxAllSteps  = 1 << 15
	maxDetail    = 1024 // bytes of one step
)

// timelines keeps, for each peer that was dialled or that came by itself, what
// happened on the way to it since the last dial began. Writing never blocks for
// long: it is called from within the socket.
type timelines struct {
	mu    sync.Mutex
	peers map[peer.ID]*timeline
	steps int // of all
}

// timeline is one peer's. Its owner's lock guards it.
type timeline struct {
	began, last time.Time
	steps       []event
	left        int // steps that were dropped
	probed      map[netip.AddrPort]*probed

	// What the verdict is made from.
	records   int                      // found
	relays    map[peer.ID]relayVerdict // of the peer
	named     []netip.AddrPort         // by the peer, the last time
	network   disco.Network            // what the peer says of its way out
	heard     time.Time                // when it named addresses first
	withheld  bool
	refused   int
	direct    bool // a direct path worked
	directEnd string
}

type relayVerdict uint8

const (
	relayUp relayVerdict = iota + 1
	relayDown
	relayGone // it does not know the peer
)

// event is a step, whose detail and verdict may still change.
type event struct {
	at            time.Time
	what, detail  string
	verdict       string
	times         int     // it happened in a row
	probed        *probed // of a probe: what became of it
	probedAddress netip.AddrPort
}

// probed is a candidate address of the peer.
type probed struct {
	sent, held int
	knocked    bool // the peer's probe came from there
	answered   bool
	rtt        time.Duration
	closed     string // why it ended
}

// begin starts a peer's timeline anew: it is dialled.
func (t *timelines) begin(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(p)
	t.make(p)
}

// drop forgets a peer's timeline. The caller holds t.mu.
func (t *timelines) drop(p peer.ID) {
	if tl := t.peers[p]; tl != nil {
		t.steps -= len(tl.steps)
		delete(t.peers, p)
	}
}

// dropOldest forgets the timeline that is quiet longest. The caller holds t.mu.
func (t *timelines) dropOldest() {
	var oldest peer.ID
	for q, tl := range t.peers {
		if oldest == "" || tl.last.Before(t.peers[oldest].last) {
			oldest = q
		}
	}
	t.drop(oldest)
}

// make adds a timeline, in place of the one that is quiet longest when there are
// too many. The caller holds t.mu.
func (t *timelines) make(p peer.ID) *timeline {
	if t.peers == nil {
		t.peers = make(map[peer.ID]*timeline)
	}
	if len(t.peers) >= maxTimelines {
		t.dropOldest()
	}
	now := time.Now()
	tl := &timeline{began: now, last: now, probed: make(map[netip.AddrPort]*probed), relays: make(map[peer.ID]relayVerdict)}
	t.peers[p] = tl
	return tl
}

// with calls f with the peer's timeline; without one, when make.
func (t *timelines) with(p peer.ID, create bool, f func(*timeline)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tl := t.peers[p]
	if tl == nil {
		if !create {
			return
		}
		tl = t.make(p)
	}
	tl.last = time.Now()
	before := len(tl.steps)
	f(tl)
	for t.steps += len(tl.steps) - before; t.steps > maxAllSteps; {
		t.dropOldest()
	}
}

// note adds a step, to a peer that has a timeline.
func (t *timelines) note(p peer.ID, what, verdict, format string, args ...any) {
	t.with(p, false, func(tl *timeline) { tl.add(what, verdict, fmt.Sprintf(format, args...)) })
}

// add appends a step; one that repeats one of the last is counted there.
func (tl *timeline) add(what, verdict, detail string) *event {
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + "…"
	}
	for i := len(tl.steps) - 1; i >= max(0, len(tl.steps)-8); i-- {
		if s := &tl.steps[i]; s.what == what && s.detail == detail && s.verdict == verdict && s.probed == nil {
			s.times++
			return s
		}
	}
	if len(tl.steps) >= maxSteps {
		tl.steps = slices.Delete(tl.steps, maxSteps/2, maxSteps/2+1)
		tl.left++
	}
	tl.steps = append(tl.steps, event{at: time.Now(), what: what, detail: detail, verdict: verdict, times: 1})
	return &tl.steps[len(tl.steps)-1]
}

// candidate is what is known of an address of the peer; nil when there are too
// many.
func (tl *timeline) candidate(a netip.AddrPort) *probed {
	c := tl.probed[a]
	if c == nil && len(tl.probed) < maxProbed {
		c = &probed{}
		tl.probed[a] = c
		e := tl.add(stepProbe, "", a.String())
		e.probed, e.probedAddress = c, a
	}
	return c
}

// The words of a step.
const (
	stepRecord    = "record"    // where the peer is: a ticket, a look-up
	stepRelay     = "relay"     // a link to a relay of the peer
	stepHandshake = "handshake" // QUIC, over whichever path there is
	stepAddress   = "address"   // a stock connection to an address of the peer
	stepCall      = "call"      // addresses told to the peer, or by it
	stepProbe     = "probe"     // of one address
	stepPunch     = "hard NAT"  // one that gives every destination another port is tried
	stepPath      = "path"      // opened, selected, suspect, closed
)

// verdictOtherKey is of an address where somebody else answers.
const verdictOtherKey = "another key"

// traced takes what the socket did on the way to a peer.
func (h *Host) traced(k relay.Key, t socket.Trace) {
	p, err := magic.PeerID(k)
	if err != nil {
		return
	}
	via := func() peer.ID {
		r, _ := magic.PeerID(t.Relay)
		return r
	}
	// A stranger that only knocks at a relay gets no timeline.
	create := t.Kind == socket.TraceCalled || t.Kind == socket.TraceHeard
	h.timelines.with(p, create, func(tl *timeline) {
		switch t.Kind {
		case socket.TraceRelayUp:
			tl.relayIs(via(), relayUp)
			tl.add(stepRelay, "up", fmt.Sprintf("link to the peer's relay %s", via()))
		case socket.TraceRelayDown:
			tl.relayIs(via(), relayDown)
			tl.add(stepRelay, "failed", fmt.Sprintf("link to the peer's relay %s: %s", via(), t.Err))
		case socket.TraceGone:
			tl.relayIs(via(), relayGone)
			tl.add(stepRelay, "not there", fmt.Sprintf("relay %s does not know the peer", via()))
		case socket.TraceCalled:
			tl.add(stepCall, "sent", fmt.Sprintf("our addresses, over relay %s: %s", via(), joinAddrs(t.Addrs)))
		case socket.TraceHeard:
			if tl.heard.IsZero() {
				tl.heard = time.Now()
			}
			tl.named, tl.network = slices.Clone(t.Addrs), t.Peer
			tl.add(stepCall, "received", "the peer's addresses: "+joinAddrs(t.Addrs)+tellNetwork(t.Peer))
		case socket.TraceWithheld:
			if !tl.withheld {
				tl.withheld = true
				tl.add(stepCall, "withheld", "our addresses are not for this peer (--disclose known)")
			}
		case socket.TraceProbed:
			if c := tl.candidate(t.Addr); c != nil {
				c.sent++
			}
		case socket.TraceHeld:
			if c := tl.candidate(t.Addr); c != nil {
				c.held++
			}
		case socket.TraceKnocked:
			if c := tl.candidate(t.Addr); c != nil && !c.knocked {
				c.knocked = true
			}
		case socket.TracePunch:
			tl.add(stepPunch, "", t.Reason)
		case socket.TraceDialled:
			verdict, detail := "no answer", t.Addr.String()+" by TCP"
			if t.Addr.Port() == web.Port { // by both ways, perhaps: an error on a line of each
				detail = fmt.Sprintf("%s by TLS: %s", t.Addr, strings.ReplaceAll(t.Err.Error(), "\n", "; "))
			}
			if errors.Is(t.Err, socket.ErrNoPeer) {
				verdict = "no peer"
			}
			tl.add(stepProbe, verdict, detail)
		case socket.TraceRefused:
			tl.refused++
			tl.add(stepProbe, "refused", fmt.Sprintf("%s: %s", t.Addr, t.Reason))
		}
	})
}

func (tl *timeline) relayIs(p peer.ID, v relayVerdict) {
	if len(tl.relays) < maxProbed || tl.relays[p] != 0 {
		tl.relays[p] = v
	}
}

// pathStep notes a change of the peer's paths.
func (h *Host) pathStep(p peer.ID, ev path.Event, d Path) {
	h.timelines.with(p, false, func(tl *timeline) {
		way := "over relay " + d.Relay.String()
		if d.Kind == PathDirect {
			way = "direct to " + d.Addr
			c := tl.probed[ev.Path.Addr]
			if ev.Path.TCP {
				c = nil
			}
			switch {
			case ev.Kind == path.Opened:
				tl.direct, tl.directEnd = true, ""
				if ev.Path.TCP {
					break // the path's own step says so
				}
				if c = tl.candidate(ev.Path.Addr); c != nil {
					c.answered, c.rtt, c.closed = true, ev.RTT, ""
				}
			case ev.Kind == path.Closed && c != nil:
				c.closed = ev.Reason
			}
			if ev.Kind == path.Closed || ev.Kind == path.Suspected {
				tl.directEnd = ev.Reason
			}
		}
		tl.add(stepPath, ev.Kind.String(), way+": "+ev.Reason)
	})
}

func joinAddrs(addrs []netip.AddrPort) string {
	if len(addrs) == 0 {
		return "none"
	}
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, " ")
}

// tellNetwork is what a peer says of its way out; "" when it says nothing.
func tellNetwork(n disco.Network) string {
	var words []string
	if n.NoUDP {
		words = append(words, "UDP does not get through there")
	}
	for i, m := range [...]disco.Mapping{n.IPv4, n.IPv6} {
		if m != disco.MappingUnknown {
			words = append(words, [...]string{"IPv4", "IPv6"}[i]+" mapping "+[...]string{"", natNone, natEndpoint, "dependent on the destination"}[m])
		}
	}
	if len(words) == 0 {
		return ""
	}
	return "; " + strings.Join(words, ", ")
}

// show is the timeline as it is told.
func (tl *timeline) show() []Step {
	out := make([]Step, 0, len(tl.steps)+1)
	for _, e := range tl.steps {
		s := Step{At: e.at.Sub(tl.began), What: e.what, Detail: e.detail, Verdict: e.verdict}
		if e.probed != nil {
			s.Detail, s.Verdict = e.probed.tell(e.probedAddress)
		} else if e.times > 1 {
			s.Detail += fmt.Sprintf(" (%d times)", e.times)
		}
		out = append(out, s)
	}
	if tl.left > 0 {
		out = slices.Insert(out, min(maxSteps/2, len(out)), Step{
			At: out[min(maxSteps/2, len(out)-1)].At, What: "…", Detail: fmt.Sprintf("%d steps left out", tl.left),
		})
	}
	slices.SortStableFunc(out, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return out
}

// tell is what became of a candidate.
func (c *probed) tell(a netip.AddrPort) (detail, verdict string) {
	detail = fmt.Sprintf("%s: %d probes sent", a, c.sent)
	if c.held > 0 {
		detail += fmt.Sprintf(", %d held back", c.held)
	}
	if c.knocked {
		detail += ", the peer's came from there"
	}
	switch {
	case c.answered && c.closed != "":
		return detail, "answered, then " + c.closed
	case c.answered:
		return detail + fmt.Sprintf(", round trip %s", c.rtt.Round(100*time.Microsecond)), "answered"
	}
	return detail, "no answer"
}
