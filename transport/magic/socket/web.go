package socket

import (
	"context"
	"errors"
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
		case !errors.Is(err, syscall.ECONNREFUSED):
			return
		}
		select {
		case <-time.After(webAgain):
		case <-ctx.Done():
			return
		}
	}
}

// dialWebOnce is one try of dialWeb. It returns neither where none is allowed.
func (p *peer) dialWebOnce(ctx context.Context, to netip.AddrPort) (*tcpConn, error) {
	t := p.s.tcp
	from, at := p.s.exit(to)
	if from == nil || !t.allow() {
		return nil, nil
	}
	defer func() { <-t.dials }()
	c, err := p.s.cfg.DialWeb(ctx, at)
	if err != nil {
		t.missed(ctx, p, to, err)
		return nil, err
	}
	return t.take(&tcpConn{conn: tcp.Carry(c, to), id: path.ID{Addr: to, TCP: true, Web: true}}, p), nil
}
