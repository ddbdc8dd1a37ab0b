package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/internal/proxytest"
)

// webServer serves TLS as a peer's port 443 does.
func webServer(t *testing.T, h http.Handler) netip.AddrPort {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	bindServer(s.Config)
	certs, err := NewCertificates(CertificateConfig{})
	require.NoError(t, err)
	s.TLS = certs.TLS()
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// taking is a peer's port 443, and what it was given.
func taking(t *testing.T) (netip.AddrPort, <-chan *Direct) {
	t.Helper()
	got := make(chan *Direct, 1)
	return webServer(t, Upgrade(func(d *Direct) { got <- d })), got
}

// within is a context that ends in time for a test to say why.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// requireCarries sends a text each way, then closes one end and waits for the other.
func requireCarries(t *testing.T, a, b *Direct) {
	t.Helper()
	for _, ends := range [][2]*Direct{{a, b}, {b, a}} {
		_, err := ends[0].Write([]byte("packet"))
		require.NoError(t, err)
		buf := make([]byte, 6)
		_, err = io.ReadFull(ends[1], buf)
		require.NoError(t, err)
		require.Equal(t, "packet", string(buf))
	}
	require.NoError(t, a.Close())
	_, err := b.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = a.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
	_ = b.Close()
}

// PATH-20: what is asked for as a direct path becomes a stream of bytes, each way,
// and stays one after the time that requests have.
func TestPATH20DirectIsHandedOver(t *testing.T) {
	to, got := taking(t)
	a, err := NewDialer(nil).Direct(within(t, 10*time.Second), to)
	require.NoError(t, err)
	b := <-got
	require.Empty(t, a.Proxy())
	require.Equal(t, to, a.Remote())
	require.True(t, b.Remote().Addr().IsLoopback())
	_, err = a.SyscallConn()
	require.NoError(t, err)
	requireCarries(t, a, b)
}

// PATH-31: through a proxy as well, where the straight way is blocked.
func TestPATH31DirectThroughProxy(t *testing.T) {
	to, got := taking(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	hidden := netip.MustParseAddrPort(free.Addr().String()) // nobody is there any more
	require.NoError(t, free.Close())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	proxy := proxytest.Start(proxytest.Config{Listener: l, Dial: func(ctx context.Context, address string) (net.Conn, error) {
		if address != hidden.String() {
			return nil, errors.New("another address")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", to.String())
	}})
	t.Cleanup(proxy.Close)
	p, err := ParseProxy("http://" + l.Addr().String())
	require.NoError(t, err)
	a, err := NewDialer(p).Direct(within(t, 10*time.Second), hidden)
	require.NoError(t, err)
	require.Equal(t, p.String(), a.Proxy())
	requireCarries(t, a, <-got)
}

// PATH-14: a web server that is no peer's is asked once, and told nothing; one
// that says nothing, or too much, is given up.
func TestPATH14WebServersOfOthers(t *testing.T) {
	var asked atomic.Int32
	other := webServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, strings.Repeat("a page", 1000))
	}))
	_, err := NewDialer(nil).Direct(within(t, 10*time.Second), other)
	require.ErrorIs(t, err, ErrNoPeer)
	require.EqualValues(t, 1, asked.Load())
	_, err = NewDialer(nil).Direct(within(t, 10*time.Second), webServer(t, Upgrade(nil)))
	require.ErrorIs(t, err, ErrNoPeer)

	for said, want := range map[string]bool{"SSH-2.0-x\r\n": true, "\x15\x03\x01\x00\x02\x02\x28": true, "": false} { // an alert of TLS; a peer that just ends
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = c.Read(make([]byte, 1<<10))
				_, _ = io.WriteString(c, said)
				_ = c.Close()
			}
		}()
		_, err = NewDialer(nil).Direct(within(t, 10*time.Second), netip.MustParseAddrPort(l.Addr().String()))
		require.Error(t, err)
		require.Equal(t, want, errors.Is(err, ErrNoPeer), "%q: %v", said, err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and no more
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	_, err = NewDialer(nil).Direct(within(t, 100*time.Millisecond), netip.MustParseAddrPort(l.Addr().String()))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// PATH-31: everything but a request for a direct path below TLS gets a 404.
func TestPATH31OtherRequestsAreNotTaken(t *testing.T) {
	h := Upgrade(func(*Direct) { t.Error("taken") })
	plain := httptest.NewServer(h)
	t.Cleanup(plain.Close)
	for name, change := range map[string]func(*http.Request){
		"not below TLS":    func(*http.Request) {},
		"another protocol": func(r *http.Request) { r.Header.Set("Upgrade", "alknet-packets/2") },
		"no upgrade":       func(r *http.Request) { r.Header.Del("Connection") },
		"another method":   func(r *http.Request) { r.Method = http.MethodPost },
	} {
		url := plain.URL
		if name != "not below TLS" {
			url = "https://" + webServer(t, h).String()
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		require.NoError(t, err)
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", packets)
		change(r)
		client := http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(""), DisableKeepAlives: true}}
		answer, err := client.Do(r)
		require.NoError(t, err, name)
		_ = answer.Body.Close()
		require.Equal(t, http.StatusNotFound, answer.StatusCode, name)
	}
}

// What a server answers is read to the end of its head and not beyond, is bounded,
// and is taken only if it says that it hands the connection over.
func FuzzReadUpgrade(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: alknet-packets/1\r\n\r\n\x01\x00\x01a",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
		"HTTP/1.1 101\n\n", "SSH-2.0-x\r\n\r\n", strings.Repeat("x", maxAnswer+1), "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		err := readUpgrade(r)
		read := b[:len(b)-r.Len()]
		require.LessOrEqual(t, len(read), maxAnswer)
		end := max(bytes.Index(b, []byte("\n\n")), bytes.Index(b, []byte("\r\n\r\n")))
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, end, 0)
		require.True(t, bytes.HasSuffix(read, []byte("\n\n")) || bytes.HasSuffix(read, []byte("\r\n\r\n")))
		require.Contains(t, strings.ToLower(string(read)), packets)
		require.Contains(t, string(read), "101")
	})
}
