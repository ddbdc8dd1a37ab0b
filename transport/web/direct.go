package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
)

// packets is what a connection below TLS is asked to become, in HTTP's header
// Upgrade: the stream of ../magic/tcp/SPEC.md.
const packets = "alknet-packets/1"

// Direct is a connection for a direct path: TLS, and HTTP up to where the packets
// begin (PATH-20, PATH-31). Nobody's key is proven on it: the packets do that.
// Read and Write may run beside each other, and Close beside both.
type Direct struct {
	tls  *tls.Conn
	read io.Reader // what came with the head of the request, then the connection
	via  string    // the proxy; "" for none
}

var _ syscall.Conn = (*Direct)(nil)

// Direct opens a connection to a peer's port that Upgrade serves, straight or
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
	s := tls.Client(c, clientTLS(""))
	err = ask(ctx, s, to.String())
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s: %w", to, err)
	}
	return &Direct{tls: s, read: s, via: d.Proxied(c.local)}, nil
}

// ask makes the peer's web server hand the connection over.
func ask(ctx context.Context, s *tls.Conn, host string) error {
	if err := s.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", noPeer(err))
	}
	if _, err := fmt.Fprintf(s, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", host, packets); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	return readUpgrade(s)
}

// ErrNoPeer: something answers there, and it is not a peer that takes direct
// paths.
var ErrNoPeer = errors.New("no peer takes direct paths there")

// noPeer adds that to an error of TLS which the other end has caused by what it
// said. One that says nothing may be a peer that ends, or is out of reach.
func noPeer(err error) error {
	var (
		notTLS tls.RecordHeaderError
		alert  *net.OpError
	)
	if errors.As(err, &notTLS) || errors.As(err, &alert) && alert.Op == "remote error" {
		return fmt.Errorf("%w: %w", err, ErrNoPeer)
	}
	return err
}

// readUpgrade reads the answer, and not a byte more.
func readUpgrade(c io.Reader) error {
	head, err := readHead(c)
	if err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		return fmt.Errorf("its answer is not HTTP: %w", ErrNoPeer)
	}
	_ = answer.Body.Close() // none, or in vain
	if answer.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(answer.Header.Get("Upgrade"), packets) {
		return fmt.Errorf("it answered %d %s: %w", answer.StatusCode, http.StatusText(answer.StatusCode), ErrNoPeer)
	}
	return nil
}

// Upgrade answers what a listener is asked but a WebSocket. take gets the
// connections that peers open for direct paths, and closes them; it must not
// block. Everything else gets a 404.
func Upgrade(take func(*Direct)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if take == nil || r.TLS == nil || r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ContentLength != 0 ||
			!strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") || !strings.EqualFold(r.Header.Get("Upgrade"), packets) {
			http.NotFound(w, r)
			return
		}
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.NotFound(w, r)
			return
		}
		s, ok := c.(*tls.Conn)
		if !ok {
			_ = c.Close()
			return
		}
		d := &Direct{tls: s, read: buf.Reader}
		_ = s.SetDeadline(time.Now().Add(openTimeout))
		if _, err := fmt.Fprintf(s, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", packets); err != nil {
			_ = d.Close()
			return
		}
		_ = s.SetDeadline(time.Time{})
		take(d)
	})
}

// Remote is the address at the other end: the proxy's, where there is one.
func (d *Direct) Remote() netip.AddrPort {
	a, err := netip.ParseAddrPort(d.tls.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{} // never of TCP
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Proxy is the one that the connection goes through, "" when it goes straight.
func (d *Direct) Proxy() string { return d.via }

// Read implements io.Reader.
func (d *Direct) Read(b []byte) (int, error) { return d.read.Read(b) }

// Write implements io.Writer.
func (d *Direct) Write(b []byte) (int, error) { return d.tls.Write(b) }

// SyscallConn implements syscall.Conn: it is that of the TCP connection, which is
// out of reach where it was accepted.
func (d *Direct) SyscallConn() (syscall.RawConn, error) {
	c, ok := d.tls.NetConn().(syscall.Conn)
	if !ok {
		return nil, errNotTCP
	}
	return c.SyscallConn()
}

// SetWriteDeadline is when a Write fails that is not done. After it has passed
// nothing can be written any more.
func (d *Direct) SetWriteDeadline(t time.Time) error { return d.tls.SetWriteDeadline(t) }

// Close ends the connection without a farewell of TLS, which could block.
func (d *Direct) Close() error { return d.tls.NetConn().Close() }
