package socket

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"syscall"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
)

// TakeWeb takes a connection that somebody opened to port 443 of this node, and
// closes it: at once where there is no place for it, after 5 s unless a peer in
// use proves to be there (PATH-14, PATH-20). remote is the address at its other
// end. It does not block.
func (s *Socket) TakeWeb(c tcp.Carrier, remote netip.AddrPort) {
	conn := tcp.Carry(c, remote)
	if !s.tcp.enabled() || !conn.Remote().IsValid() {
		_ = conn.Close()
		return
	}
	s.tcp.take(&tcpConn{conn: conn, id: path.ID{Addr: s.plain(conn.Remote()), TCP: true, Web: true}, accepted: true}, nil)
}

// yieldWeb makes room on port 443: a connection whose peer has a better direct
// path goes, before one that has no other way is turned away. The caller holds
// t.mu.
func (t *tcpPaths) yieldWeb() bool {
	for c := range t.conns {
		if p := c.peer.Load(); c.counted && p != nil && p.straight() {
			t.uncount(c)
			_ = c.conn.Close()
			return true
		}
	}
	return false
}

// uncount takes a connection out of those on port 443. The caller holds t.mu.
func (t *tcpPaths) uncount(c *tcpConn) {
	if c.counted {
		c.counted = false
		t.web--
	}
}

// mayAskWeb keeps strangers from making this node ask the web servers of its own
// network, whatever public address they claim to share with it (PATH-14).
func (p *peer) mayAskWeb(a netip.AddrPort) bool {
	known := p.s.cfg.Known != nil && p.s.cfg.Known(p.key)
	return known || !local(a.Addr()) || a.Addr().IsLoopback() && p.s.cfg.Loopback
}

// beginWeb tells that port 443 at an address may be asked, by one peer's try at a
// time; endWeb follows. It fails with ErrNoPeer or errHeld.
func (t *tcpPaths) beginWeb(at netip.AddrPort) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Now().Before(t.noPeer[at]) {
		return ErrNoPeer
	}
	if t.asking[at] {
		return errHeld
	}
	t.asking[at] = true
	return nil
}

// endWeb notes what came of a try. It remembers as many addresses as there are
// tries in a minute at most.
func (t *tcpPaths) endWeb(at netip.AddrPort, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.asking, at)
	now := time.Now()
	maps.DeleteFunc(t.noPeer, func(_ netip.AddrPort, until time.Time) bool { return !now.Before(until) })
	if errors.Is(err, ErrNoPeer) {
		t.noPeer[at] = now.Add(webNoPeer)
	}
}

// ErrNoPeer is what Config.DialWeb fails with where something answers that takes
// no direct paths: nobody makes the Socket dial it again for a minute.
var ErrNoPeer = errors.New("no peer takes direct paths there")

// errHeld: too many tries by TCP are under way, or one there, of another peer.
var errHeld = errors.New("other tries are under way")

// dialWeb dials port 443 of the peer: it either listens there or does not, and
// needs not be dialled from a certain port, nor at a certain moment. What refuses,
// or takes the connection and does not know this node, may be a node that is just
// starting; whoever answers otherwise is asked once.
func (p *peer) dialWeb(ctx context.Context, to netip.AddrPort) {
	for range webTries {
		c, err := p.dialWebOnce(ctx, to)
		switch {
		case c != nil:
			select {
			case <-c.ended:
			case <-ctx.Done():
				return
			}
		case !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, errHeld):
			return
		}
		select {
		case <-time.After(webAgain):
		case <-ctx.Done():
			return
		}
	}
}

// dialWebOnce is one try of dialWeb. It returns neither when the Socket is closed.
func (p *peer) dialWebOnce(ctx context.Context, to netip.AddrPort) (*tcpConn, error) {
	t := p.s.tcp
	if err := t.beginWeb(to); err != nil {
		return nil, err
	}
	c, err := p.askWeb(ctx, to)
	t.endWeb(to, err)
	if err != nil {
		return nil, err
	}
	return t.take(&tcpConn{conn: tcp.Carry(c, to), id: path.ID{Addr: to, TCP: true, Web: true}}, p), nil
}

// askWeb asks port 443 at an address for a connection, within the limits.
func (p *peer) askWeb(ctx context.Context, to netip.AddrPort) (tcp.Carrier, error) {
	if !p.s.tcp.allow() {
		return nil, errHeld
	}
	defer func() { <-p.s.tcp.dials }()
	_, at := p.s.exit(to)
	c, err := p.s.cfg.DialWeb(ctx, at)
	if err != nil {
		p.s.tcp.missed(ctx, p, to, err)
	}
	return c, err
}
