package call

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// imported is what a session has imported from its peer.
type imported struct {
	session *Session
	ops     *Overlay
	used    map[string]uint64 // when each operation had its turn; guarded by Protocol.turn
}

// peerLayer is what is imported from one peer.
type peerLayer struct {
	name     auth.PeerName
	place    int         // in the order in which peers first attached
	sessions []*imported // the newest last, which is the one that counts
}

func (l *peerLayer) current() *imported { return l.sessions[len(l.sessions)-1] }

// peerTable is a snapshot of all peers from which something is imported. It is
// replaced, never changed (CALL-71).
type peerTable struct {
	order     []*peerLayer // by place; peers with a name of the registry
	byName    map[auth.PeerName]*peerLayer
	strangers map[auth.PeerName]*imported // by UUID, out of order (CALL-75)
	places    map[auth.PeerName]int       // of peers that are gone, too (CALL-76)
}

// RegisterImported replaces everything imported from this session's peer by
// ops, all of them or none, and attaches the peer: from the next request on
// handlers may invoke its operations (CALL-76). They must be of the provenance
// FromCall, and become internal. They are gone when the session ends; a session
// that is over fails with ErrSessionClosed.
func (s *Session) RegisterImported(ops ...Operation) error {
	overlay, err := newOverlay(ops, func(op *Operation) error {
		if op.Provenance != FromCall {
			return errors.New("not imported from a peer")
		}
		op.Spec.Visibility = Internal
		return nil
	})
	if err != nil {
		return err
	}
	p := s.p
	p.importing.Lock()
	defer p.importing.Unlock()
	s.mu.Lock()
	over := s.err
	s.mu.Unlock()
	if over != nil {
		return over
	}
	im := &imported{session: s, ops: overlay, used: map[string]uint64{}}
	t := p.peers.Load().clone()
	t.attach(im)
	s.imported.Store(im)
	p.peers.Store(t)
	return nil
}

// dropImports detaches the session's peer, unless another session has attached
// it too (CALL-76). The session is over, so that nothing is imported after it.
func (s *Session) dropImports() {
	p := s.p
	p.importing.Lock()
	defer p.importing.Unlock()
	if s.imported.Load() == nil {
		return
	}
	t := p.peers.Load().clone()
	t.detach(s)
	p.peers.Store(t)
}

// clone copies the table, but not what is imported.
func (t *peerTable) clone() *peerTable {
	c := &peerTable{
		order:     make([]*peerLayer, len(t.order)),
		byName:    make(map[auth.PeerName]*peerLayer, len(t.order)),
		strangers: maps.Clone(t.strangers),
		places:    maps.Clone(t.places),
	}
	for i, l := range t.order {
		l = &peerLayer{l.name, l.place, slices.Clone(l.sessions)}
		c.order[i], c.byName[l.name] = l, l
	}
	return c
}

func (t *peerTable) attach(im *imported) {
	name := im.session.peer.PeerName
	if im.session.peer.Identity == nil {
		t.strangers[name] = im
		return
	}
	l := t.byName[name]
	if l == nil {
		place, known := t.places[name]
		if !known {
			place = len(t.places)
			t.places[name] = place
		}
		l = &peerLayer{name: name, place: place}
		t.byName[name] = l
		at, _ := slices.BinarySearchFunc(t.order, place, func(l *peerLayer, place int) int { return l.place - place })
		t.order = slices.Insert(t.order, at, l)
	}
	for i, old := range l.sessions {
		if old.session == im.session {
			l.sessions[i] = im
			return
		}
	}
	l.sessions = append(l.sessions, im)
}

func (t *peerTable) detach(s *Session) {
	name := s.peer.PeerName
	if s.peer.Identity == nil {
		delete(t.strangers, name)
		return
	}
	l := t.byName[name]
	l.sessions = slices.DeleteFunc(l.sessions, func(im *imported) bool { return im.session == s })
	if len(l.sessions) == 0 {
		delete(t.byName, name)
		t.order = slices.DeleteFunc(t.order, func(o *peerLayer) bool { return o == l })
	}
}

// Routing is how PeerAny chooses among the peers that have an operation.
type Routing uint8

// The policies of routing.
const (
	// RouteFirst takes the peer that attached first.
	RouteFirst Routing = iota
	// RouteRoundRobin takes the peer whose turn is the longest ago.
	RouteRoundRobin
	// RouteLeastInFlight takes the peer with the fewest unfinished requests of
	// ours.
	RouteLeastInFlight
	// RouteLowestRTT takes the peer with the shortest round trip of those that
	// Config.RTT knows, else the first.
	RouteLowestRTT
)

// choose applies a policy to candidates, at least one, in attach order.
func (p *Protocol) choose(by Routing, name string, candidates []*imported) *imported {
	switch by {
	case RouteRoundRobin:
		p.turn.Lock()
		defer p.turn.Unlock()
		chosen := slices.MinFunc(candidates, func(a, b *imported) int {
			return cmp.Compare(a.used[name], b.used[name])
		})
		p.turns++
		chosen.used[name] = p.turns
		return chosen
	case RouteLeastInFlight:
		return slices.MinFunc(candidates, func(a, b *imported) int {
			return a.session.inFlight() - b.session.inFlight()
		})
	case RouteLowestRTT:
		return slices.MinFunc(candidates, func(a, b *imported) int { return cmp.Compare(p.rtt(a), p.rtt(b)) })
	}
	return candidates[0]
}

// rtt is the round trip to a peer; one that is not known is longer than all.
func (p *Protocol) rtt(im *imported) time.Duration {
	if p.cfg.RTT != nil {
		if d := p.cfg.RTT(im.session.peer); d > 0 {
			return d
		}
	}
	return math.MaxInt64
}

// inFlight is how many requests of ours the peer has not finished.
func (s *Session) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}
