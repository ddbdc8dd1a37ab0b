package tcp_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
)

var required = flag.Bool("natlab.required", false, "fail instead of skip where no namespaces can be made")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// listen opens a port on loopback.
func listen(t *testing.T) *tcp.Listener {
	t.Helper()
	l, err := tcp.Listen(t.Context(), loopback)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// pair is one connection, by its ends.
func pair(t *testing.T) (a, b *tcp.Conn) {
	t.Helper()
	l := listen(t)
	a, err := tcp.Dial(t.Context(), loopback, l.Addr())
	require.NoError(t, err)
	b, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// raw is a connection whose one end speaks by hand.
func raw(t *testing.T) (*tcp.Conn, net.Conn) {
	t.Helper()
	l := listen(t)
	hand, err := new(net.Dialer).DialContext(t.Context(), "tcp4", l.Addr().String())
	require.NoError(t, err)
	c, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = hand.Close(), c.Close() })
	return c, hand
}

// serve runs Serve to its end, which must come within seconds.
func serve(t *testing.T, c *tcp.Conn, receive func([]byte)) error {
	t.Helper()
	if receive == nil {
		receive = func([]byte) {}
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(receive) }()
	select {
	case err := <-ended:
		require.Error(t, err)
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the connection goes on")
		return nil
	}
}

// carries shows that a packet gets through each way; then closer closes, and both
// ends hear of it.
func carries(t *testing.T, a, b, closer *tcp.Conn) {
	t.Helper()
	ended := make(chan error, 2)
	got := make(chan string, 2)
	for _, c := range []*tcp.Conn{a, b} {
		c.Send([]byte("packet"))
		go func() { ended <- c.Serve(func(p []byte) { got <- string(p) }) }()
	}
	for range 2 {
		select {
		case p := <-got:
			require.Equal(t, "packet", p)
		case <-time.After(10 * time.Second):
			t.Fatal("a packet is missing")
		}
	}
	require.NoError(t, closer.Close())
	for range 2 {
		select {
		case err := <-ended:
			require.Error(t, err)
		case <-time.After(10 * time.Second):
			t.Fatal("an end goes on")
		}
	}
}

// Packets arrive whole and in order, of whatever size, in both directions.
func TestPATH20PacketsArriveWhole(t *testing.T) {
	a, b := pair(t)
	require.NotZero(t, a.Remote().Port())
	const n = 200
	packet := func(i int) []byte {
		p := make([]byte, 1+i*(tcp.MaxPacket-1)/(n-1))
		for j := range p {
			p[j] = byte(i + j)
		}
		return p
	}
	took := make(chan []byte, n)
	ended := make(chan error, 2)
	go func() { ended <- b.Serve(b.Send) }() // an echo
	go func() { ended <- a.Serve(func(p []byte) { took <- append([]byte(nil), p...) }) }()
	for i := range n {
		a.Send(packet(i))
		select {
		case got := <-took:
			require.Equal(t, packet(i), got)
		case <-time.After(10 * time.Second):
			t.Fatal("a packet is missing")
		}
	}
	a.Send(nil)
	a.Send(make([]byte, tcp.MaxPacket+1))
	require.EqualValues(t, 2, a.Dropped())
	require.NoError(t, a.Close())
	require.NoError(t, a.Close())
	for range 2 {
		require.NotErrorIs(t, <-ended, tcp.ErrMalformed)
	}
}

// stream is a vector of SPEC.md.
type stream struct {
	Name    string   `json:"name"`
	Bytes   string   `json:"bytes"`   // hex
	Packets []string `json:"packets"` // hex
	Refused bool     `json:"refused"` // after these packets
}

func streams(t testing.TB) []stream {
	t.Helper()
	text, err := os.ReadFile("testdata/streams.json")
	require.NoError(t, err)
	var list []stream
	require.NoError(t, json.Unmarshal(text, &list))
	require.NotEmpty(t, list)
	return list
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func TestVectors(t *testing.T) {
	for _, v := range streams(t) {
		t.Run(v.Name, func(t *testing.T) {
			var got []string
			err := tcp.Read(unhex(t, v.Bytes), func(p []byte) { got = append(got, hex.EncodeToString(p)) })
			require.Equal(t, v.Packets, got)
			require.Equal(t, v.Refused, errors.Is(err, tcp.ErrMalformed), "%v", err)
			if !v.Refused {
				var packets [][]byte
				for _, p := range v.Packets {
					packets = append(packets, unhex(t, p))
				}
				require.Equal(t, v.Bytes, hex.EncodeToString(tcp.Stream(packets...)))
			}
		})
	}
}

// What is no stream of packets ends the connection at once.
func TestPATH20MalformedEnds(t *testing.T) {
	for name, bytes := range map[string]string{
		"HTTP":               "GET / HTTP/1.1\r\n\r\n",
		"another version":    "\x02\x00\x01a",
		"empty packet":       "\x01\x00\x00",
		"packet of 1601":     "\x01\x06\x41",
		"packet of 64 KiB":   "\x01\xff\xff",
		"good, then no more": "\x01\x00\x01a\x00\x00",
	} {
		c, hand := raw(t)
		_, err := hand.Write([]byte(bytes))
		require.NoError(t, err)
		require.ErrorIs(t, serve(t, c, nil), tcp.ErrMalformed, name)
		_, err = io.Copy(io.Discard, hand) // closed here too
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}

// PATH-26: an end that reads nothing costs a bounded queue; Send goes on, the
// oldest packets are dropped, and Close returns.
func TestPATH26SlowReaderCostsLittle(t *testing.T) {
	c, hand := raw(t)
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(func([]byte) {}) }()
	packet := make([]byte, 1200)
	for range 20_000 { // 24 MB, more than kernels take
		c.Send(packet)
	}
	require.Eventually(t, func() bool {
		c.Send(packet)
		return c.Dropped() > 10_000
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, c.Close())
	require.Error(t, <-ended)
	_ = hand.Close()
}

// A stream that was cut at any place is never taken for a whole one, and
// whatever comes is either packets of the allowed sizes or refused.
func FuzzRead(f *testing.F) {
	for _, v := range streams(f) {
		f.Add(unhex(f, v.Bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var packets [][]byte
		err := tcp.Read(b, func(p []byte) {
			require.NotEmpty(t, p)
			require.LessOrEqual(t, len(p), tcp.MaxPacket)
			packets = append(packets, append([]byte(nil), p...))
		})
		require.Error(t, err)
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && len(b) > 0 {
			require.Equal(t, b, tcp.Stream(packets...))
		}
	})
}
