// Package proxytest is a proxy for tests: HTTP CONNECT (RFC 9110) and SOCKS5
// (RFC 1928, 1929) on one port.
package proxytest

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const askTimeout = 10 * time.Second

// Config of a Server.
type Config struct {
	// Listener is where the proxy is asked; Close closes it.
	Listener net.Listener
	// Dial connects to a host, often a name, and port.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// User and Password are asked for unless empty.
	User, Password string
}

// Server is a running proxy.
type Server struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Start runs a proxy until Close.
func Start(cfg Config) *Server {
	s := &Server{cfg: cfg}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(func() {
		for {
			c, err := cfg.Listener.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(c) })
		}
	})
	return s
}

// Close ends the proxy and all connections through it, and returns after the
// last goroutine.
func (s *Server) Close() {
	s.cancel()
	_ = s.cfg.Listener.Close()
	s.wg.Wait()
}

func (s *Server) serve(c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(s.ctx, func() { _ = c.Close() })()
	_ = c.SetDeadline(time.Now().Add(askTimeout))
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	if err != nil {
		return
	}
	ask := s.connect
	if first[0] == 5 {
		ask = s.socks
	}
	out, err := ask(c, r)
	if err != nil {
		return
	}
	defer out.Close()
	defer context.AfterFunc(s.ctx, func() { _ = out.Close() })()
	_ = c.SetDeadline(time.Time{})
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(out, r)
		_ = out.Close()
	})
	_, _ = io.Copy(c, out)
	_ = c.Close()
	both.Wait()
}

func (s *Server) dial(address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, askTimeout)
	defer cancel()
	return s.cfg.Dial(ctx, address)
}

func (s *Server) connect(c net.Conn, r *bufio.Reader) (net.Conn, error) {
	q, err := http.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	say := func(status int) {
		_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", status, http.StatusText(status))
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(s.cfg.User+":"+s.cfg.Password))
	switch {
	case q.Method != http.MethodConnect:
		say(http.StatusMethodNotAllowed)
		return nil, errors.New("not CONNECT")
	case s.cfg.User != "" && q.Header.Get("Proxy-Authorization") != want:
		say(http.StatusProxyAuthRequired)
		return nil, errors.New("wrong password")
	}
	out, err := s.dial(q.Host)
	if err != nil {
		say(http.StatusBadGateway)
		return nil, err
	}
	_, err = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	return out, err
}

func (s *Server) socks(c net.Conn, r *bufio.Reader) (net.Conn, error) {
	methods, err := s.block(r, 1)
	if err != nil {
		return nil, err
	}
	method := byte(0)
	if s.cfg.User != "" {
		method = 2
	}
	if !slices.Contains(methods, method) {
		_, _ = c.Write([]byte{5, 0xff})
		return nil, errors.New("no method")
	}
	if _, err := c.Write([]byte{5, method}); err != nil {
		return nil, err
	}
	if method == 2 {
		user, err := s.block(r, 1)
		if err != nil {
			return nil, err
		}
		password, err := s.block(r, 0)
		if err != nil {
			return nil, err
		}
		if string(user) != s.cfg.User || string(password) != s.cfg.Password {
			_, _ = c.Write([]byte{1, 1})
			return nil, errors.New("wrong password")
		}
		if _, err := c.Write([]byte{1, 0}); err != nil {
			return nil, err
		}
	}
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	var host string
	switch head[3] {
	case 3:
		name, err := s.block(r, 0)
		if err != nil {
			return nil, err
		}
		host = string(name)
	case 1, 4:
		ip := make(net.IP, 4)
		if head[3] == 4 {
			ip = make(net.IP, 16)
		}
		if _, err := io.ReadFull(r, ip); err != nil {
			return nil, err
		}
		host = ip.String()
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return nil, err
	}
	out, err := s.dial(net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))))
	answer := []byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	if err != nil {
		answer[1] = 5 // refused
	}
	_, _ = c.Write(answer)
	return out, err
}

// block reads skip bytes, then a length byte and as many more.
func (s *Server) block(r *bufio.Reader, skip int) ([]byte, error) {
	head := make([]byte, skip+1)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	b := make([]byte, head[skip])
	_, err := io.ReadFull(r, b)
	return b, err
}
