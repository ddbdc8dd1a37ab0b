package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
	"github.com/quic-go/quic-go"

	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/magic"
)

// ErrUnreachable: nobody knows where the peer is, or it does not answer where
// it should be.
var ErrUnreachable = magic.ErrUnreachable

const (
	dialTimeout = 30 * time.Second
	stagger     = 250 * time.Millisecond // between two addresses of one peer, as RFC 8305
	maxDialed   = 16                     // addresses tried for one peer at a time
	// refusedGrace is how long a relay's other addresses are waited for when one
	// has refused.
	refusedGrace = time.Second
)

// Connect returns once a connection to the peer is live, making one if there
// is none. The relays this node is linked to, those the peer's record names
// and the peer's own addresses are all tried as soon as they are known
// (PATH-33). Callers that want the same peer share one attempt.
func (h *Host) Connect(ctx context.Context, p peer.ID) error {
	if p == h.id {
		return errors.New("that is this node's own key")
	}
	if !h.running() {
		return ErrClosed
	}
	if h.bestConn(p) != nil {
		return nil
	}
	d, err := h.join(p)
	if err != nil {
		return err
	}
	defer h.leave(d)
	for {
		changed := h.changes.wait()
		if h.bestConn(p) != nil { // by this attempt, or the peer's own
			return nil
		}
		select {
		case <-changed:
		case <-d.done:
			return d.err
		case <-ctx.Done():
			return fmt.Errorf("dial %s: %w", p, context.Cause(ctx))
		}
	}
}

// dial is one attempt to reach a peer.
type dial struct {
	peer    peer.ID
	ctx     context.Context
	cancel  context.CancelFunc
	waiters int
	done    chan struct{}
	err     error

	mu    sync.Mutex
	addrs []ma.Multiaddr
	more  chan struct{} // addrs grew
}

// join finds the running attempt or starts one.
func (h *Host) join(p peer.ID) (*dial, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if d := h.dials[p]; d != nil {
		d.waiters++
		return d, nil
	}
	ctx, cancel := context.WithTimeout(h.ctx, dialTimeout)
	d := &dial{peer: p, ctx: ctx, cancel: cancel, waiters: 1, done: make(chan struct{}), more: make(chan struct{}, 1)}
	d.addrs = h.book.get(p)
	h.dials[p] = d
	h.timelines.begin(p)
	h.wg.Go(func() {
		d.err = h.run(d)
		h.mu.Lock()
		delete(h.dials, p)
		h.mu.Unlock()
		close(d.done)
	})
	return d, nil
}

// leave ends the attempt when nobody waits for it any more. One that has
// connected goes on by itself, since a direct connection may still follow.
func (h *Host) leave(d *dial) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.waiters--; d.waiters == 0 && h.dials[d.peer] == d {
		d.cancel()
	}
}

// run dials by the magic transport and by stock ones side by side; the first
// to connect wins. A stock connection ends the magic attempt, being direct;
// not the other way round.
func (h *Host) run(d *dial) error {
	results := make(chan error, 2)
	magicDone := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		defer close(magicDone)
		results <- h.dialMagic(d)
	})
	both.Go(func() {
		err := h.dialAddrs(d, magicDone)
		if err == nil {
			d.cancel()
		}
		results <- err
	})
	h.wg.Go(func() {
		both.Wait()
		d.cancel()
	})
	var errs []error
	for range 2 {
		err := <-results
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNoAddrs) {
			errs = append(errs, err)
		}
	}
	if d.ctx.Err() != nil && len(errs) == 0 {
		return fmt.Errorf("dial %s: %w", d.peer, context.Cause(d.ctx))
	}
	return errors.Join(errs...)
}

func (h *Host) dialMagic(d *dial) error {
	c, err := h.magic.Dial(d.ctx, magic.Addr, d.peer)
	switch {
	case err != nil && errors.Is(d.ctx.Err(), context.Canceled):
		h.timelines.note(d.peer, stepHandshake, "not needed", "another way won, or the dial was given up")
		return err
	case err != nil:
		h.timelines.note(d.peer, stepHandshake, "failed", "%s", err)
		return err
	}
	h.timelines.note(d.peer, stepHandshake, "done", "the peer has proven its key")
	return h.offer(d.ctx, c)
}

var errNoAddrs = errors.New("no address known")

// dialAddrs tries the peer's own addresses as they become known, until the
// magic transport is done as well.
func (h *Host) dialAddrs(d *dial, magicDone <-chan struct{}) error {
	if h.cfg.HideIP {
		return errNoAddrs
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	won := make(chan error, maxDialed)
	tried, failed := 0, 0
	last := errNoAddrs
	for {
		d.mu.Lock()
		fresh := slices.Clone(d.addrs[tried:min(len(d.addrs), maxDialed)])
		d.mu.Unlock()
		for i, a := range fresh {
			h.wg.Go(func() {
				err := h.dialAddr(ctx, d.peer, a, time.Duration(i)*stagger)
				verdict, detail := "connected", a.String()
				switch {
				case err != nil && ctx.Err() != nil:
					verdict = "not needed" // another way won, or time is up
				case otherKey(err):
					verdict, detail = verdictOtherKey, err.Error()
				case err != nil:
					verdict, detail = "failed", err.Error()
				}
				h.timelines.note(d.peer, stepAddress, verdict, "%s", detail)
				won <- err
			})
		}
		tried += len(fresh)
		select {
		case err := <-won:
			if err == nil {
				return nil
			}
			failed++
			last = err
		case <-d.more:
		case <-magicDone:
			magicDone = nil
		case <-d.ctx.Done():
			return last
		}
		if magicDone == nil && failed == tried {
			return last
		}
	}
}

// found takes what a look-up says about a peer: its relays' addresses go to
// the book, its own to the attempt under way.
func (h *Host) hint(p peer.ID, addrs []ma.Multiaddr) {
	h.book.add(p, addrs)
	h.mu.Lock()
	d := h.dials[p]
	h.mu.Unlock()
	if d == nil {
		return
	}
	d.mu.Lock()
	for _, a := range addrs {
		if !slices.ContainsFunc(d.addrs, a.Equal) {
			d.addrs = append(d.addrs, a)
		}
	}
	d.mu.Unlock()
	select {
	case d.more <- struct{}{}:
	default:
	}
}

// find tells the magic transport over which relays a peer may be reached.
func (h *Host) find(ctx context.Context, p peer.ID, found func(via peer.ID)) {
	seen := make(map[peer.ID]bool)
	take := func(relays []peer.AddrInfo, addrs []ma.Multiaddr) {
		for _, r := range relays {
			if r.ID == p { // a relay itself: dialled straight
				addrs = append(slices.Clone(r.Addrs), addrs...)
				continue
			}
			h.book.add(r.ID, r.Addrs)
			if !seen[r.ID] && r.ID != h.id {
				seen[r.ID] = true
				found(r.ID)
			}
		}
		if len(addrs) > 0 {
			h.hint(p, addrs)
		}
	}
	h.mu.Lock()
	hinted := h.tickets[p]
	h.mu.Unlock()
	if hinted != nil {
		h.recordStep(p, "ticket", "", hinted.Relays, hinted.Addrs)
		take(hinted.Relays, hinted.Addrs)
	}
	var via []peer.AddrInfo
	if hinted != nil {
		via = hinted.Relays
	}
	early := len(h.links.Live()) == 0
	look := func() {
		found := 0
		for f := range h.disc.Resolve(ctx, p, via...) {
			found++
			if f.Record != nil {
				h.recordStep(p, f.Source, f.From, f.Record.Relays, f.Record.Addrs)
				take(f.Record.Relays, f.Record.Addrs)
			} else {
				h.recordStep(p, f.Source, f.From, nil, f.Addrs)
				take(nil, f.Addrs)
			}
		}
		if found == 0 && ctx.Err() == nil {
			h.timelines.note(p, stepRecord, "none", "neither the cache, nor relays, nor the DHT, nor the local network know the peer")
		}
	}
	look()
	if early && h.links.waitLive(ctx) {
		// Asked before this node had a relay to ask, or to be answered by.
		for _, k := range h.links.Live() {
			if r, err := magic.PeerID(k); err == nil && r != p {
				found(r)
			}
		}
		look()
	}
}

// recordStep notes what a look-up found.
func (h *Host) recordStep(p peer.ID, source discovery.Source, from peer.ID, relays []peer.AddrInfo, addrs []ma.Multiaddr) {
	where := string(source)
	if from != "" {
		where += " " + from.String()
	}
	h.timelines.with(p, false, func(tl *timeline) {
		tl.records++
		at := "no relay"
		for i, r := range relays {
			if i == 0 {
				at = "at"
			}
			at += " " + r.ID.String()
		}
		tl.add(stepRecord, "found", fmt.Sprintf("from %s: %s, and %d addresses of its own", where, at, len(addrs)))
	})
}

// stock dials a peer at the addresses given, TCP first when it is to be a
// relay link (PATH-25), and returns the connection.
func (h *Host) stock(ctx context.Context, p peer.ID, addrs []ma.Multiaddr) (network.Conn, error) {
	if len(addrs) == 0 {
		return nil, fmt.Errorf("dial relay %s: %w", p, errNoAddrs)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	addrs = linkOrder(addrs)
	addrs = addrs[:min(len(addrs), maxDialed)]
	errc := make(chan error, len(addrs))
	begun := 0
	begin := func() {
		if begun < len(addrs) && (begun == 0 || ctx.Err() == nil) {
			a := addrs[begun]
			begun++
			h.wg.Go(func() { errc <- h.dialAddr(ctx, p, a, 0) })
		}
	}
	pause := stagger
	if h.justMoved() { // what leaves first on a new network is lost at times
		pause = redialAgain
	}
	next := time.NewTicker(pause)
	defer next.Stop()
	var (
		errs   []error
		giveUp *time.Timer
	)
	for begin(); len(errs) < begun; {
		var err error
		select {
		case <-next.C:
			begin()
			continue
		case err = <-errc:
		}
		if err == nil {
			if c := h.stockConn(p); c != nil {
				return c, nil
			}
			err = errors.New("connection lost")
		}
		errs = append(errs, err)
		begin() // what has failed is not waited for
		next.Reset(pause)
		if giveUp == nil && errors.Is(err, syscall.ECONNREFUSED) {
			// The machine is there, what is dialled is not: whoever is dialled by a
			// way that is blocked does not answer either, and it is dialled again.
			giveUp = time.AfterFunc(refusedGrace, cancel)
		}
	}
	if giveUp != nil {
		giveUp.Stop()
	}
	return nil, errors.Join(errs...)
}

// linkRank orders connections for relay links: TCP carries more than QUIC there.
func linkRank(a ma.Multiaddr) int {
	if len(a) == 2 && a[1].Protocol().Code == ma.P_TCP {
		return 0
	}
	if len(a) > 1 && a[1].Protocol().Code == ma.P_UDP {
		return 1
	}
	return 2
}

// dialAddr makes one stock connection, past the swarm and its back-off, and
// hands it in.
func (h *Host) dialAddr(ctx context.Context, p peer.ID, a ma.Multiaddr, after time.Duration) error {
	if after > 0 {
		t := time.NewTimer(after)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	addrs, err := h.resolve(ctx, a)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", a, err)
	}
	err = fmt.Errorf("dial %s: no such address", a)
	for _, r := range h.nat64.translate(addrs) {
		t := h.swarm.TransportForDialing(r)
		if t == nil || magic.IsAddr(r) {
			err = fmt.Errorf("dial %s: no transport for it", a)
			continue
		}
		c, e := t.Dial(ctx, r, p)
		if e != nil {
			err = fmt.Errorf("dial %s: %w", a, e)
			continue
		}
		return h.offer(ctx, c)
	}
	return err
}

// resolve replaces a name by addresses, unless the transport does it itself.
func (h *Host) resolve(ctx context.Context, a ma.Multiaddr) ([]ma.Multiaddr, error) {
	if s, ok := h.swarm.TransportForDialing(a).(transport.SkipResolver); ok && s.SkipResolve(ctx, a) {
		return []ma.Multiaddr{a}, nil
	}
	return madns.DefaultResolver.Resolve(ctx, a)
}

// offer brings a connection dialled here into the swarm and waits until it is
// there; on failure it is closed.
func (h *Host) offer(ctx context.Context, c transport.CapableConn) error {
	if ctx.Err() != nil { // another way won
		_ = c.Close()
		return context.Cause(ctx)
	}
	if err := h.magic.Offer(ctx, c); err != nil {
		_ = c.Close()
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		changed := h.changes.wait()
		for _, sc := range h.libp2p.Network().ConnsToPeer(c.RemotePeer()) {
			if sameConn(sc, c) {
				return nil
			}
		}
		if c.IsClosed() {
			return errors.New("connection closed at once")
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func sameConn(sc network.Conn, c transport.CapableConn) bool {
	if mc, ok := c.(*magic.Conn); ok {
		var have *magic.Conn
		return sc.As(&have) && have == mc
	}
	return !isMagic(sc) && sc.LocalMultiaddr().Equal(c.LocalMultiaddr()) && sc.RemoteMultiaddr().Equal(c.RemoteMultiaddr())
}

func isMagic(c network.Conn) bool {
	var mc *magic.Conn
	return c.As(&mc)
}

func quicOf(c network.Conn) *quic.Conn {
	var qc *quic.Conn
	if c.As(&qc) {
		return qc
	}
	return nil
}

// bestConn is the connection new streams are opened on: a magic one whose path
// is direct, else a stock one, which is direct too but breaks when its path
// does, else a relayed one. Of two magic ones it is that which the lower peer
// ID dialled, so that both sides choose the same (PATH-4).
func (h *Host) bestConn(p peer.ID) network.Conn {
	if !h.running() {
		return nil
	}
	var best network.Conn
	for _, c := range h.libp2p.Network().ConnsToPeer(p) {
		if c.IsClosed() || c.Stat().Limited {
			continue
		}
		if best == nil || h.connRank(c) > h.connRank(best) {
			best = c
		}
	}
	return best
}

func (h *Host) connRank(c network.Conn) int {
	var mc *magic.Conn
	if !c.As(&mc) {
		return 3
	}
	rank := 1
	if h.pathOf(c).Kind == PathDirect {
		rank = 4
	}
	if mc.Outbound() == (h.id < c.RemotePeer()) {
		rank++
	}
	return rank
}

// stockConn is a connection made by a stock transport, TCP before QUIC, the
// latest of several.
func (h *Host) stockConn(p peer.ID) network.Conn {
	var best network.Conn
	for _, c := range h.libp2p.Network().ConnsToPeer(p) {
		if c.IsClosed() || c.Stat().Limited || isMagic(c) {
			continue
		}
		if best == nil || cmp.Or(
			linkRank(c.RemoteMultiaddr())-linkRank(best.RemoteMultiaddr()),
			best.Stat().Opened.Compare(c.Stat().Opened)) < 0 {
			best = c
		}
	}
	return best
}
