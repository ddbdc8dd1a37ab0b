package web

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/internal/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// greeter says a word to whoever connects, and nothing else.
func greeter(t *testing.T, word string) net.Listener {
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, word)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l
}

// startProxy knows a.invalid, which is at the address given.
func startProxy(t *testing.T, user, password, at string) string {
	t.Helper()
	l := listen(t)
	s := proxytest.Start(proxytest.Config{Listener: l, User: user, Password: password, Dial: func(ctx context.Context, address string) (net.Conn, error) {
		if address != "a.invalid:443" {
			return nil, fmt.Errorf("nobody is called %s", address)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", at)
	}})
	t.Cleanup(s.Close)
	return l.Addr().String()
}

func parsed(t *testing.T, text string) *Proxy {
	t.Helper()
	p, err := ParseProxy(text)
	require.NoError(t, err)
	return p
}

var named = ma.StringCast("/dns4/a.invalid/tcp/443/tls/sni/a.invalid/ws")

// PATH-31: both kinds of proxies, with and without a password, are given the
// name; what they say before the connection begins is all that is read of it.
func TestPATH31ProxyKinds(t *testing.T) {
	behind := greeter(t, "hello")
	open, locked := startProxy(t, "", "", behind.Addr().String()), startProxy(t, "me", "pass word", behind.Addr().String())
	for _, url := range []string{"http://" + open, "socks5://" + open, "socks5h://" + open, "http://me:pass%20word@" + locked, "socks5://me:pass%20word@" + locked} {
		d := NewDialer(parsed(t, url))
		c, err := d.dial(t.Context(), named)
		require.NoError(t, err, url)
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got), url)
		require.True(t, named.Equal(c.RemoteMultiaddr()))
		require.NotContains(t, d.Proxied(c.LocalMultiaddr()), "me")
		require.Equal(t, d.proxy.String(), d.Proxied(c.LocalMultiaddr()))
		require.NoError(t, c.Close())
		require.Empty(t, d.Proxied(c.LocalMultiaddr()))
	}
	for _, url := range []string{"http://" + locked, "socks5://" + locked, "http://me:wrong@" + locked, "socks5://me:wrong@" + locked} {
		_, err := NewDialer(parsed(t, url)).dial(t.Context(), named)
		require.ErrorIs(t, err, ErrProxyAuth, url)
		require.NotContains(t, err.Error(), "wrong@")
	}
	_, err := NewDialer(parsed(t, "http://"+open)).dial(t.Context(), ma.StringCast("/dns4/b.invalid/tcp/443"))
	require.ErrorContains(t, err, "502 Bad Gateway")
}

// PATH-31: where the straight way is open the proxy is not needed; where it is
// not, the error is of both.
func TestPATH31StraightFirst(t *testing.T) {
	straightOn, proxied := greeter(t, "straight"), greeter(t, "proxied")
	d := NewDialer(parsed(t, "http://"+startProxy(t, "", "", proxied.Addr().String())))
	a, err := manet.FromNetAddr(straightOn.Addr())
	require.NoError(t, err)
	c, err := d.dial(t.Context(), a)
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "straight", string(got))
	require.Empty(t, d.Proxied(c.LocalMultiaddr()))
	require.NoError(t, c.Close())

	require.NoError(t, straightOn.Close())
	_, err = d.dial(t.Context(), a)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.ErrorContains(t, err, "502 Bad Gateway")
}

// A proxy that says nothing, or never ends, is left in time.
func TestPATH31ProxyIsHostile(t *testing.T) {
	silent := listen(t)
	p := parsed(t, "http://"+silent.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := p.dial(ctx, "a.invalid:443")
	require.ErrorIs(t, err, context.DeadlineExceeded)

	endless := greeter(t, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X: y\r\n", maxAnswer))
	_, err = parsed(t, "http://"+endless.Addr().String()).dial(t.Context(), "a.invalid:443")
	require.Error(t, err)

	_, err = parsed(t, "socks5://"+greeter(t, "SSH-2.0-x\r\n").Addr().String()).dial(t.Context(), "a.invalid:443")
	require.Error(t, err)
}

func TestParseProxy(t *testing.T) {
	for text, want := range map[string]string{
		"http://proxy": "http://proxy:8080", "http://proxy:3128/": "http://proxy:3128", "socks5://10.0.0.1": "socks5://10.0.0.1:1080",
		"socks5h://u:p@[2001:db8::1]:9050": "socks5://[2001:db8::1]:9050", "http://u:p@proxy:1": "http://proxy:1",
	} {
		require.Equal(t, want, parsed(t, text).String())
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", parsed(t, text), parsed(t, text), parsed(t, text)), "u:p")
	}
	for _, text := range []string{
		"", "proxy:8080", "https://proxy", "ftp://proxy", "http://", "http://:8080", "http://proxy/path", "http://proxy?x", "http://proxy#x",
		"http://proxy:0", "http://proxy:65536", "http://proxy:x", "http://:p@proxy", "socks5://u@proxy", "http://u%3av:p@proxy",
		"http://u:secret@[proxy", "http://" + strings.Repeat("a", maxProxyURL), "socks5://u:" + strings.Repeat("a", 256) + "@proxy",
	} {
		_, err := ParseProxy(text)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "secret")
	}
}

// What a proxy answers is foreign: it is read to the end of its head, and no
// further, or refused.
func FuzzReadConnect(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 Connection established\r\n\r\nrest", "HTTP/1.0 200 OK\nA: b\n\nrest", "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n",
		"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "\x05\x00", "HTTP/2 200\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		err := readConnect(r)
		read := b[:len(b)-r.Len()]
		if len(read) > maxAnswer {
			t.Fatalf("%d bytes were read", len(read))
		}
		if err != nil {
			return
		}
		if !bytes.HasPrefix(read, []byte("HTTP/")) || !bytes.HasSuffix(read, []byte("\n")) {
			t.Fatalf("%q was taken", read)
		}
		if again := readConnect(bytes.NewReader(read)); again != nil {
			t.Fatal(again)
		}
	})
}

func FuzzParseProxy(f *testing.F) {
	for _, seed := range []string{"http://proxy:8080", "socks5://u:p@[::1]:1", "http://u%3a:p@x", "//x", "http://a b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseProxy(text)
		if err != nil {
			return
		}
		again, err := ParseProxy(p.String())
		if err != nil {
			t.Fatalf("%q became %q: %v", text, p, err)
		}
		if again.String() != p.String() || again.HasCredentials() {
			t.Fatalf("%q became %q", p, again)
		}
	})
}
