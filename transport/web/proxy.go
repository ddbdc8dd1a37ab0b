package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// ErrProxyAuth: the proxy wants a user name and password, or others than it was
// given.
var ErrProxyAuth = errors.New("the proxy wants a user name and a password, or others than these: give them in the configuration, proxy = \"http://user:password@host:port\"")

const (
	// maxAnswer bounds what a proxy, or a peer's web server, may say before the
	// connection begins.
	maxAnswer = 16 << 10
	// maxProxyURL bounds what names a proxy, in bytes.
	maxProxyURL = 1024
	// maxCredential is what SOCKS5 has room for (RFC 1929).
	maxCredential = 255
)

// Proxy is an HTTP proxy that knows CONNECT (RFC 9110), or a SOCKS5 proxy (RFC
// 1928). Names are given to it as they are, for it to resolve. String tells
// where it is, without the password.
type Proxy struct {
	socks    bool
	address  string // host and port
	user     string
	password string
}

// ParseProxy reads http://[user:password@]host[:port] or socks5://…; the ports
// are 8080 and 1080 unless given. socks5h is another word for socks5. No error
// repeats the text, which may hold a password.
func ParseProxy(text string) (*Proxy, error) {
	if len(text) > maxProxyURL {
		return nil, fmt.Errorf("proxy: longer than %d bytes", maxProxyURL)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("proxy: this is no URL; want http://host:port or socks5://host:port")
	}
	p := &Proxy{}
	port := u.Port()
	switch u.Scheme {
	case "http":
		if port == "" {
			port = "8080"
		}
	case "socks5", "socks5h":
		p.socks = true
		if port == "" {
			port = "1080"
		}
	default:
		return nil, errors.New("proxy: want http://host:port or socks5://host:port; other kinds of proxies are not known")
	}
	if u.Hostname() == "" || u.Opaque != "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("proxy: want a host and a port and nothing behind them, as in http://proxy.example:8080")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errors.New("proxy: the port is no number from 1 to 65535")
	}
	p.address = net.JoinHostPort(u.Hostname(), port)
	if u.User != nil {
		p.user = u.User.Username()
		p.password, _ = u.User.Password()
		switch {
		case p.user == "", len(p.user) > maxCredential, len(p.password) > maxCredential, p.socks && p.password == "":
			return nil, errors.New("proxy: user name and password have 1 to 255 bytes each")
		case !p.socks && strings.ContainsRune(p.user, ':'):
			return nil, errors.New("proxy: a user name for HTTP has no colon")
		}
	}
	return p, nil
}

// HasCredentials tells that a user name was given.
func (p *Proxy) HasCredentials() bool { return p.user != "" }

// String is the proxy's URL without user and password.
func (p *Proxy) String() string {
	if p.socks {
		return "socks5://" + p.address
	}
	return "http://" + p.address
}

// GoString hides the password from %#v.
func (p *Proxy) GoString() string { return p.String() }

// dial opens a connection to a host and port through the proxy.
func (p *Proxy) dial(ctx context.Context, address string) (*net.TCPConn, error) {
	c, err := straight(ctx, "tcp", p.address)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", p, err)
	}
	// Whatever the proxy does, it has until ctx ends and no longer.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	ask := p.connect
	if p.socks {
		ask = p.socks5
	}
	err = ask(ctx, c, address)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("to %s through proxy %s: %w", address, p, err)
	}
	return c, nil
}

// connect asks an HTTP proxy. Nothing is read beyond its answer: what follows is
// the other side's.
func (p *Proxy) connect(ctx context.Context, c net.Conn, address string) error {
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	r.Header.Set("User-Agent", "") // none
	if p.user != "" {
		r.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(p.user+":"+p.password)))
	}
	if err := r.WithContext(ctx).Write(c); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	return readConnect(c)
}

// readConnect reads an answer to CONNECT, and not a byte more.
func readConnect(c io.Reader) error {
	head, err := readHead(c)
	if err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return errors.New("its answer is not HTTP")
	}
	_ = answer.Body.Close() // of CONNECT there is none
	switch {
	case answer.StatusCode == http.StatusProxyAuthRequired:
		return ErrProxyAuth
	case answer.StatusCode/100 != 2:
		return fmt.Errorf("it answered %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	return nil
}

// readHead reads the head of an answer of HTTP, with the empty line at its end.
func readHead(c io.Reader) ([]byte, error) {
	var head []byte
	var one [1]byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) && !bytes.HasSuffix(head, []byte("\n\n")) {
		if len(head) == maxAnswer {
			return nil, fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
		}
		if _, err := io.ReadFull(c, one[:]); err != nil {
			return nil, fmt.Errorf("its answer: %w", err)
		}
		head = append(head, one[0])
	}
	return head, nil
}

// socks5 asks a SOCKS5 proxy.
func (p *Proxy) socks5(ctx context.Context, c net.Conn, address string) error {
	var auth *proxy.Auth
	if p.user != "" {
		auth = &proxy.Auth{User: p.user, Password: p.password}
	}
	d, err := proxy.SOCKS5("tcp", p.address, auth, nil)
	if err != nil {
		return err
	}
	on, ok := d.(interface {
		DialWithConn(ctx context.Context, c net.Conn, network, address string) (net.Addr, error)
	})
	if !ok {
		return errors.New("internal error: golang.org/x/net/proxy asks on no connection of ours")
	}
	if _, err := on.DialWithConn(ctx, c, "tcp", address); err != nil {
		if text := err.Error(); strings.Contains(text, "authentication") {
			return ErrProxyAuth
		}
		return err
	}
	return c.SetDeadline(time.Time{})
}
