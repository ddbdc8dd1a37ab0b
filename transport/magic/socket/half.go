package socket

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

// A packet that is larger than a path carries goes over it in two halves
// (SPEC.md, "Halves"), so that QUIC has packets of one size whatever the paths
// are made of (PATH-9).
const (
	halfByte    = 0x0e // of the kinds of disco/SPEC.md
	halfHeader  = 6    // that byte, which half, a number
	maxHalf     = MaxPacket / 2
	halvesHeld  = 8 // of one peer, waiting for the other half
	halfFor     = time.Second
	trainBuffer = 32 << 10 // more than QUIC's trains are
)

// half is one of the two halves of a packet.
type half struct {
	id     uint32
	second bool
	b      []byte
}

// appendHalf appends h as it is sent.
func appendHalf(dst []byte, h half) []byte {
	dst = append(dst, halfByte, 0)
	if h.second {
		dst[len(dst)-1] = 1
	}
	return append(binary.BigEndian.AppendUint32(dst, h.id), h.b...)
}

// parseHalf reads what appendHalf made. The half lies in b.
func parseHalf(b []byte) (half, bool) {
	if len(b) <= halfHeader || len(b) > halfHeader+maxHalf || b[0] != halfByte || b[1] > 1 {
		return half{}, false
	}
	h := half{id: binary.BigEndian.Uint32(b[2:]), second: b[1] == 1, b: b[halfHeader:]}
	// What is put together is a QUIC packet, nothing else.
	return h, h.second || h.b[0]&0xc0 != 0
}

// halves keeps halves until the other one comes. Who sends many loses its own.
type halves struct {
	mu   sync.Mutex
	next int
	held [halvesHeld]struct {
		id     uint32
		second bool
		n      int // 0: free
		ecn    byte
		at     int64
		data   [maxHalf]byte
	}
}

// join writes the whole packet to out if h is its second half to come, and
// keeps h if it is the first. lost says that another one was dropped for it, bad
// that the two are no packet.
func (hs *halves) join(h half, ecn byte, now int64, out *[MaxPacket]byte) (n int, mark byte, lost, bad bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for i := range hs.held {
		e := &hs.held[i]
		if e.n == 0 || e.id != h.id || e.second == h.second || time.Duration(now-e.at) > halfFor {
			continue
		}
		first, second := h.b, e.data[:e.n]
		if h.second {
			first, second = second, first
		}
		e.n = 0
		if d := len(first) - len(second); d != 0 && d != 1 {
			return 0, 0, false, true
		}
		n = copy(out[:], first)
		n += copy(out[n:], second)
		return n, joinECN(e.ecn, ecn), false, false
	}
	e := &hs.held[hs.next]
	hs.next = (hs.next + 1) % halvesHeld
	lost = e.n != 0
	e.id, e.second, e.ecn, e.at = h.id, h.second, ecn, now
	e.n = copy(e.data[:], h.b)
	return 0, 0, lost, false
}

// joinECN is the mark of a packet whose halves have marks a and b: congestion
// that either met is told (RFC 3168, section 5.3).
func joinECN(a, b byte) byte {
	switch {
	case a == b:
		return a
	case a == 0 || b == 0:
		return 0
	default:
		return max(a, b)
	}
}

// receiveHalf takes one half from an address; from no path it is dropped as
// data is (PATH-8).
func (s *Socket) receiveHalf(from netip.AddrPort, ecn byte, b []byte) {
	p := s.index.byPath.get(from)
	if p == nil {
		s.stats.unproven.Add(1)
		return
	}
	h, ok := parseHalf(b)
	if !ok {
		s.stats.badHalf.Add(1)
		return
	}
	hs := p.halves.Load()
	if hs == nil { // most peers never need them
		p.halves.CompareAndSwap(nil, new(halves))
		hs = p.halves.Load()
	}
	buf := s.buffers.Get().(*[MaxPacket]byte)
	n, mark, lost, bad := hs.join(h, ecn, s.now(), buf)
	if lost {
		s.stats.lostHalf.Add(1)
	}
	if bad {
		s.stats.badHalf.Add(1)
	}
	if n == 0 {
		s.buffers.Put(buf)
		return
	}
	s.deliverBuf(p, path.ID{Addr: from}, mark, buf, n, p.label.Load())
}

// sendHalves sends packets of size segment, of which only the last may be
// shorter, in halves each; a last one that fits goes whole.
func (p *peer) sendHalves(b []byte, to netip.AddrPort, segment int, ecn byte) {
	s := p.s
	buf := s.halfTrains.Get().(*[trainBuffer]byte)
	defer s.halfTrains.Put(buf)
	train, size := buf[:0], halfHeader+(segment+1)/2
	flush := func() {
		if len(train) > 0 {
			_ = p.sendDirect(train, to, size, ecn)
			train = buf[:0]
		}
	}
	for len(b) > 0 {
		k := min(segment, len(b))
		one := b[:k]
		b = b[k:]
		if k <= narrowPacket { // the last
			flush()
			_ = p.sendDirect(one, to, 0, ecn)
			return
		}
		s.stats.split.Add(1)
		if k != segment {
			flush()
			size = halfHeader + (k+1)/2
		}
		id := s.halfID.Add(1)
		cut := (k + 1) / 2
		train = appendHalf(train, half{id: id, b: one[:cut]})
		train = appendHalf(train, half{id: id, second: true, b: one[cut:]})
		// The datagrams of a train are of one size but for the last.
		if k%2 == 1 || len(train)+2*size > len(buf) {
			flush()
		}
	}
	flush()
}

// isWide tells whether a direct path carries packets of MaxPacket bytes.
func (p *peer) isWide(a netip.AddrPort) bool {
	list := p.wide.Load()
	return list != nil && slices.Contains(*list, a)
}

// setWide notes whether it does.
func (p *peer) setWide(a netip.AddrPort, wide bool) {
	for {
		old := p.wide.Load()
		var list []netip.AddrPort
		if old != nil {
			list = slices.Clone(*old)
		}
		list = slices.DeleteFunc(list, func(o netip.AddrPort) bool { return o == a })
		if wide {
			list = append(list, a)
		}
		if p.wide.CompareAndSwap(old, &list) {
			return
		}
	}
}

// sendStraight gives a packet, or several of size segment, to a direct path, in
// a form that it carries.
func (p *peer) sendStraight(a netip.AddrPort, b []byte, segment int, ecn byte) {
	if segment > narrowPacket && !p.isWide(a) {
		p.sendHalves(b, a, segment, ecn)
		return
	}
	whole := segment
	if segment == len(b) {
		whole = 0
	}
	err := p.sendDirect(b, a, whole, ecn)
	if segment <= narrowPacket {
		return
	}
	if udp.TooLarge(err) { // our own network became narrower
		p.setWide(a, false)
		p.s.stats.narrowed.Add(1)
		p.sendHalves(b, a, segment, ecn)
		return
	}
	p.wideSent.Add(int64((len(b) + segment - 1) / segment))
}

// width is what is known of a direct path's width. The caller holds p.mu.
func (p *peer) width(a netip.AddrPort) *path.Width {
	w := p.widths[a]
	if w == nil {
		w = new(path.Width)
		if p.widths == nil {
			p.widths = make(map[netip.AddrPort]*path.Width)
		}
		p.widths[a] = w
	}
	return w
}

// answered takes the answer to a ping as news of the path's width. The caller
// holds p.mu.
func (p *peer) answered(ping pending, now time.Time) {
	a := ping.id.Addr
	if ping.id.Kind() != path.Direct || ping.id.TCP || p.machine.State(ping.id) != path.Valid {
		return
	}
	w := p.width(a)
	switch {
	case ping.wide:
		w.Carried(ping.sent)
		if !p.isWide(a) {
			p.setWide(a, true)
			p.s.log.Debug("path carries wide packets", "peer", p.key, "addr", a)
		}
	case p.isWide(a) && w.Failed(ping.sent):
		p.setWide(a, false)
		p.s.stats.narrowed.Add(1)
		p.s.log.Debug("path carries narrow packets only", "peer", p.key, "addr", a)
		if route := p.route.Load(); route != nil && slices.Contains(*route, ping.id) {
			p.replayOver(ping.id, p.s.now()) // what did not pass
		}
	}
	if !p.isWide(a) && w.Due(now) {
		p.pingSized(ping.id, MaxPacket)
	}
}

// forgetWidths drops what is known of paths that do not work any more: what
// works again may be another way. The caller holds p.mu.
func (p *peer) forgetWidths() {
	for a := range p.widths {
		if p.machine.State(path.ID{Addr: a}) != path.Valid {
			delete(p.widths, a)
			p.setWide(a, false)
		}
	}
}

// How often the path is asked whether it still carries the wide packets that
// are being sent: other traffic, narrow packets among it, may well be answered
// all the time (PATH-18).
const (
	widthEvery  = 100 * time.Millisecond
	widthAmong  = 32 // packets, so that asking costs little
	widthRarely = time.Second
)

// checkWidth asks if it is time to. The caller holds p.mu.
func (p *peer) checkWidth(now time.Time) {
	sent := p.wideSent.Load()
	passed := now.Sub(p.widthAsked)
	if sent == 0 || passed < widthEvery || sent < widthAmong && passed < widthRarely {
		return
	}
	id, state, _, _, ok := p.machine.Best()
	if !ok || state != path.Valid || id.Kind() != path.Direct || id.TCP || !p.isWide(id.Addr) {
		return
	}
	p.wideSent.Store(0)
	p.widthAsked = now
	p.pingSized(id, MaxPacket)
	p.pingSized(id, narrowPacket)
}

// pingSized asks a direct path that works about its width, which is no business
// of the machine's. The caller holds p.mu.
func (p *peer) pingSized(id path.ID, size int) {
	p.sendPing(id, size, size > narrowPacket, true)
}
