package socket

import (
	"sync"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// What doubles take at most of what a relay lets a client send. The rest is for
// peers that have no other way.
const (
	doublesOfRate  = 4
	doublesOfBurst = 2
	minDoubles     = 64 << 10 // bytes at once, a train of packets
)

// doubles limits what goes over relays beside a path that works (PATH-18). It is
// safe for concurrent use.
type doubles struct {
	relays sync.Map // relay.Key → *rate.Limiter, of linked relays that limit us
}

// SetLimits tells how much the relay lets through, for all peers together: bytes
// per second, 0 for any number, and at once. Doubts about the direct path of a
// fast transfer leave a part of that to others. The end of the link ends it.
func (s *Socket) SetLimits(via relay.Key, perSecond, atOnce int64) {
	if perSecond <= 0 {
		s.doubles.relays.Delete(via)
		return
	}
	s.doubles.relays.Store(via, rate.NewLimiter(rate.Limit(perSecond)/doublesOfRate, max(int(atOnce/doublesOfBurst), minDoubles)))
}

// Limited tells whether a linked relay limits what it lets through, as SetLimits
// was told.
func (s *Socket) Limited(via relay.Key) bool {
	_, limited := s.doubles.relays.Load(via)
	return limited
}

// mayDouble tells whether size bytes that go over the best path may go over this
// one as well. While the best one does not work there is no limit.
func (p *peer) mayDouble(id path.ID, size int, now int64) bool {
	if id.Kind() != path.Relayed || !p.settled.Load() {
		return true
	}
	l, ok := p.s.doubles.relays.Load(relay.Key(id.Relay))
	return !ok || l.(*rate.Limiter).AllowN(p.s.time(now), size)
}
