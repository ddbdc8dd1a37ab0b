package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/magic/disco"
)

const (
	// whyWait is how long Why watches whether a relayed path becomes direct.
	whyWait = 3 * time.Second
	// whySoon is how long probing must have gone on before its failure is said.
	whySoon = 1500 * time.Millisecond
)

// Why is how the last dial of a peer went, and the reason why its packets take
// the way they take (PATH-34).
type Why struct {
	Peer peer.ID
	// Path that is used now; its kind is none when the peer was not reached.
	Path Path
	// Cause says in words why the path is not direct, Cure what to do; both are
	// "" when it is.
	Cause, Cure string
	// Steps in the order they happened, at most 257. They are kept since the last
	// dial began, or since the peer came by itself.
	Steps []Step
	// Err is why the peer was not reached; nil otherwise.
	Err error
}

// Step is one step of a dial. Its texts are for people.
type Step struct {
	At time.Duration // since the dial began
	// What: record, relay, handshake, address, call, probe, hard NAT, path.
	What    string
	Detail  string
	Verdict string
}

// Why tells how the peer is reached and why not better. It dials a peer that
// there is no connection to, and watches a relayed path for three seconds, since
// it may become direct. A peer that is not reached is no error but an answer;
// ctx that ends, and a host that does not run, are.
func (h *Host) Why(ctx context.Context, p peer.ID) (Why, error) {
	if p == h.id {
		return Why{}, errors.New("that is this node's own key")
	}
	ctx, done, err := h.work(ctx)
	if err != nil {
		return Why{}, err
	}
	defer done()
	dialled := h.Connect(ctx, p)
	if ctx.Err() != nil {
		return Why{}, fmt.Errorf("why %s: %w", p, context.Cause(ctx))
	}
	if dialled == nil {
		if err := h.awaitDirect(ctx, p); err != nil {
			return Why{}, fmt.Errorf("why %s: %w", p, err)
		}
	}
	w := Why{Peer: p, Path: h.Path(p), Err: dialled}
	f := h.factsOf(p)
	f.path, f.err = w.Path.Kind, dialled
	r := f.reason()
	w.Cause, w.Cure = r.cause, r.cure
	h.timelines.with(p, false, func(tl *timeline) { w.Steps = tl.show() })
	return w, nil
}

// awaitDirect returns once the path is direct, or has had its time.
func (h *Host) awaitDirect(ctx context.Context, p peer.ID) error {
	events, stop := h.PathEvents(p)
	defer stop()
	late := time.NewTimer(whyWait)
	defer late.Stop()
	for h.Path(p).Kind == PathRelayed {
		select {
		case <-events:
		case <-late.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// facts are what the reason of a path is found from.
type facts struct {
	path PathKind
	err  error

	// Of this node.
	hides, noSocket, noRelays bool
	linked                    bool // to some relay
	unjoined                  bool // no relay is known
	withheld                  bool // it does not tell this peer its addresses
	noUDP                     bool // UDP does not get through
	mapping                   [2]string
	addrs                     []netip.AddrPort

	// Of the dial.
	records   int
	otherKey  bool // at an address of the peer
	relays    map[peer.ID]relayVerdict
	heard     bool          // the peer named addresses
	since     time.Duration // when first; of the dial, when not heard
	named     []netip.AddrPort
	network   disco.Network // what the peer says of its way out
	sent      int           // probes
	refused   int
	wasDirect bool // and is no more
}

// factsOf gathers them.
func (h *Host) factsOf(p peer.ID) facts {
	f := facts{
		hides: h.cfg.HideIP, noSocket: len(h.udp) == 0, noRelays: h.cfg.NoRelays, linked: len(h.links.Live()) > 0,
		noUDP: h.reflectors.silent(), addrs: append(h.reflectors.addrs(), h.localAddrs()...),
	}
	f.mapping = [2]string{h.reflectors.mapping(), h.nat.get(true).Mapping}
	f.unjoined = len(h.links.pool.Homes()) == 0
	if k, err := magic.KeyOf(p); err == nil {
		f.withheld = !h.disclose(k)
	}
	h.timelines.with(p, false, func(tl *timeline) {
		f.records, f.refused = tl.records, tl.refused
		f.otherKey = slices.ContainsFunc(tl.steps, func(e event) bool { return e.what == stepAddress && e.verdict == verdictOtherKey })
		f.relays = maps.Clone(tl.relays)
		f.heard, f.named, f.network, f.since = !tl.heard.IsZero(), slices.Clone(tl.named), tl.network, time.Since(tl.began)
		if f.heard {
			f.since = time.Since(tl.heard)
		}
		for _, c := range tl.probed {
			f.sent += c.sent
		}
		f.wasDirect = tl.direct && tl.directEnd != ""
	})
	return f
}

// reason is why the path is what it is: the first that is sufficient.
func (f facts) reason() reason {
	switch f.path {
	case PathDirect:
		return reason{}
	case PathRelayed:
		return f.relayed()
	}
	return f.unreached()
}

func (f facts) relayed() reason {
	peerNoUDP := f.heard && f.peerNoUDP()
	own, theirs := families(f.addrs), families(f.named)
	six := own[1] && theirs[1]
	selfHard, peerHard := !six && hard(f.mapping[0]), !six && f.heard && f.peerHard()
	switch {
	case f.hides:
		return reasonSelfHides
	case f.withheld:
		return reasonSelfNotDisclosed
	case f.noSocket:
		return reasonNoUDPSocket
	case f.wasDirect:
		return reasonDirectLost
	case f.heard && len(f.named) > 0 || peerNoUDP:
	case f.since < whySoon:
		return reasonTooSoon
	default:
		return reasonPeerSilent
	}
	switch {
	case f.noUDP && peerNoUDP:
		return reasonBothUDP
	case f.noUDP:
		return reasonSelfUDP
	case peerNoUDP:
		return reasonPeerUDP
	case !six && !(own[0] && theirs[0]):
		return reasonNoFamily
	case selfHard && peerHard:
		return reasonBothHard
	case f.sent == 0 && f.refused > 0:
		return reasonNothingToProbe
	case f.since < whySoon:
		return reasonTooSoon
	case selfHard:
		return reasonSelfHard
	case peerHard:
		return reasonPeerHard
	}
	return reasonFiltered
}

func (f facts) unreached() reason {
	gone, down, up := 0, 0, 0
	for _, v := range f.relays {
		switch v {
		case relayGone:
			gone++
		case relayDown:
			down++
		case relayUp:
			up++
		}
	}
	switch {
	case f.noRelays:
		return reasonNoRelays
	case f.otherKey && up == 0:
		return reasonPeerOtherKey
	case f.unjoined && f.records == 0:
		return reasonUnjoined
	case !f.linked && up == 0 && gone == 0:
		return reasonNoRelayLink
	case f.records == 0:
		return reasonNobodyKnows
	case gone > 0 && up == 0:
		return reasonPeerGone
	case down > 0 && up == 0:
		return reasonPeerRelays
	}
	return reasonNoHandshake
}

func hard(mapping string) bool { return mapping == natAddress || mapping == natPort }

// families tells which ones there are addresses of, IPv4 and IPv6.
func families(addrs []netip.AddrPort) (out [2]bool) {
	for _, a := range addrs {
		out[family(a.Addr().Is6())] = true
	}
	return out
}

// peerNoUDP: UDP does not get through there. Of a peer that does not say, nobody
// outside has seen it by UDP, although there is who could.
func (f facts) peerNoUDP() bool {
	if f.network != (disco.Network{}) {
		return f.network.NoUDP
	}
	return (f.noUDP || slices.ContainsFunc(f.addrs, outside)) && !slices.ContainsFunc(f.named, outside)
}

func outside(a netip.AddrPort) bool { return a.Addr().IsGlobalUnicast() && !a.Addr().IsPrivate() }

// peerHard: its IPv4 mapping depends on the destination. Of a peer that does not
// say, reflectors see it at several ports of one address.
func (f facts) peerHard() bool {
	if f.network.IPv4 != disco.MappingUnknown {
		return f.network.IPv4 == disco.MappingDependent
	}
	ports := make(map[netip.Addr]int)
	for _, a := range f.named {
		if a.Addr().Is4() && outside(a) {
			ports[a.Addr()]++
		}
	}
	for _, n := range ports {
		if n > 1 {
			return true
		}
	}
	return false
}
