// Package web is for networks that let nothing but the web out: TCP to port
// 443, at times through a proxy that must be asked.
//
// A relay there looks like a web server: it speaks libp2p's WebSocket transport
// below TLS, with a certificate from an ACME authority, from files, or one it
// signs itself ([Certificates]). [TCP] and [WebSocket] are libp2p's transports
// of these names; they dial by a [Dialer], which goes through an HTTP or SOCKS5
// proxy where the straight way is blocked (PATH-31).
//
// Direct paths between peers wear the same costume on port 443: see [Direct].
//
// The outer TLS is a costume. Within it both sides prove their keys by libp2p's
// own handshake, as on any TCP connection, so nobody's certificate is checked,
// and whoever takes the TLS apart in between sees what an onlooker of plain TCP
// sees.
//
// The package reads no environment: a proxy is what Config names.
package web

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Port is the one that the most restricted networks let out.
const Port = 443

// TCP is libp2p's TCP transport, but for how it dials: from a port of its own,
// by a Dialer. It is safe for concurrent use.
type TCP struct {
	*tcp.TcpTransport
	dialling
}

var (
	_ transport.Transport    = (*TCP)(nil)
	_ transport.DialUpdater  = (*TCP)(nil)
	_ transport.SkipResolver = (*TCP)(nil)
)

// NewTCP makes the transport. The other arguments are what libp2p gives to the
// constructors of transports.
func NewTCP(d *Dialer, u transport.Upgrader, rcmgr network.ResourceManager, shared *tcpreuse.ConnMgr) (*TCP, error) {
	inner, err := tcp.NewTCPTransport(u, rcmgr, shared)
	if err != nil {
		return nil, err
	}
	return &TCP{inner, dialling{d, u, rcmgr}}, nil
}

// CanDial implements transport.Transport.
func (t *TCP) CanDial(a ma.Multiaddr) bool {
	if len(a) != 2 {
		return false
	}
	_, _, err := endpoint(a)
	return err == nil
}

// SkipResolve implements transport.SkipResolver: a proxy resolves names itself.
func (t *TCP) SkipResolve(context.Context, ma.Multiaddr) bool { return t.dialer.proxy != nil }

// Dial dials a peer at an address.
func (t *TCP) Dial(ctx context.Context, a ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	return t.DialWithUpdates(ctx, a, p, nil)
}

// DialWithUpdates is Dial, and tells when the connection is open.
func (t *TCP) DialWithUpdates(ctx context.Context, a ma.Multiaddr, p peer.ID, updates chan<- transport.DialUpdate) (transport.CapableConn, error) {
	return t.upgrade(ctx, t, a, p, func(ctx context.Context) (manet.Conn, error) {
		c, err := t.dialer.dial(ctx, a)
		if err != nil {
			return nil, err
		}
		_ = c.SetLinger(0) // once closed it is gone, and its port free
		if updates != nil {
			select {
			case updates <- transport.DialUpdate{Kind: transport.UpdateKindHandshakeProgressed, Addr: a}:
			default: // the connection matters more
			}
		}
		return c, nil
	})
}

// dialling is what transports have in common that dial by a Dialer.
type dialling struct {
	dialer   *Dialer
	upgrader transport.Upgrader
	rcmgr    network.ResourceManager
}

// upgrade opens a connection and lets both sides prove their keys on it.
func (d *dialling) upgrade(ctx context.Context, t transport.Transport, a ma.Multiaddr, p peer.ID, open func(context.Context) (manet.Conn, error)) (transport.CapableConn, error) {
	scope, err := d.rcmgr.OpenConnection(network.DirOutbound, true, a)
	if err != nil {
		return nil, err
	}
	if err := scope.SetPeer(p); err != nil {
		scope.Done()
		return nil, err
	}
	c, err := open(ctx)
	if err != nil {
		scope.Done()
		return nil, err
	}
	// Two hosts that dial each other at once agree on who is the client.
	dir := network.DirOutbound
	if both, isClient, _ := network.GetSimultaneousConnect(ctx); both && !isClient {
		dir = network.DirInbound
	}
	return d.upgrader.Upgrade(ctx, t, c, dir, p, scope) // closes both when it fails
}

// endpoint is the beginning of an address that a TCP connection is opened to,
// for package net.
func endpoint(a ma.Multiaddr) (tcpNetwork, address string, err error) {
	if len(a) < 2 || a[1].Code() != ma.P_TCP {
		return "", "", fmt.Errorf("%s is no address of a TCP port", a)
	}
	if tcpNetwork, address, err = manet.DialArgs(a[:2]); err != nil {
		return "", "", fmt.Errorf("address %s: %w", a, err)
	}
	return tcpNetwork, address, nil
}

// conn is a TCP connection that was dialled, with the addresses libp2p goes by.
type conn struct {
	*net.TCPConn

	local, remote ma.Multiaddr
	done          func() // once it is closed; may be nil
}

var _ manet.Conn = (*conn)(nil)

// newConn takes a connection that was opened for the address a. Unless a proxy
// opened it, remote names the machine that a name stands for.
func newConn(c *net.TCPConn, a ma.Multiaddr, proxied bool) (*conn, error) {
	local, err := manet.FromNetAddr(c.LocalAddr())
	if err != nil {
		return nil, fmt.Errorf("local address: %w", err)
	}
	remote := a
	if !proxied {
		at, err := manet.FromNetAddr(c.RemoteAddr())
		if err != nil {
			return nil, fmt.Errorf("remote address: %w", err)
		}
		remote = at.Encapsulate(a[2:])
	}
	return &conn{TCPConn: c, local: local, remote: remote}, nil
}

// LocalMultiaddr implements manet.Conn.
func (c *conn) LocalMultiaddr() ma.Multiaddr { return c.local }

// RemoteMultiaddr implements manet.Conn.
func (c *conn) RemoteMultiaddr() ma.Multiaddr { return c.remote }

// Close implements net.Conn.
func (c *conn) Close() error {
	if c.done != nil {
		c.done()
	}
	return c.TCPConn.Close()
}

var errNotTCP = errors.New("internal error: the connection is not TCP")
