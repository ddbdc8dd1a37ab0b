package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

const (
	// proxyAfter is how long the straight way is tried alone. One that is
	// blocked answers with nothing, as a rule, for a minute or two.
	proxyAfter = 300 * time.Millisecond
	// connectTimeout is how long one connection may take, by whichever way.
	connectTimeout = 5 * time.Second
)

// Dialer opens TCP connections: straight, and beside that, soon or at once where
// the straight way is refused, through a proxy if there is one. Whichever is
// there first is used. It is safe for concurrent use.
type Dialer struct {
	proxy *Proxy

	mu      sync.Mutex
	proxied map[string]int // local address and port, of those that are open
}

// NewDialer makes a Dialer; proxy may be nil.
func NewDialer(proxy *Proxy) *Dialer { return &Dialer{proxy: proxy, proxied: map[string]int{}} }

// Proxied tells which proxy a connection goes through, by its local address; ""
// when it goes straight.
func (d *Dialer) Proxied(local ma.Multiaddr) string {
	if len(local) < 2 {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proxied[local[:2].String()] == 0 {
		return ""
	}
	return d.proxy.String()
}

// TryProxy opens a connection to the TCP port an address begins with through the
// proxy alone, and closes it again. It names the proxy, "" when there is none.
func (d *Dialer) TryProxy(ctx context.Context, a ma.Multiaddr) (proxy string, err error) {
	if d.proxy == nil {
		return "", nil
	}
	_, address, err := endpoint(a)
	if err != nil {
		return d.proxy.String(), err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := d.proxy.dial(ctx, address)
	if err != nil {
		return d.proxy.String(), err
	}
	return d.proxy.String(), c.Close()
}

// dial opens a connection to the TCP port an address begins with.
func (d *Dialer) dial(ctx context.Context, a ma.Multiaddr) (*conn, error) {
	tcpNetwork, address, err := endpoint(a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	tcp, proxied, err := d.race(ctx, tcpNetwork, address)
	if err != nil {
		return nil, err
	}
	c, err := newConn(tcp, a, proxied)
	if err != nil {
		_ = tcp.Close()
		return nil, err
	}
	if proxied {
		key := c.local[:2].String()
		d.mu.Lock()
		d.proxied[key]++
		d.mu.Unlock()
		c.done = sync.OnceFunc(func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.proxied[key]--; d.proxied[key] <= 0 {
				delete(d.proxied, key)
			}
		})
	}
	return c, nil
}

// race opens a connection by both ways. It returns when one is open or all have
// failed, and after both have ended.
func (d *Dialer) race(ctx context.Context, tcpNetwork, address string) (c *net.TCPConn, proxied bool, err error) {
	if d.proxy == nil {
		c, err = straight(ctx, tcpNetwork, address)
		return c, false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c       *net.TCPConn
		proxied bool
		err     error
	}
	results := make(chan result, 2)
	refused := make(chan struct{})
	go func() {
		c, err := straight(ctx, tcpNetwork, address)
		if err != nil {
			close(refused)
		}
		results <- result{c, false, err}
	}()
	go func() {
		wait := time.NewTimer(proxyAfter)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-refused:
		case <-ctx.Done():
			results <- result{nil, true, context.Cause(ctx)}
			return
		}
		c, err := d.proxy.dial(ctx, address)
		results <- result{c, true, err}
	}()
	var errs []error
	for range 2 {
		switch r := <-results; {
		case r.err != nil:
			errs = append(errs, r.err)
		case c != nil: // the other was first
			_ = r.c.Close()
		default:
			c, proxied = r.c, r.proxied
			cancel()
		}
	}
	if c != nil {
		return c, proxied, nil
	}
	return nil, false, errors.Join(errs...)
}

func straight(ctx context.Context, tcpNetwork, address string) (*net.TCPConn, error) {
	c, err := new(net.Dialer).DialContext(ctx, tcpNetwork, address)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("dial %s: %w", address, errNotTCP)
	}
	return tcp, nil
}
