package socket

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
)

// Limits of TCP paths (PATH-14, PATH-20).
const (
	minTCPPort          = 1024 // nobody makes us knock at well-known services
	webPort             = 443  // but at this, which takes no more than a web server gets from anybody
	maxTCPUnproven      = 64   // accepted connections on which no box of a peer in use came; as many at webPort
	maxTCPUnprovenPerIP = 8    // of one source
	proveTCPWithin      = 5 * time.Second
	maxTCPPerPeer       = 4
	maxTCPDials         = 64 // under way, in all
	tcpDialsPerSecond   = 50
	tcpTries            = 8                     // of one address of a peer, one after another
	tcpKnocks           = 10                    // SYNs in them, the kernel's repetitions among those
	webTries            = 3                     // of one address at webPort, as long as it refuses
	webAgain            = time.Second           // between them
	webKnocks           = 4                     // SYNs in them
	webNoPeer           = time.Minute           // until one is dialled again where something else answered
	maxWebAccepted      = 128                   // open at a time: libp2p counts them as handshakes
	tcpTry              = 50 * time.Millisecond // the shortest of them
	tcpTryFor           = 5 * time.Second       // all of them
	tcpPatience         = time.Second           // without a direct path, before TCP is tried unasked
	tcpAgain            = 5 * time.Second       // until the next tries at one peer
	tcpAgainLater       = time.Minute           // when some have been in vain
	tcpVain             = 3
)

// tcpPaths are the TCP connections of a Socket. Nothing listens, and nobody is
// dialled, unless a peer and this node need it (PATH-20).
type tcpPaths struct {
	s      *Socket
	own    atomic.Pointer[[]netip.AddrPort] // where peers may try us
	noUDP  atomic.Bool                      // UDP does not get through from here
	budget *rate.Limiter
	dials  chan struct{} // has a token for each one under way

	mu        sync.Mutex
	conns     map[*tcpConn]struct{}
	unproven  tcpPlaces                    // of those accepted on the ports of UDP
	stranger  tcpPlaces                    // of those accepted on port 443
	web       int                          // accepted on port 443
	asking    map[netip.AddrPort]bool      // where it is just being dialled
	noPeer    map[netip.AddrPort]time.Time // where something else answers there, and until when that counts
	users     int                          // who need the listeners
	listeners []*tcp.Listener

	stats struct{ dials, held, refused, unproven, malformed atomic.Uint64 }
}

// tcpPlaces are connections that have proven no peer. Anybody can open those to
// port 443 at any time: they have places of their own.
type tcpPlaces struct {
	placed int
	by     map[netip.Addr]int // their sources
}

// tcpConn is one connection, and the path over it once its peer is known.
type tcpConn struct {
	conn     *tcp.Conn
	id       path.ID
	ended    chan struct{}
	accepted bool
	placed   bool // counts as unproven; under tcpPaths.mu
	counted  bool // in tcpPaths.web; under its mu

	peer   atomic.Pointer[peer] // who proved to be there, or whom we dialled
	proven atomic.Bool          // a box of the peer came
	boot   disco.BootID         // of its latest ping; under peer.mu
	valid  atomic.Bool          // our ping was answered: QUIC packets are taken (PATH-8)
	heard  atomic.Int64         // when something of the peer last came
}

// tcpWays is what a peer has of TCP. The peer's mu guards what is not atomic.
type tcpWays struct {
	conns   atomic.Pointer[[]*tcpConn]
	theirs  []netip.AddrPort // where it takes TCP, those we may dial
	noUDP   bool             // it says that UDP does not get through
	boot    disco.BootID     // of its node, when it said so
	lacking time.Time        // since when there is no direct path
	trying  chan struct{}    // tells tries under way that theirs changed; nil without
	tried   time.Time
	vain    int
}

func newTCPPaths(s *Socket) *tcpPaths {
	return &tcpPaths{
		s: s, budget: rate.NewLimiter(tcpDialsPerSecond, tcpDialsPerSecond), dials: make(chan struct{}, maxTCPDials),
		conns: make(map[*tcpConn]struct{}), asking: make(map[netip.AddrPort]bool), noPeer: make(map[netip.AddrPort]time.Time),
		unproven: tcpPlaces{by: make(map[netip.Addr]int)}, stranger: tcpPlaces{by: make(map[netip.Addr]int)},
	}
}

// enabled tells that this node makes paths over TCP.
func (t *tcpPaths) enabled() bool { return t.s.cfg.TCP && len(t.s.cfg.UDP) > 0 }

// SetTCP tells where this node takes TCP, best first: the port numbers of its
// UDP sockets, where they are seen from outside and on its own networks, and
// port 443 where what it takes there comes to [Socket.TakeWeb]. needed
// tells that UDP does not get through. Peers in use hear of a change at once,
// and without UDP both sides try TCP (PATH-20). It does nothing unless
// Config.TCP is set and there are UDP sockets.
func (s *Socket) SetTCP(addrs []netip.AddrPort, needed bool) {
	t := s.tcp
	if !t.enabled() {
		return
	}
	addrs = slices.Clone(addrs[:min(len(addrs), disco.MaxTCP)])
	old := t.own.Swap(&addrs)
	if was := t.noUDP.Swap(needed); was == needed && old != nil && slices.Equal(*old, addrs) {
		return
	}
	s.callAll()
}

// tell adds to a CallMeMaybe what this node has of TCP.
func (t *tcpPaths) tell(m *disco.CallMeMaybe) {
	if own := t.own.Load(); own != nil {
		m.TCP = *own
	}
	m.Network.NoUDP = t.noUDP.Load()
}

// ownAddrs are all addresses at which peers may try this node.
func (s *Socket) ownAddrs() []netip.AddrPort {
	var all []netip.AddrPort
	if own := s.addrs.Load(); own != nil {
		all = append(all, *own...)
	}
	if own := s.tcp.own.Load(); own != nil {
		all = append(all, *own...)
	}
	return all
}

// askedTCP is what a CallMeMaybe of the peer says of TCP. The caller holds p.mu.
func (p *peer) askedTCP(m disco.CallMeMaybe) {
	if !p.s.tcp.enabled() {
		return
	}
	var addrs []netip.AddrPort
	all, perIP := slices.Concat(m.Addrs, m.TCP), make(map[netip.Addr]int)
	for _, a := range m.TCP[:min(len(m.TCP), disco.MaxTCP)] {
		knocks, may := tcpKnocks, a.Port() >= minTCPPort
		if a.Port() == webPort {
			knocks, may = webKnocks, p.s.cfg.DialWeb != nil && p.mayAskWeb(a)
		}
		perIP[a.Addr()] += knocks
		if perIP[a.Addr()] > maxProbesPerIP || !may || !p.mayProbe(a, all) || !p.probeable(a) {
			p.s.stats.refusedAddrs.Add(1)
			continue
		}
		addrs = append(addrs, a)
	}
	w := &p.tcp
	known := !slices.ContainsFunc(addrs, func(a netip.AddrPort) bool { return !slices.Contains(w.theirs, a) })
	same := known && w.noUDP == m.Network.NoUDP && w.boot == m.BootID
	w.noUDP, w.theirs, w.boot = m.Network.NoUDP, addrs, m.BootID
	if same {
		return
	}
	w.tried, w.vain = time.Time{}, 0
	for _, c := range p.tcpConns() { // perhaps it knows only now whose they are
		if p.machine.State(c.id) == path.Probing {
			p.machine.Found(p.s.time(p.s.now()), c.id, true)
		}
	}
	select {
	case w.trying <- struct{}{}:
	default: // it knows, or there are none
	}
}

// considerTCP tries the peer's addresses by TCP if that is needed and may
// help. The caller holds p.mu.
func (p *peer) considerTCP(now time.Time) {
	w, t := &p.tcp, p.s.tcp
	if p.direct.Load() {
		w.lacking, w.vain = time.Time{}, 0
		return
	}
	if w.lacking.IsZero() {
		w.lacking = now
	}
	if len(w.theirs) == 0 || w.trying != nil || !p.admitted.Load() || !p.pinned() || !p.active(p.s.now()) {
		return
	}
	again := tcpAgain
	if w.vain >= tcpVain {
		again = tcpAgainLater
	}
	if now.Sub(w.tried) < again || !t.noUDP.Load() && !w.noUDP && now.Sub(w.lacking) < tcpPatience {
		return
	}
	// A try must outlast the answer to its SYN, which would meet the next one's
	// socket and end both.
	window := tcpTry
	if _, _, rtt, _, ok := p.machine.Best(); ok {
		window = max(window, rtt+rtt/4)
	}
	// Nor must both sides begin anew at the same moments.
	if bytes.Compare(p.s.self[:], p.key[:]) > 0 {
		window += window / 2
	}
	if news := make(chan struct{}, 1); p.s.spawn(func() { p.tryTCP(news, window) }) {
		w.trying, w.tried = news, now
	}
}

// tryTCP listens, and dials the peer's addresses, until there is a direct path
// that is better than one by port 443, or it took too long. The peer does the
// same at this moment. News of addresses adds tries and ends none: a SYN whose
// socket is gone when it is answered leaves the NATs in a state in which no other
// gets through.
func (p *peer) tryTCP(news <-chan struct{}, window time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), tcpTryFor)
	p.s.tcp.listen()
	var dials sync.WaitGroup
	tried := make(map[netip.AddrPort]bool)
	for going := true; going && !p.straight(); {
		p.mu.Lock()
		changed, theirs := p.changed, p.tcp.theirs
		p.mu.Unlock()
		if p.straight() {
			break
		}
		for _, a := range theirs {
			if !tried[a] && len(tried) < 2*disco.MaxTCP {
				tried[a] = true
				if a.Port() == webPort {
					dials.Go(func() { p.dialWeb(ctx, a) })
				} else {
					dials.Go(func() { p.dialTCP(ctx, a, window) })
				}
			}
		}
		select {
		case <-changed:
		case <-news:
		case <-ctx.Done():
			going = false
		case <-p.gone:
			going = false
		case <-p.s.done:
			going = false
		}
	}
	cancel()
	dials.Wait()
	p.s.tcp.unlisten()
	p.mu.Lock()
	p.tcp.trying = nil
	if !p.direct.Load() {
		p.tcp.vain++
	}
	p.mu.Unlock()
	p.wake()
}

// straight tells that there is a direct path, and a better one than by port 443.
func (p *peer) straight() bool {
	route := p.route.Load()
	return p.direct.Load() && (route == nil || len(*route) == 0 || !(*route)[0].Web)
}

// dialTCP dials one address of the peer again and again: a SYN that meets a NAT
// that has not opened yet is lost, or refused.
func (p *peer) dialTCP(ctx context.Context, to netip.AddrPort, window time.Duration) {
	for i := range tcpTries {
		pause := time.After(min(window, tcpTry)) // also after a refusal
		if c := p.s.tcp.dial(ctx, p, to, window); c != nil {
			select {
			case <-c.ended:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-pause:
		case <-ctx.Done():
			return
		}
		if i > 0 {
			window *= 2
		}
	}
}

// dial dials once, for the time given. It returns nil when nothing came of it.
func (t *tcpPaths) dial(ctx context.Context, p *peer, to netip.AddrPort, window time.Duration) *tcpConn {
	from, at := t.s.exit(to)
	if from == nil || !t.allow() {
		return nil
	}
	defer func() { <-t.dials }()
	ctx, cancel := context.WithTimeout(ctx, window)
	defer cancel()
	conn, err := tcp.Dial(ctx, from.LocalAddr(), at)
	if err != nil {
		t.missed(ctx, p, to, err)
		return nil
	}
	return t.take(&tcpConn{conn: conn, id: path.ID{Addr: t.s.plain(conn.Remote()), TCP: true}}, p)
}

// allow tells that one more try is within the limits. Its end takes a token out
// of t.dials.
func (t *tcpPaths) allow() bool {
	select {
	case t.dials <- struct{}{}:
	default:
		t.stats.held.Add(1)
		return false
	}
	if !t.budget.Allow() {
		<-t.dials
		t.stats.held.Add(1)
		return false
	}
	t.stats.dials.Add(1)
	return true
}

// missed tells that nothing came of a try; one that is of no more use has not
// failed.
func (t *tcpPaths) missed(ctx context.Context, p *peer, to netip.AddrPort, err error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	t.s.log.Debug("TCP not through", "peer", p.key, "addr", to, "err", err)
	p.trace(Trace{Kind: TraceDialled, Addr: to, Err: err})
}

// listen opens the listeners for one more user.
func (t *tcpPaths) listen() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users++; t.users > 1 || isClosed(t.s.done) {
		return
	}
	for _, c := range t.s.cfg.UDP {
		l, err := tcp.Listen(context.Background(), c.LocalAddr())
		if err != nil {
			t.s.log.Info("peers cannot connect by TCP", "addr", c.LocalAddr(), "err", err)
			continue
		}
		if !t.s.spawn(func() { t.accept(l) }) {
			_ = l.Close()
			continue
		}
		t.listeners = append(t.listeners, l)
	}
}

// unlisten closes the listeners after their last user.
func (t *tcpPaths) unlisten() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users--; t.users == 0 {
		t.closeListeners()
	}
}

func (t *tcpPaths) closeListeners() {
	for _, l := range t.listeners {
		_ = l.Close()
	}
	t.listeners = nil
}

// accept takes connections until the listener is closed.
func (t *tcpPaths) accept(l *tcp.Listener) {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			t.take(&tcpConn{conn: conn, id: path.ID{Addr: t.s.plain(conn.Remote()), TCP: true}, accepted: true}, nil)
		case errors.Is(err, net.ErrClosed):
			return
		default: // no descriptors left, as a rule
			select {
			case <-time.After(tcpTry):
			case <-t.s.done:
				return
			}
		}
	}
}

// take makes a connection one of the Socket's, which closes it. p is the peer
// that was dialled; nil for one that was accepted. It returns nil when there is
// no place for it.
func (t *tcpPaths) take(c *tcpConn, p *peer) *tcpConn {
	c.ended = make(chan struct{})
	if !t.place(c) {
		t.stats.refused.Add(1)
		_ = c.conn.Close()
		return nil
	}
	if p != nil {
		p.bindTCP(c)
	}
	if !t.s.spawn(func() { t.serve(c) }) {
		_ = c.conn.Close()
		t.remove(c)
		return nil
	}
	return c
}

// place finds room for a connection. Those that were accepted hold a place
// until they are proven.
func (t *tcpPaths) place(c *tcpConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if isClosed(t.s.done) {
		return false
	}
	if c.accepted {
		places, ip := t.placesOf(c), source(c.id.Addr.Addr())
		if places.placed >= maxTCPUnproven || places.by[ip] >= maxTCPUnprovenPerIP {
			return false
		}
		if c.id.Web && t.web >= maxWebAccepted && !t.yieldWeb() {
			return false
		}
		c.placed = true
		places.placed++
		places.by[ip]++
		if c.id.Web {
			c.counted = true
			t.web++
		}
	}
	t.conns[c] = struct{}{}
	return true
}

// placesOf are those among which an unproven connection counts.
func (t *tcpPaths) placesOf(c *tcpConn) *tcpPlaces {
	if c.id.Web {
		return &t.stranger
	}
	return &t.unproven
}

// release frees the place of a connection. The caller holds t.mu.
func (t *tcpPaths) release(c *tcpConn) {
	if !c.placed {
		return
	}
	c.placed = false
	places, ip := t.placesOf(c), source(c.id.Addr.Addr())
	places.placed--
	if places.by[ip]--; places.by[ip] == 0 {
		delete(places.by, ip)
	}
}

// serve carries a connection's packets until it ends.
func (t *tcpPaths) serve(c *tcpConn) {
	timer := time.AfterFunc(proveTCPWithin, func() { t.check(c) })
	err := c.conn.Serve(func(b []byte) { t.receive(c, b) })
	timer.Stop()
	if errors.Is(err, tcp.ErrMalformed) {
		t.stats.malformed.Add(1)
	}
	t.s.log.Debug("TCP connection ended", "addr", c.id.Addr, "err", err)
	t.remove(c)
}

// check closes a connection that has not become a path of a peer in use.
func (t *tcpPaths) check(c *tcpConn) {
	if p := c.peer.Load(); p == nil || !c.proven.Load() || !p.pinned() {
		t.stats.unproven.Add(1)
		_ = c.conn.Close()
		return
	}
	t.mu.Lock()
	t.release(c)
	t.mu.Unlock()
}

// remove forgets a connection that is closed.
func (t *tcpPaths) remove(c *tcpConn) {
	close(c.ended)
	t.mu.Lock()
	delete(t.conns, c)
	t.uncount(c)
	t.release(c)
	t.mu.Unlock()
	p := c.peer.Load()
	if p == nil {
		return
	}
	p.mu.Lock()
	if list := p.tcpConns(); slices.Contains(list, c) {
		p.setTCP(slices.DeleteFunc(slices.Clone(list), func(o *tcpConn) bool { return o == c }))
		p.machine.Lost(p.s.time(p.s.now()), c.id, "connection ended", false)
		if c.valid.Load() {
			p.tcp.tried = time.Time{} // it went, and may again
		}
		p.apply()
	}
	p.mu.Unlock()
	p.wake()
}

// close ends all connections; the Socket is closed by now.
func (t *tcpPaths) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeListeners()
	for c := range t.conns {
		_ = c.conn.Close()
	}
}

// receive takes one packet of a connection.
func (t *tcpPaths) receive(c *tcpConn, b []byte) {
	s := t.s
	if b[0]&0xc0 != 0 {
		if !c.valid.Load() {
			s.stats.unproven.Add(1)
			return
		}
		c.heard.Store(s.now())
		s.deliver(c.peer.Load(), c.id, 0, b)
		return
	}
	kind, ok := disco.KindOf(b)
	if !ok {
		t.stats.malformed.Add(1)
		_ = c.conn.Close()
		return
	}
	p, msg := s.openDirect(c.id.Addr.Addr(), kind, b)
	if p == nil {
		return
	}
	switch bound := c.peer.Load(); bound {
	case nil:
		p.bindTCP(c)
	case p:
	default: // two nodes, one connection
		t.stats.malformed.Add(1)
		_ = c.conn.Close()
		return
	}
	t.prove(c, p)
	switch m := msg.(type) {
	case disco.Ping:
		p.mu.Lock()
		c.boot = m.BootID
		p.mu.Unlock()
		p.sendDisco(c.id, disco.Pong{TxID: m.TxID, BootID: s.boot, Observed: c.id.Addr})
		p.wake()
	case disco.Pong:
		p.pong(c.id, m)
	case disco.PathGone:
		_ = c.conn.Close()
	}
}

// prove notes that a box of the peer came over the connection.
func (t *tcpPaths) prove(c *tcpConn, p *peer) {
	c.heard.Store(t.s.now())
	if !c.proven.Swap(true) && p.pinned() {
		t.mu.Lock()
		t.release(c)
		t.mu.Unlock()
	}
}

// bindTCP makes the connection a path of the peer, which has to answer a ping
// before it is used (PATH-12).
func (p *peer) bindTCP(c *tcpConn) {
	p.mu.Lock()
	now := p.s.time(p.s.now())
	list := slices.Clone(p.tcpConns())
	list = slices.DeleteFunc(list, func(o *tcpConn) bool {
		if o.id == c.id { // of an earlier life of a NAT
			_ = o.conn.Close()
		}
		return o.id == c.id
	})
	if len(list) >= maxTCPPerPeer {
		oldest := slices.MinFunc(list, func(a, b *tcpConn) int { return cmp.Compare(a.heard.Load(), b.heard.Load()) })
		list = slices.DeleteFunc(list, func(o *tcpConn) bool { return o == oldest })
		p.machine.Lost(now, oldest.id, "too many connections", false)
		_ = oldest.conn.Close()
	}
	c.peer.Store(p)
	p.setTCP(append(list, c))
	p.machine.Found(now, c.id, true)
	p.apply()
	p.mu.Unlock()
	p.wake()
	if isClosed(p.gone) {
		_ = c.conn.Close()
	}
}

func (p *peer) tcpConns() []*tcpConn {
	if list := p.tcp.conns.Load(); list != nil {
		return *list
	}
	return nil
}

// outlives tells that the path is a connection of this run of the peer's node,
// which need not end with the paths of the one before. The caller holds p.mu.
func (p *peer) outlives(id path.ID, boot disco.BootID) bool {
	return slices.ContainsFunc(p.tcpConns(), func(c *tcpConn) bool { return c.id == id && (c.boot == boot || c.boot == disco.BootID{}) })
}

func (p *peer) setTCP(list []*tcpConn) { p.tcp.conns.Store(&list) }

// takeFromTCP makes the connections over which the peer has answered those from
// which packets are taken (PATH-8), and closes those that the machine gave up.
// The caller holds p.mu.
func (p *peer) takeFromTCP() {
	for _, c := range p.tcpConns() {
		switch p.machine.State(c.id) {
		case path.Valid, path.Suspect:
			c.valid.Store(true)
		case path.Probing:
			c.valid.Store(false)
		default:
			_ = c.conn.Close()
		}
	}
}

// closeTCP ends the connections of a peer that is forgotten.
func (p *peer) closeTCP() {
	for _, c := range p.tcpConns() {
		_ = c.conn.Close()
	}
}

// sendTCP gives a packet, or several of size segment, to the connection.
func (p *peer) sendTCP(id path.ID, b []byte, segment int) {
	for _, c := range p.tcpConns() {
		if c.id != id {
			continue
		}
		for len(b) > 0 {
			n := min(segment, len(b))
			c.conn.Send(b[:n])
			b = b[n:]
		}
		return
	}
	p.s.stats.noPath.Add(1)
}

// pingTCP sends a ping over the connection, introducing this node while the
// peer has not answered. Padding would prove nothing here.
func (p *peer) pingTCP(id path.ID, ping disco.Ping) {
	box, err := p.s.id.SealDirect(nil, p.key, ping)
	if p.machine.State(id) != path.Valid {
		box, err = p.s.id.SealIntroduction(nil, p.key, ping)
	}
	if err == nil {
		p.sendTCP(id, box, len(box))
	}
}

// sendBox sends a disco packet straight to the peer.
func (p *peer) sendBox(id path.ID, box []byte) {
	if id.TCP {
		p.sendTCP(id, box, len(box))
		return
	}
	_ = p.sendDirect(box, id.Addr, 0, 0) // lost, if it does not leave
}
