package transport_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ws "github.com/gorilla/websocket"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/internal/acmetest"
	"github.com/alkdev/alknet-p2p/internal/proxytest"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// webLoopback has all on one TCP port, as a relay has on 443.
var webLoopback = []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/tls/ws"}

// addrsWith are the addresses of a relay that hold a text, as a ticket.
func addrsWith(t *testing.T, relay *transport.Host, text string) *discovery.Ticket {
	t.Helper()
	ticket, err := relay.Ticket()
	require.NoError(t, err)
	var kept []ma.Multiaddr
	for _, a := range ticket.Addrs {
		if strings.Contains(a.String(), text) {
			kept = append(kept, a)
		}
	}
	require.NotEmpty(t, kept, "%v", ticket.Addrs)
	return &discovery.Ticket{Network: ticket.Network, Peer: ticket.Peer, Addrs: kept}
}

func portOf(t *testing.T, a ma.Multiaddr) string {
	t.Helper()
	port, err := a.ValueForProtocol(ma.P_TCP)
	require.NoError(t, err)
	return port
}

// PATH-31: a relay has a certificate without being given one, and peers do not
// mind who signed it; TCP and WebSocket share the port.
func TestPATH31SelfSignedRelay(t *testing.T) {
	relay := newHost(t, func(c *transport.Config) { c.Relay, c.Listen = &transport.RelayConfig{}, webLoopback })
	wss := addrsWith(t, relay, "/tls/ws")
	plain := addrsWith(t, relay, "/tcp/")
	require.Len(t, plain.Addrs, 2)
	require.Equal(t, portOf(t, plain.Addrs[0]), portOf(t, plain.Addrs[1]))

	a := newHost(t, func(c *transport.Config) { c.Join, c.Listen = []*discovery.Ticket{wss}, []string{} })
	b := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	require.NoError(t, b.Online(within(t, 10*time.Second)))
	echo(t, a, b)
	require.Contains(t, a.Status().Relays[0].Addr, "/tls/ws")
	require.NotContains(t, b.Status().Relays[0].Addr, "/ws", "TCP comes first where it gets through")
}

// PATH-31: whoever asks a relay for anything but a WebSocket is answered once, and
// briefly: no other page, no second request, no HTTP/2, no long headers.
func TestPATH31StrangersAtTheWebPort(t *testing.T) {
	relay := newHost(t, func(c *transport.Config) { c.Relay, c.Listen = &transport.RelayConfig{}, webLoopback })
	at := "127.0.0.1:" + portOf(t, addrsWith(t, relay, "/tls/ws").Addrs[0])
	ask := func(request string) string {
		c, err := tls.Dial("tcp", at, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, "http/1.1", c.ConnectionState().NegotiatedProtocol)
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, _ = io.WriteString(c, request) // answered before all of it is read, perhaps
		answer, err := io.ReadAll(c)
		if !errors.Is(err, syscall.ECONNRESET) {
			require.NoError(t, err, "the relay ends the connection")
		}
		return string(answer)
	}
	answer := ask("GET / HTTP/1.1\r\nHost: relay\r\n\r\nGET / HTTP/1.1\r\nHost: relay\r\n\r\n")
	require.Equal(t, 1, strings.Count(answer, "HTTP/1.1 404 Not Found"), answer)
	require.Contains(t, answer, "Connection: close")
	answer = ask("GET / HTTP/1.1\r\nHost: relay\r\nX-Long: " + strings.Repeat("x", 16<<10) + "\r\n\r\n")
	require.NotContains(t, answer, "404")
}

// PATH-14, PATH-20: whoever asks for a direct path, with any WebSocket client, has
// five seconds to prove to be a peer, and is rid of as soon as it ends, sends what is
// no packet, or the host closes. Nothing may come before it was answered.
func TestPATH14StrangersAskForDirectPaths(t *testing.T) {
	relay := newHost(t, func(c *transport.Config) { c.Relay, c.Listen = &transport.RelayConfig{}, webLoopback })
	at := "127.0.0.1:" + portOf(t, addrsWith(t, relay, "/tls/ws").Addrs[0])
	asTLS := &tls.Config{InsecureSkipVerify: true}
	ask := func(stream string) *ws.Conn {
		d := ws.Dialer{TLSClientConfig: asTLS, Subprotocols: []string{"chat", "alknet-packets-1"}}
		c, answer, err := d.Dial("wss://"+at+"/", nil)
		require.NoError(t, err)
		_ = answer.Body.Close()
		t.Cleanup(func() { _ = c.Close() })
		require.Equal(t, "alknet-packets-1", c.Subprotocol())
		kind, first, err := c.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, ws.BinaryMessage, kind)
		require.Equal(t, "\x01", string(first), "the version")
		if stream != "" {
			require.NoError(t, c.WriteMessage(ws.BinaryMessage, []byte(stream)))
		}
		return c
	}
	requireEnds := func(c *ws.Conn, after, within time.Duration) {
		t.Helper()
		began := time.Now()
		require.NoError(t, c.SetReadDeadline(began.Add(within)))
		_, _, err := c.ReadMessage()
		var timeout net.Error
		require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "%v", err)
		require.Error(t, err)
		require.GreaterOrEqual(t, time.Since(began), after)
	}
	requireEnds(ask(""), 4*time.Second, 9*time.Second)
	requireEnds(ask("\x01\x00\x01\x00"), 0, 3*time.Second)
	requireEnds(ask("\x02"), 0, 3*time.Second)
	half := ask("\x01")
	require.NoError(t, half.NetConn().(*tls.Conn).CloseWrite())
	requireEnds(half, 0, 3*time.Second)
	texts := ask("")
	require.NoError(t, texts.WriteMessage(ws.TextMessage, []byte("\x01")))
	requireEnds(texts, 0, 3*time.Second)

	early, err := tls.Dial("tcp", at, asTLS)
	require.NoError(t, err)
	t.Cleanup(func() { _ = early.Close() })
	_, err = io.WriteString(early, "GET / HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: alknet-packets-1\r\n\r\n\x82\x01\x00\x00\x00\x00\x01")
	require.NoError(t, err)
	require.NoError(t, early.SetReadDeadline(time.Now().Add(3*time.Second)))
	answer, err := io.ReadAll(early)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Empty(t, string(answer))

	held := ask("")
	began := time.Now()
	require.NoError(t, relay.Close())
	requireEnds(held, 0, 3*time.Second)
	require.Less(t, time.Since(began), 3*time.Second)
}

// PATH-31: an ACME authority gives a relay its certificate over the very port
// that peers come in by.
func TestPATH31RelayGetsItsCertificate(t *testing.T) {
	const domain = "relay.example.org"
	var at atomic.Value // where the domain is
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ca, err := acmetest.Start(acmetest.Config{Listener: l, Dial: func(ctx context.Context, name string) (net.Conn, error) {
		require.Equal(t, domain, name)
		return new(net.Dialer).DialContext(ctx, "tcp", at.Load().(string))
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ca.Close()) })
	roots := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(roots, ca.Root(), 0o600))
	cache := t.TempDir()

	// Its port must be known before it asks: the one it had is free again.
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	at.Store(probe.Addr().String())
	_, port, err := net.SplitHostPort(probe.Addr().String())
	require.NoError(t, err)
	require.NoError(t, probe.Close())
	withDomain := func(c *transport.Config) {
		c.Listen = []string{"/ip4/127.0.0.1/tcp/" + port, "/ip4/127.0.0.1/tcp/" + port + "/tls/ws"}
		c.Relay = &transport.RelayConfig{Domain: domain, ACMEDirectory: ca.Directory(), ACMERoots: roots}
		c.CacheDir = cache
	}
	relay := newHost(t, withDomain)
	named := addrsWith(t, relay, "/dns4/")
	require.Equal(t, "/dns4/"+domain+"/tcp/"+port+"/tls/sni/"+domain+"/ws", named.Addrs[0].String())

	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(ca.Root()))
	verified := func() error {
		c, err := tls.Dial("tcp", at.Load().(string), &tls.Config{ServerName: domain, RootCAs: pool, NextProtos: []string{"http/1.1"}})
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	require.Eventually(t, func() bool { return verified() == nil }, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, 1, ca.Issued())

	// A stranger who asks for another name gets none signed for him.
	c, err := tls.Dial("tcp", at.Load().(string), &tls.Config{ServerName: "other.example.org", InsecureSkipVerify: true})
	require.NoError(t, err)
	require.Empty(t, c.ConnectionState().PeerCertificates[0].Issuer.CommonName)
	_ = c.Close()
	require.Equal(t, 1, ca.Issued())

	// It is kept: nothing is asked for at the next start.
	require.NoError(t, relay.Close())
	newHost(t, withDomain)
	require.Eventually(t, func() bool { return verified() == nil }, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, 1, ca.Issued())
	info, err := os.Stat(filepath.Join(cache, "tls", domain))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

// PATH-31: a node whose network has no way out but a proxy finds its relay by
// name through it, and calls go on as ever.
func TestPATH31ThroughProxy(t *testing.T) {
	relay := newHost(t, func(c *transport.Config) { c.Relay, c.Listen = &transport.RelayConfig{}, webLoopback })
	wss := addrsWith(t, relay, "/tls/ws")
	port := portOf(t, wss.Addrs[0])
	const domain = "relay.invalid" // nobody but the proxy knows where
	var asked atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := proxytest.Start(proxytest.Config{Listener: l, User: "me", Password: "secret", Dial: func(ctx context.Context, address string) (net.Conn, error) {
		asked.Add(1)
		if address != domain+":"+port {
			return nil, fmt.Errorf("asked for %s", address)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
	}})
	t.Cleanup(server.Close)
	proxy := l.Addr().String()
	named := &discovery.Ticket{Network: wss.Network, Peer: wss.Peer, Addrs: []ma.Multiaddr{
		ma.StringCast("/dns4/" + domain + "/tcp/" + port + "/tls/sni/" + domain + "/ws"),
	}}
	a := newHost(t, func(c *transport.Config) {
		c.Join, c.Listen, c.Proxy = []*discovery.Ticket{named}, []string{}, "http://me:secret@"+proxy
	})
	b := newHost(t, joining(t, relay))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	require.NoError(t, b.Online(within(t, 10*time.Second)))
	echo(t, a, b)
	link := a.Status().Relays[0]
	require.Equal(t, named.Addrs[0].String(), link.Addr)
	require.Equal(t, "http://"+proxy, link.Proxy, "where it is, without the password")
	require.Empty(t, b.Status().Relays[0].Proxy)
	require.Positive(t, asked.Load())

	// PATH-34: doctor looks at the proxy as well, and does not tell its password.
	checks, err := a.Doctor(t.Context(), transport.DoctorOptions{})
	require.NoError(t, err)
	checked := map[string]transport.Check{}
	for _, c := range checks {
		require.NotContains(t, fmt.Sprint(c), "secret")
		checked[c.Name] = c
	}
	require.True(t, checked["proxy"].OK, "%+v", checked["proxy"])
	require.Contains(t, checked["proxy"].Detail, proxy)
	require.True(t, checked["dns"].OK, "%+v", checked["dns"])
	server.Close()
	checks, err = a.Doctor(t.Context(), transport.DoctorOptions{})
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(checks, func(c transport.Check) bool {
		return c.Name == "proxy" && !c.OK && strings.Contains(c.Cause, "the proxy does not answer")
	}), "%+v", checks)
}

// PATH-31: what cannot be is said before anything starts, without the password.
func TestPATH31ConfigIsChecked(t *testing.T) {
	for text, change := range map[string]func(*transport.Config){
		"other kinds of proxies":        func(c *transport.Config) { c.Proxy = "https://me:secret@proxy" },
		"no URL":                        func(c *transport.Config) { c.Proxy = "http://me:secret@[proxy" },
		"is no domain":                  func(c *transport.Config) { c.Relay = &transport.RelayConfig{Domain: "localhost"} },
		"nothing to use it on":          func(c *transport.Config) { c.Relay = &transport.RelayConfig{Domain: "a.example"} },
		"file of its private key":       func(c *transport.Config) { c.Relay = &transport.RelayConfig{CertFile: "x"} },
		"there is no file /nonexistent": func(c *transport.Config) { c.Relay = &transport.RelayConfig{CertFile: "/nonexistent", KeyFile: "x"} },
		"no https URL": func(c *transport.Config) {
			c.Relay = &transport.RelayConfig{Domain: "a.example", ACMEDirectory: "http://ca"}
		},
		"for a domain": func(c *transport.Config) { c.Relay = &transport.RelayConfig{ACMEDirectory: "https://ca"} },
		"not from both": func(c *transport.Config) {
			c.Relay = &transport.RelayConfig{Domain: "a.example", ACMEDirectory: "https://ca", CertFile: "x", KeyFile: "y"}
		},
		"no certificate ": func(c *transport.Config) {
			c.Relay = &transport.RelayConfig{Domain: "a.example", ACMEDirectory: "https://ca", ACMERoots: "web443_test.go"}
		},
	} {
		cfg := transport.Config{Key: make([]byte, 64), Listen: loopback, Logger: slog.New(slog.DiscardHandler)}
		change(&cfg)
		_, err := transport.New(cfg)
		require.ErrorContains(t, err, text)
		require.NotContains(t, err.Error(), "secret")
	}
}

// PATH-31: the domain is one address more, and takes the place of none.
func TestPATH31DomainIsOneAddressMore(t *testing.T) {
	addrs := func(domain string) (out []string) {
		relay := newHost(t, func(c *transport.Config) {
			c.Listen = append(slices.Clone(webLoopback), "/ip4/127.0.0.1/udp/0/quic-v1")
			c.Relay = &transport.RelayConfig{Domain: domain}
			if domain != "" {
				c.Relay.ACMEDirectory = "https://127.0.0.1:1/nobody"
			}
		})
		ticket, err := relay.Ticket()
		require.NoError(t, err)
		for _, a := range ticket.Addrs {
			text := a.String()
			for _, c := range a {
				if c.Protocol().Code == ma.P_TCP || c.Protocol().Code == ma.P_UDP {
					text = strings.Replace(text, "/"+c.Value(), "/N", 1)
				}
			}
			out = append(out, text)
		}
		return out
	}
	require.Equal(t, []string{"/ip4/127.0.0.1/tcp/N", "/ip4/127.0.0.1/udp/N/quic-v1", "/ip4/127.0.0.1/tcp/N/tls/ws"}, addrs(""))
	require.Equal(t, []string{
		"/ip4/127.0.0.1/tcp/N", "/ip4/127.0.0.1/udp/N/quic-v1", "/dns4/a.example/tcp/N/tls/sni/a.example/ws", "/ip4/127.0.0.1/tcp/N/tls/ws",
	}, addrs("a.example"))
}
