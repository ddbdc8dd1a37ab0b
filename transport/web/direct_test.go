package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ws "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

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

// PATH-31: everything but a request for a direct path below TLS gets a 404: no
// WebSocket, one that is not well asked for, by a page of another site, or for
// something else, which is libp2p's.
func TestPATH31OtherRequestsAreNotTaken(t *testing.T) {
	h := Upgrade(func(*Direct) { t.Error("taken") })
	plain := httptest.NewUnstartedServer(h)
	bindServer(plain.Config)
	plain.Start()
	t.Cleanup(plain.Close)
	for name, change := range map[string]func(*http.Request){
		"not below TLS":    func(*http.Request) {},
		"another protocol": func(r *http.Request) { r.Header.Set("Sec-WebSocket-Protocol", "alknet-packets-2") },
		"no protocol":      func(r *http.Request) { r.Header.Del("Sec-WebSocket-Protocol") },
		"no WebSocket":     func(r *http.Request) { r.Header.Set("Upgrade", packets) },
		"no upgrade":       func(r *http.Request) { r.Header.Del("Connection") },
		"another method":   func(r *http.Request) { r.Method = http.MethodPost },
		"a body":           func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1 },
		"another version":  func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "12") },
		"no key":           func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "abc") },
		"another origin":   func(r *http.Request) { r.Header.Set("Origin", "https://example.org") },
	} {
		url := plain.URL
		if name != "not below TLS" {
			url = "https://" + webServer(t, h).String()
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		require.NoError(t, err)
		for k, v := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
			"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": packets,
		} {
			r.Header.Set(k, v)
		}
		change(r)
		client := http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(""), DisableKeepAlives: true}}
		answer, err := client.Do(r)
		require.NoError(t, err, name)
		_ = answer.Body.Close()
		require.Equal(t, http.StatusNotFound, answer.StatusCode, name)
	}
}

// PATH-20: another make of WebSocket speaks the stream, at either end.
func TestPATH20OtherMakesOfWebSocket(t *testing.T) {
	to, got := taking(t)
	cfg, err := websocket.NewConfig("wss://"+to.String()+"/", "https://"+to.String())
	require.NoError(t, err)
	cfg.TlsConfig, cfg.Protocol = clientTLS(""), []string{"chat", packets}
	client, err := cfg.DialContext(within(t, 10*time.Second))
	require.NoError(t, err)
	requireStreams(t, client, <-got)

	end := make(chan struct{})
	taken := make(chan *websocket.Conn, 1)
	server := httptest.NewTLSServer(websocket.Server{
		Handshake: func(c *websocket.Config, r *http.Request) error {
			require.Equal(t, []string{packets}, c.Protocol)
			require.Empty(t, r.UserAgent())
			return nil
		},
		Handler: func(c *websocket.Conn) {
			taken <- c
			<-end
		},
	})
	t.Cleanup(server.Close)
	defer close(end)
	d, err := NewDialer(nil).Direct(within(t, 10*time.Second), netip.MustParseAddrPort(server.Listener.Addr().String()))
	require.NoError(t, err)
	requireStreams(t, <-taken, d)
}

// PATH-20: the vector.
func TestPATH20VectorOfWebSocket(t *testing.T) {
	var v struct {
		Request      string   `json:"request"`
		Answer       string   `json:"answer"`
		Client       []string `json:"client"`
		ClientStream string   `json:"client_stream"`
		Server       []string `json:"server"`
		ServerStream string   `json:"server_stream"`
	}
	b, err := os.ReadFile("testdata/websocket.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &v))
	unhex := func(parts ...string) []byte {
		b, err := hex.DecodeString(strings.Join(parts, ""))
		require.NoError(t, err)
		return b
	}
	to, got := taking(t)
	c, err := tls.Dial("tcp", to.String(), clientTLS(""))
	require.NoError(t, err)
	defer c.Close()
	requireSays := func(want []byte) {
		t.Helper()
		buf := make([]byte, len(want))
		_, err := io.ReadFull(c, buf)
		require.NoError(t, err)
		require.Equal(t, want, buf)
	}
	_, err = io.WriteString(c, v.Request)
	require.NoError(t, err)
	requireSays([]byte(v.Answer))
	d := <-got
	defer d.Close()
	_, err = d.Write(unhex(v.ServerStream)[:1])
	require.NoError(t, err)
	_, err = c.Write(unhex(v.Client...))
	require.NoError(t, err)
	stream := make([]byte, len(v.ClientStream)/2)
	_, err = io.ReadFull(d, stream)
	require.NoError(t, err)
	require.Equal(t, unhex(v.ClientStream), stream)
	_, err = d.Write(unhex(v.ServerStream)[1:])
	require.NoError(t, err)
	requireSays(unhex(v.Server...))
}

// requireStreams sends a stream each way between a stock WebSocket and one of ours,
// in messages of all sizes.
func requireStreams(t *testing.T, stock *websocket.Conn, ours *Direct) {
	t.Helper()
	stock.PayloadType = websocket.BinaryFrame
	text := bytes.Repeat([]byte("a stream of bytes "), 10000)
	for _, ends := range [][2]io.ReadWriter{{stock, ours}, {ours, stock}} {
		go func() {
			rest := text
			for n := 1; len(rest) > 0; n = min(2*n+1, len(rest)) {
				_, _ = ends[0].Write(rest[:n])
				rest = rest[n:]
			}
		}()
		buf := make([]byte, len(text))
		_, err := io.ReadFull(ends[1], buf)
		require.NoError(t, err)
		require.True(t, bytes.Equal(text, buf))
	}
	_, err := stock.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, ours.Close())
	_, err = stock.Read(make([]byte, 1))
	require.Error(t, err)
}

// frame is one of RFC 6455, section 5.2, masked as a client's with the key 0123.
func frame(first byte, data string) []byte {
	out := []byte{first, 0x80 | 126, byte(len(data) >> 8), byte(len(data))}
	if len(data) < 126 {
		out = []byte{first, 0x80 | byte(len(data))}
	}
	out = append(out, "0123"...)
	for i := range len(data) {
		out = append(out, data[i]^"0123"[i%4])
	}
	return out
}

// What is in frames, by their first byte: the last of a message has 0x80.
const (
	more   = 0x00
	text   = 0x81
	binary = 0x82
	end    = 0x80
	bye    = 0x88
	ping   = 0x89
	pong   = 0x8a
)

// served is the server's end of a WebSocket on which a client has sent frames, and
// what the server said.
func served(t testing.TB, sent []byte) (*Direct, *scripted) {
	t.Helper()
	c := &scripted{sent: bytes.NewReader(sent)}
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	for k, v := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(k, v)
	}
	sock, err := new(ws.Upgrader).Upgrade(c, r, nil)
	require.NoError(t, err)
	c.said.Reset()
	return newDirect(sock, c, ""), c
}

// scripted is a connection on which all was sent beforehand.
type scripted struct {
	http.ResponseWriter
	net.Conn
	sent *bytes.Reader
	said bytes.Buffer
}

func (c *scripted) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return c, bufio.NewReadWriter(bufio.NewReader(strings.NewReader("")), bufio.NewWriter(io.Discard)), nil
}
func (c *scripted) Read(b []byte) (int, error)       { return c.sent.Read(b) }
func (c *scripted) Write(b []byte) (int, error)      { return c.said.Write(b) }
func (c *scripted) Close() error                     { return nil }
func (c *scripted) SetDeadline(time.Time) error      { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// PATH-14: a stream ends with the first frame that is none of it. Pings of whoever
// is between are answered; how a proxy cuts the stream anew means nothing.
func TestPATH14Frames(t *testing.T) {
	for name, c := range map[string]struct {
		sent []byte
		read string
		err  string // "" for an orderly end
	}{
		"messages":       {slices.Concat(frame(binary, "ab"), frame(binary, ""), frame(binary, "c"), frame(bye, "\x03\xe8")), "abc", ""},
		"cut anew":       {slices.Concat(frame(2, "a"), frame(more, ""), frame(ping, "x"), frame(more, "b"), frame(end, "c"), frame(bye, "")), "abc", ""},
		"pongs":          {slices.Concat(frame(pong, "unasked"), frame(binary, "a"), frame(bye, "")), "a", ""},
		"cut off":        {frame(binary, "abc")[:7], "a", "1006"},
		"text":           {slices.Concat(frame(binary, "a"), frame(text, "b")), "a", "text"},
		"not masked":     {append(frame(binary, "a"), 0x82, 1, 'b'), "a", "MASK"},
		"compressed":     {append(frame(binary, "a"), frame(0xc2, "b")...), "a", "RSV1"},
		"unknown":        {append(frame(binary, "a"), frame(0x83, "b")...), "a", "opcode"},
		"long ping":      {append(frame(binary, "a"), frame(ping, strings.Repeat("x", 126))...), "a", "125"},
		"long message":   {append(frame(binary, "a"), 0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, '0', '1', '2', '3'), "a", "limit"},
		"longer message": {append(frame(binary, "a"), 0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 1, '0', '1', '2', '3'), "a", "limit"},
		"going away":     {append(frame(binary, "a"), frame(bye, "\x03\xe9")...), "a", "1001"},
	} {
		d, _ := served(t, c.sent)
		got, err := io.ReadAll(d)
		require.Equal(t, c.read, string(got), name)
		if c.err == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, c.err, name)
		}
	}
}

// PATH-14: a ping is answered at once, or behind what is just being written; of
// several the last.
func TestPATH14PingsAreAnswered(t *testing.T) {
	d, c := served(t, slices.Concat(frame(ping, "one"), frame(binary, "a"), frame(ping, "two"), frame(ping, "three"), frame(binary, "b")))
	buf := make([]byte, 1)
	_, err := d.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "\x8a\x03one", c.said.String())
	d.writing.Lock()
	_, err = d.Read(buf)
	require.NoError(t, err)
	d.writing.Unlock()
	require.Equal(t, "b", string(buf), "what follows is not kept")
	c.said.Reset()
	_, err = d.Write([]byte("c"))
	require.NoError(t, err)
	require.Equal(t, "\x82\x01c\x8a\x05three", c.said.String())
}

// PATH-14: whatever a client sends for frames, reading ends, gives no more than was
// sent, and makes the server say no more than that and a farewell.
func FuzzFrames(f *testing.F) {
	for _, b := range [][]byte{
		slices.Concat(frame(2, "ab"), frame(ping, "x"), frame(end, "c"), frame(bye, "\x03\xe8")),
		append(frame(binary, "a"), 0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, '0', '1', '2', '3'),
		frame(ping, strings.Repeat("x", 126)), frame(text, "a"), frame(binary, strings.Repeat("a", 200)),
		{0xff},
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, c := served(t, b)
		got, _ := io.ReadAll(d)
		require.LessOrEqual(t, len(got)+c.said.Len(), len(b)+127)
	})
}

// answering is a server of which all is known that it will say; ACCEPT in it stands
// for what fits the client's key.
type answering struct {
	scripted
	answer []byte
}

func (c *answering) Write(b []byte) (int, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err == nil && c.sent == nil {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		c.answer = bytes.ReplaceAll(c.answer, []byte("ACCEPT"), []byte(base64.StdEncoding.EncodeToString(sum[:])))
		c.sent = bytes.NewReader(c.answer)
	}
	return len(b), nil
}

const granted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\n"

// PATH-14: a server that answers anything else is no peer; one that ends may be one
// that just starts.
func TestPATH14AnswersOfOthers(t *testing.T) {
	for said, want := range map[string]bool{
		"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n":                                                                    true,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: alknet-packets/1\r\n\r\n":                           true,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n":       true,
		granted + "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n": true,
		"SSH-2.0-x\r\n\r\n": true,
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxAnswer): true,
		granted: false,
		"":      false,
	} {
		_, err := ask(t.Context(), &answering{answer: []byte(said)}, url.URL{Scheme: "wss", Host: "127.0.0.1:443", Path: "/"}, packets)
		require.Error(t, err, "%q", said)
		require.Equal(t, want, errors.Is(noPeer(err), ErrNoPeer), "%q: %v", said, err)
	}
}

// PATH-14: what a server answers is read to 16 KiB at most, and is taken only if it
// says that the connection is a WebSocket for packets; it is remembered as no peer
// if it says anything else.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		granted + "Sec-WebSocket-Protocol: alknet-packets-1\r\n\r\n\x82\x03abc",
		granted + "\r\n",
		granted + "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: alknet-packets/1\r\n\r\n\x01\x00\x01a",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
		"HTTP/1.1 101\n\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxAnswer), "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &answering{answer: b}
		sock, err := ask(t.Context(), c, url.URL{Scheme: "wss", Host: "127.0.0.1:443", Path: "/"}, packets)
		require.LessOrEqual(t, len(c.answer)-c.sent.Len(), maxAnswer)
		if err == nil {
			require.Regexp(t, `^HTTP/[0-9]\.[0-9] +101`, string(c.answer))
			require.NotContains(t, strings.ToLower(string(c.answer[:len(c.answer)-c.sent.Len()])), "deflate")
			_, _ = io.ReadAll(newDirect(sock, c, ""))
		}
	})
}
