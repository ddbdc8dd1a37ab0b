package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	ws "github.com/gorilla/websocket"
	manet "github.com/multiformats/go-multiaddr/net"
)

// packets is the subprotocol of the WebSockets of direct paths. Their messages, put
// together, are the stream of ../magic/tcp/SPEC.md.
const packets = "alknet-packets-1"

const (
	maxMessage  = 1 << 20          // of a peer, or of a proxy that puts several into one
	pongTimeout = 10 * time.Second // as packets have (package tcp)
)

// Direct is a connection for a direct path: a WebSocket below TLS (PATH-20, PATH-31).
// Nobody's key is proven on it: the packets do that. Read and Write may run beside
// each other, and Close beside both.
type Direct struct {
	sock *ws.Conn
	tcp  net.Conn
	via  string // the proxy; "" for none
	read messages

	writing sync.Mutex
	ping    atomic.Pointer[string] // what the last one held that was not answered
}

var _ syscall.Conn = (*Direct)(nil)

// newDirect takes over a WebSocket on a TCP connection.
func newDirect(sock *ws.Conn, tcp net.Conn, via string) *Direct {
	d := &Direct{sock: sock, tcp: tcp, via: via, read: messages{sock: sock}}
	sock.SetReadLimit(maxMessage)
	sock.SetPingHandler(d.pinged)
	sock.SetCloseHandler(func(int, string) error { return nil }) // the connection ends, and so does the path
	return d
}

// Direct opens a connection to a peer's port that [Upgrade] serves, straight or
// through the proxy. It fails with ErrNoPeer where something else answers. The
// caller closes it.
func (d *Dialer) Direct(ctx context.Context, to netip.AddrPort) (*Direct, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	a, err := manet.FromNetAddr(net.TCPAddrFromAddrPort(to))
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", to, err)
	}
	c, err := d.dial(ctx, a)
	if err != nil {
		return nil, err
	}
	_ = c.SetLinger(0) // once closed it is gone
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	sock, err := askPackets(ctx, tls.Client(c, clientTLS("")), to.String())
	if !stop() { // so that it is closed
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s: %w", to, err)
	}
	return newDirect(sock, c, d.Proxied(c.local)), nil
}

// askPackets makes the peer's web server hand the connection over.
func askPackets(ctx context.Context, s *tls.Conn, host string) (*ws.Conn, error) {
	if err := s.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", noPeer(err))
	}
	sock, err := ask(ctx, s, url.URL{Scheme: "wss", Host: host, Path: "/"}, packets)
	switch {
	case err != nil:
		return nil, fmt.Errorf("WebSocket: %w", noPeer(err))
	case sock.Subprotocol() != packets:
		return nil, fmt.Errorf("WebSocket: it is for something else: %w", ErrNoPeer)
	}
	return sock, nil
}

// ErrNoPeer: something answers there, and it is not a peer that takes direct
// paths.
var ErrNoPeer = errors.New("no peer takes direct paths there")

// noPeer adds that to an error which the other end has caused by what it said. One
// that says nothing may be a peer that ends, or is out of reach.
func noPeer(err error) error {
	var (
		notTLS tls.RecordHeaderError
		alert  *net.OpError
	)
	if errors.Is(err, errAnswer) || errors.As(err, &notTLS) || errors.As(err, &alert) && alert.Op == "remote error" {
		return fmt.Errorf("%w: %w", err, ErrNoPeer)
	}
	return err
}

// setApart keeps requests for direct paths from libp2p's listener, which takes every
// WebSocket for its own: with no Upgrade in their head it leaves them to the handler
// of all else, and to that the context tells what was asked.
func setApart(listener http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ws.IsWebSocketUpgrade(r) && slices.Contains(ws.Subprotocols(r), packets) {
			asked := r
			r = r.WithContext(context.WithValue(r.Context(), askedKey{}, asked))
			r.Header = r.Header.Clone()
			r.Header.Del("Upgrade")
		}
		listener.ServeHTTP(w, r)
	})
}

// askedKey is that of the request as it came.
type askedKey struct{}

// Upgrade answers what a listener is asked for but WebSockets of libp2p's. take gets
// the connections that peers open for direct paths, and closes them; it must not
// block. Everything else gets a 404.
func Upgrade(take func(*Direct)) http.Handler {
	u := ws.Upgrader{
		HandshakeTimeout: openTimeout, WriteBufferSize: writeBuffer, Subprotocols: []string{packets},
		Error: func(w http.ResponseWriter, r *http.Request, _ int, _ error) { http.NotFound(w, r) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, ok := r.Context().Value(askedKey{}).(*http.Request)
		if !ok || take == nil || r.TLS == nil || r.ContentLength != 0 {
			http.NotFound(w, r)
			return
		}
		sock, err := u.Upgrade(w, asked, nil)
		if err != nil {
			return // it was answered
		}
		s, ok := sock.NetConn().(*tls.Conn)
		if !ok {
			_ = sock.Close()
			return
		}
		take(newDirect(sock, s.NetConn(), ""))
	})
}

// Remote is the address at the other end: the proxy's, where there is one.
func (d *Direct) Remote() netip.AddrPort {
	a, err := netip.ParseAddrPort(d.tcp.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{} // never of TCP
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Proxy is the one that the connection goes through, "" when it goes straight.
func (d *Direct) Proxy() string { return d.via }

// Read implements io.Reader. How the stream is cut into messages means nothing; one
// of text, or of more than 1 MiB, ends it.
func (d *Direct) Read(b []byte) (int, error) { return d.read.Read(b) }

// Write implements io.Writer: what is written is one message.
func (d *Direct) Write(b []byte) (int, error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	if err := d.sock.WriteMessage(ws.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), d.pong()
}

// pinged answers a ping, which peers do not send but something between may: at once,
// or behind what is being written. Of several the last counts (RFC 6455, 5.5.3).
func (d *Direct) pinged(data string) error {
	d.ping.Store(&data)
	if !d.writing.TryLock() {
		return nil // to wait would keep the packets that follow
	}
	defer d.writing.Unlock()
	return d.pong()
}

// pong answers the last ping, if there is one. The caller holds d.writing.
func (d *Direct) pong() error {
	ping := d.ping.Swap(nil)
	if ping == nil {
		return nil
	}
	return d.sock.WriteControl(ws.PongMessage, []byte(*ping), time.Now().Add(pongTimeout))
}

// SyscallConn implements syscall.Conn: it is that of the TCP connection, which is
// out of reach where it was accepted.
func (d *Direct) SyscallConn() (syscall.RawConn, error) {
	c, ok := d.tcp.(syscall.Conn)
	if !ok {
		return nil, errNotTCP
	}
	return c.SyscallConn()
}

// SetWriteDeadline is when a Write to come fails that is not done. After it has
// passed nothing can be written any more.
func (d *Direct) SetWriteDeadline(t time.Time) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return d.sock.SetWriteDeadline(t)
}

// Close ends the connection without a farewell, which could block.
func (d *Direct) Close() error { return d.tcp.Close() }
