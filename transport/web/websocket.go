package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"

	ws "github.com/gorilla/websocket"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	openTimeout  = 10 * time.Second       // to open a connection, TLS and WebSocket included
	closeTimeout = 100 * time.Millisecond // to say that a WebSocket ends
	maxHeader    = 8 << 10                // of a request to a listener; net/http adds 4 KiB
	writeBuffer  = 36 << 10               // what is written at once, 33.6 KiB at most, is one frame and one write
)

// WebSocket is libp2p's WebSocket transport, but for how it dials: by a Dialer,
// which alone decides on proxies (libp2p's asks the environment) and resolves
// names itself, so that a proxy can; and without checking certificates, see the
// package comment. It is safe for concurrent use.
type WebSocket struct {
	listener *websocket.WebsocketTransport
	dialling
}

var (
	_ transport.Transport    = (*WebSocket)(nil)
	_ transport.SkipResolver = (*WebSocket)(nil)
)

// NewWebSocket makes the transport. Addresses with TLS are listened on with the
// configuration given; without one they are refused. other answers what is asked
// for that is no WebSocket of libp2p's, below TLS or not ([Upgrade]); it may hijack
// the connection.
func NewWebSocket(d *Dialer, c *tls.Config, other http.Handler, u transport.Upgrader, rcmgr network.ResourceManager, shared *tcpreuse.ConnMgr) (*WebSocket, error) {
	opts := []websocket.Option{
		websocket.WithHandshakeTimeout(openTimeout),
		websocket.WithHTTPHandler(other), websocket.WithHTTPServerConfig(bindServer),
	}
	if c != nil {
		opts = append(opts, websocket.WithTLSConfig(c))
	}
	l, err := websocket.New(u, rcmgr, shared, opts...)
	if err != nil {
		return nil, err
	}
	return &WebSocket{l, dialling{d, u, rcmgr}}, nil
}

// bindServer bounds what strangers may ask of a listener: one request of HTTP/1.1,
// which is for a WebSocket or gets a 404. Those of direct paths it keeps from libp2p,
// whose own handler is only there by the time the server begins.
func bindServer(s *http.Server) {
	s.BaseContext = func(net.Listener) context.Context {
		s.Handler = setApart(s.Handler)
		return context.Background()
	}
	s.MaxHeaderBytes = maxHeader
	s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout = openTimeout, openTimeout, openTimeout
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.SetKeepAlivesEnabled(false)
}

// CanDial implements transport.Transport.
func (t *WebSocket) CanDial(a ma.Multiaddr) bool { return t.listener.CanDial(a) }

// Listen implements transport.Transport.
func (t *WebSocket) Listen(a ma.Multiaddr) (transport.Listener, error) { return t.listener.Listen(a) }

// Protocols implements transport.Transport.
func (t *WebSocket) Protocols() []int { return t.listener.Protocols() }

// Proxy implements transport.Transport.
func (t *WebSocket) Proxy() bool { return t.listener.Proxy() }

// SkipResolve implements transport.SkipResolver: names are resolved when dialled.
func (t *WebSocket) SkipResolve(context.Context, ma.Multiaddr) bool { return true }

// Dial dials a peer at an address.
func (t *WebSocket) Dial(ctx context.Context, a ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	c, err := t.upgrade(ctx, t, a, p, func(ctx context.Context) (manet.Conn, error) { return t.open(ctx, a) })
	if err != nil {
		return nil, err
	}
	return &wsCapable{c}, nil
}

// open makes a WebSocket, up to where libp2p's handshake begins.
func (t *WebSocket) open(ctx context.Context, a ma.Multiaddr) (manet.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	w, err := parse(a)
	if err != nil {
		return nil, err
	}
	c, err := t.dialer.dial(ctx, a)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	out, err := w.handshake(ctx, c)
	if !stop() { // so that it is closed
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return out, nil
}

// wsAddr is what an address says of a WebSocket.
type wsAddr struct {
	secure bool
	name   string // what the server is called; "" where the address has an IP only
	host   string // with the port
}

// parse reads IP or name, TCP port, then ws, wss, tls/ws or tls/sni/NAME/ws.
func parse(a ma.Multiaddr) (wsAddr, error) {
	_, at, err := endpoint(a)
	if err != nil {
		return wsAddr{}, err
	}
	w := wsAddr{host: at}
	if c := a[0].Code(); c != ma.P_IP4 && c != ma.P_IP6 {
		w.name = a[0].Value()
	}
	for i := range a[2:] {
		switch c := &a[2+i]; c.Code() {
		case ma.P_TLS, ma.P_WSS:
			w.secure = true
		case ma.P_SNI:
			w.name = c.Value()
			_, port, err := net.SplitHostPort(at)
			if err != nil {
				return w, fmt.Errorf("address %s: %w", a, err)
			}
			w.host = net.JoinHostPort(w.name, port)
		}
	}
	return w, nil
}

// handshake makes a WebSocket of a connection that was opened.
func (w wsAddr) handshake(ctx context.Context, c *conn) (manet.Conn, error) {
	var carrier net.Conn = c
	u := url.URL{Scheme: "ws", Host: w.host, Path: "/"}
	if w.secure {
		u.Scheme = "wss"
		secure := tls.Client(c, clientTLS(w.name))
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		carrier = secure
	}
	sock, err := ask(ctx, carrier, u)
	if err != nil {
		return nil, fmt.Errorf("WebSocket: %w", err)
	}
	return &wsConn{Conn: sock, tcp: c, read: messages{sock: sock}}, nil
}

// errAnswer: a server has said something else than that the connection is a
// WebSocket from now on.
var errAnswer = errors.New("the server takes no such WebSocket")

// ask makes a WebSocket of a connection. It fails with errAnswer where that is due
// to what the server said, of which it reads 16 KiB at most.
func ask(ctx context.Context, c net.Conn, u url.URL, subprotocols ...string) (*ws.Conn, error) {
	b := &bounded{Conn: c, left: maxAnswer}
	opened := func(context.Context, string, string) (net.Conn, error) { return b, nil }
	d := ws.Dialer{NetDialContext: opened, NetDialTLSContext: opened, Subprotocols: subprotocols, WriteBufferSize: writeBuffer}
	sock, answer, err := d.DialContext(ctx, u.String(), http.Header{"User-Agent": {""}}) // none
	if answer != nil {
		_ = answer.Body.Close()
	}
	switch {
	case err != nil && answer != nil:
		return nil, fmt.Errorf("%w: it answered %d %s", errAnswer, answer.StatusCode, http.StatusText(answer.StatusCode))
	case err != nil && !b.failed:
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	case err != nil:
		return nil, err
	case answer.Header.Get("Sec-WebSocket-Extensions") != "": // nobody asked for any
		return nil, fmt.Errorf("%w: it wants an extension", errAnswer)
	}
	b.left = -1
	return sock, nil
}

// bounded is a connection of which only so much is read, until left is negative.
type bounded struct {
	net.Conn
	left   int
	failed bool // the connection, rather than what came over it
}

var errLong = fmt.Errorf("its answer is longer than %d bytes", maxAnswer)

// Read implements net.Conn.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return b.Conn.Read(p)
	}
	if b.left == 0 {
		return 0, errLong
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	b.failed = b.failed || err != nil
	return n, err
}

// Write implements net.Conn.
func (b *bounded) Write(p []byte) (int, error) {
	n, err := b.Conn.Write(p)
	if err != nil && b.left >= 0 {
		b.failed = true
	}
	return n, err
}

// messages reads the messages of a WebSocket, one after the other, as a stream of
// bytes.
type messages struct {
	sock *ws.Conn
	rest io.Reader // of the one that is being read; nil between two
}

// Read implements io.Reader.
func (m *messages) Read(b []byte) (int, error) {
	for {
		if m.rest == nil {
			kind, r, err := m.sock.NextReader()
			switch {
			case ws.IsCloseError(err, ws.CloseNormalClosure, ws.CloseNoStatusReceived):
				return 0, io.EOF
			case err != nil:
				return 0, err
			case kind != ws.BinaryMessage:
				return 0, errText
			}
			m.rest = r
		}
		n, err := m.rest.Read(b)
		if errors.Is(err, io.EOF) {
			m.rest, err = nil, nil
		}
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
	}
}

var errText = errors.New("a WebSocket message of text, not of bytes")

// clientTLS is how a server is dialled, by its name, or by an IP address where
// that is empty.
func clientTLS(name string) *tls.Config {
	return &tls.Config{
		ServerName: name, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // the key is proven within; see the package comment
	}
}

// wsConn is a WebSocket as a stream of bytes: its messages one after the other.
// Reads and writes may run beside each other.
type wsConn struct {
	*ws.Conn
	tcp *conn

	reading sync.Mutex
	read    messages

	writing sync.Mutex
	closing sync.Once
	closed  error
}

var (
	_ manet.Conn   = (*wsConn)(nil)
	_ syscall.Conn = (*wsConn)(nil)
)

// LocalMultiaddr implements manet.Conn.
func (c *wsConn) LocalMultiaddr() ma.Multiaddr { return c.tcp.local.Encapsulate(c.tcp.remote[2:]) }

// RemoteMultiaddr implements manet.Conn.
func (c *wsConn) RemoteMultiaddr() ma.Multiaddr { return c.tcp.remote }

// SyscallConn implements syscall.Conn: it is that of the TCP connection.
func (c *wsConn) SyscallConn() (syscall.RawConn, error) { return c.tcp.SyscallConn() }

// Read implements net.Conn.
func (c *wsConn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.read.Read(b)
}

// Write implements net.Conn: what is written is one message.
func (c *wsConn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.WriteMessage(ws.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetDeadline implements net.Conn.
func (c *wsConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetWriteDeadline implements net.Conn. It holds for writes to come.
func (c *wsConn) SetWriteDeadline(t time.Time) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.Conn.SetWriteDeadline(t)
}

// Close implements net.Conn. It may be called more than once.
func (c *wsConn) Close() error {
	c.closing.Do(func() {
		_ = c.WriteControl(ws.CloseMessage, ws.FormatCloseMessage(ws.CloseNormalClosure, ""), time.Now().Add(closeTimeout))
		c.closed = c.Conn.Close()
	})
	return c.closed
}

// wsCapable says of a connection that it is a WebSocket.
type wsCapable struct{ transport.CapableConn }

// ConnState implements network.ConnSecurity.
func (c *wsCapable) ConnState() network.ConnectionState {
	s := c.CapableConn.ConnState()
	s.Transport = "websocket"
	return s
}
