package udp_test

import (
	"flag"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

var required = flag.Bool("natlab.required", false, "fail where a test would be skipped because there are no namespaces")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience is how long what must come may take.
	patience = 5 * time.Second
	// packet is the largest packet of the magic socket (PATH-9).
	packet = 1232
)

// listenFunc is udp.Listen or what stands in for it.
type listenFunc func(network string, addr netip.AddrPort) (*udp.Conn, error)

// variants are the two drivers over both families.
func variants(t *testing.T, test func(t *testing.T, listen func(testing.TB) *udp.Conn)) {
	t.Helper()
	for name, driver := range map[string]listenFunc{"system": udp.Listen, "plain": udp.ListenPlain} {
		for _, network := range []string{"udp4", "udp6"} {
			t.Run(name+"/"+network, func(t *testing.T) {
				test(t, func(t testing.TB) *udp.Conn { return loopback(t, driver, network) })
			})
		}
	}
}

// loopback opens a socket that is closed with the test.
func loopback(t testing.TB, listen listenFunc, network string) *udp.Conn {
	t.Helper()
	addr := netip.MustParseAddr("127.0.0.1")
	if network == "udp6" {
		addr = netip.IPv6Loopback()
	}
	c, err := listen(network, netip.AddrPortFrom(addr, 0))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// datagram is one that came.
type datagram struct {
	data string
	from netip.AddrPort
	ecn  byte
}

// receive reads until n datagrams came.
func receive(t testing.TB, c *udp.Conn, n int) []datagram {
	t.Helper()
	watchdog := time.AfterFunc(patience, func() { c.Close() })
	defer watchdog.Stop()
	ms := messages(8)
	var got []datagram
	for len(got) < n {
		k, err := c.ReadBatch(ms)
		require.NoError(t, err, "after %d of %d datagrams", len(got), n)
		for _, m := range ms[:k] {
			got = append(got, split(m)...)
		}
	}
	require.Len(t, got, n)
	return got
}

// split takes the datagrams of a message apart.
func split(m udp.Message) (out []datagram) {
	segment := m.Segment
	if segment == 0 {
		segment = m.N
	}
	for at := 0; at < m.N; at += segment {
		out = append(out, datagram{string(m.Buf[at:min(at+segment, m.N)]), m.From, m.ECN})
	}
	return out
}

func messages(n int) []udp.Message {
	ms := make([]udp.Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, 1<<16)
	}
	return ms
}
