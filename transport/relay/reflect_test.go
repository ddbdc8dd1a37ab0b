package relay_test

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// reflectVector is a request, the address it comes from and its reply.
type reflectVector struct {
	Name      string         `json:"name"`
	Tx        string         `json:"tx"`
	FromOther bool           `json:"from_other,omitempty"`
	ToPort    uint16         `json:"to_port,omitempty"`
	From      netip.AddrPort `json:"from"`
	Request   string         `json:"request"`
	Reply     string         `json:"reply"`
}

func (v reflectVector) wish() relay.ReflectWish {
	return relay.ReflectWish{FromOther: v.FromOther, ToPort: v.ToPort}
}

const reflectFile = "testdata/reflect.json"

func TestReflectVectors(t *testing.T) {
	if *update {
		writeReflect(t)
	}
	for _, v := range load[reflectVector](t, reflectFile) {
		tx := [12]byte(unhex(t, v.Tx))
		request := relay.AppendReflectWish(nil, tx, v.wish())
		require.Equal(t, v.Request, hex.EncodeToString(request), v.Name)
		got, wish, err := relay.ParseReflectRequest(request)
		require.NoError(t, err, v.Name)
		require.Equal(t, tx, got, v.Name)
		require.Equal(t, v.wish(), wish, v.Name)

		reply := relay.AppendReflectReply(nil, tx, v.From)
		require.Equal(t, v.Reply, hex.EncodeToString(reply), v.Name)
		got, from, err := relay.ParseReflectReply(reply)
		require.NoError(t, err, v.Name)
		require.Equal(t, tx, got, v.Name)
		require.Equal(t, v.From, from, v.Name)
	}
}

func writeReflect(t *testing.T) {
	tx := [12]byte{0xa1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0xfc}
	var out []reflectVector
	for _, v := range []reflectVector{
		{Name: "an IPv4 address", From: netip.MustParseAddrPort("198.51.100.7:40000")},
		{Name: "an IPv6 address", From: netip.MustParseAddrPort("[2001:db8::7]:4242")},
		{Name: "from the other port", From: netip.MustParseAddrPort("198.51.100.7:40000"), FromOther: true},
		{Name: "to another port", From: netip.MustParseAddrPort("198.51.100.7:40000"), ToPort: 40001},
		{Name: "both", From: netip.MustParseAddrPort("198.51.100.7:40000"), FromOther: true, ToPort: 65535},
	} {
		v.Tx = hex.EncodeToString(tx[:])
		v.Request = hex.EncodeToString(relay.AppendReflectWish(nil, tx, v.wish()))
		v.Reply = hex.EncodeToString(relay.AppendReflectReply(nil, tx, v.From))
		out = append(out, v)
	}
	save(t, reflectFile, out)
}

func TestPATH31ReflectPackets(t *testing.T) {
	tx := [12]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	from := netip.MustParseAddrPort("203.0.113.77:54321")
	request, reply := relay.AppendReflectRequest([]byte("x"), tx)[1:], relay.AppendReflectReply([]byte("x"), tx, from)[1:]
	require.LessOrEqual(t, len(reply), len(request), "no gain for whoever asks in another's name (PATH-14)")
	// PATH-8: not taken for QUIC.
	require.Zero(t, request[0]>>6)
	require.Zero(t, reply[0]>>6)
	ip := from.Addr().As4()
	require.NotContains(t, string(reply), string(ip[:]), "nothing for a router to rewrite")

	// The mapped form says the same.
	require.Equal(t, reply, relay.AppendReflectReply(nil, tx, netip.AddrPortFrom(netip.AddrFrom16(from.Addr().As16()), from.Port())))

	for i := range request {
		_, _, err := relay.ParseReflectRequest(request[:i])
		require.ErrorIs(t, err, relay.ErrReflect)
		_, _, err = relay.ParseReflectReply(reply[:i])
		require.ErrorIs(t, err, relay.ErrReflect)
	}
	padded := bytes.Clone(request)
	padded[len(padded)-1] = 1
	flagged := bytes.Clone(request)
	flagged[13] = 2
	for _, b := range [][]byte{append(bytes.Clone(request), 0), padded, flagged, reply, append([]byte{request[0] | 0x10}, request[1:]...)} {
		_, _, err := relay.ParseReflectRequest(b)
		require.ErrorIs(t, err, relay.ErrReflect)
	}
	_, _, err := relay.ParseReflectReply(append(bytes.Clone(reply), 0))
	require.ErrorIs(t, err, relay.ErrReflect)
	for _, nobody := range []string{"0.0.0.0:1", "[::]:1", "203.0.113.1:0", "224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"} {
		_, addr, err := relay.ParseReflectReply(relay.AppendReflectReply(nil, tx, netip.MustParseAddrPort(nobody)))
		require.ErrorIs(t, err, relay.ErrReflect, nobody)
		require.False(t, addr.IsValid())
	}
}

// reflector starts one on loopback, and a client socket.
func reflector(t *testing.T, ip string) (r *relay.Reflector, at netip.AddrPort, client *udp.Conn) {
	t.Helper()
	network := "udp4"
	if netip.MustParseAddr(ip).Is6() {
		network = "udp6"
	}
	listen := func() *udp.Conn {
		c, err := udp.Listen(network, netip.AddrPortFrom(netip.MustParseAddr(ip), 0))
		require.NoError(t, err)
		return c
	}
	conn := listen()
	r = relay.NewReflector(conn, nil)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	client = listen()
	t.Cleanup(func() { client.Close() })
	return r, conn.LocalAddr(), client
}

// replies reads until n replies came, and returns their requests.
func replies(t *testing.T, client *udp.Conn, from netip.AddrPort, n int) map[[12]byte]bool {
	t.Helper()
	watchdog := time.AfterFunc(5*time.Second, func() { client.Close() })
	defer watchdog.Stop()
	ms := make([]udp.Message, 8)
	for i := range ms {
		ms[i].Buf = make([]byte, 1<<16)
	}
	seen := map[[12]byte]bool{}
	for len(seen) < n {
		got, err := client.ReadBatch(ms)
		require.NoError(t, err, "after %d of %d replies", len(seen), n)
		for _, m := range ms[:got] {
			require.Equal(t, from, m.From)
			size := m.Segment
			if size == 0 {
				size = m.N
			}
			for b := m.Buf[:m.N]; len(b) > 0; b = b[min(size, len(b)):] {
				tx, observed, err := relay.ParseReflectReply(b[:min(size, len(b))])
				require.NoError(t, err)
				require.Equal(t, client.LocalAddr(), observed)
				require.False(t, seen[tx], "answered twice")
				seen[tx] = true
			}
		}
	}
	return seen
}

func TestPATH31Reflector(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			r, at, client := reflector(t, ip)
			tx := [12]byte{1}
			// What is no request gets no reply, or the count below is wrong.
			junk := [][]byte{{}, {0}, bytes.Repeat([]byte{0xff}, 1200), relay.AppendReflectReply(nil, tx, at)}
			for _, b := range junk {
				require.NoError(t, client.Write(b, at, 0, 0))
			}
			require.NoError(t, client.Write(relay.AppendReflectRequest(nil, tx), at, 0, 0))
			require.Equal(t, map[[12]byte]bool{tx: true}, replies(t, client, at, 1))
			// The empty datagram is not worth counting.
			requireStats(t, relay.ReflectStats{Answered: 1, Malformed: uint64(len(junk) - 1)}, r)
		})
	}
}

// A reply goes where the request wishes: from the other port, to another port of
// who asks, and to nobody else's address.
func TestPATH31ReflectorGrantsWishes(t *testing.T) {
	listen := func() *udp.Conn {
		c, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.1:0"))
		require.NoError(t, err)
		return c
	}
	one, two, asker, beside := listen(), listen(), listen(), listen()
	r, s := relay.NewReflector(one, two), relay.NewReflector(two, nil)
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		require.NoError(t, s.Close())
		require.NoError(t, asker.Close())
		require.NoError(t, beside.Close())
	})
	// receive returns where a reply came from, and the address it names.
	receive := func(c *udp.Conn) (from, names netip.AddrPort) {
		watchdog := time.AfterFunc(5*time.Second, func() { c.Close() })
		defer watchdog.Stop()
		ms := []udp.Message{{Buf: make([]byte, 1<<16)}}
		n, err := c.ReadBatch(ms)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		_, names, err = relay.ParseReflectReply(ms[0].Buf[:ms[0].N])
		require.NoError(t, err)
		return ms[0].From, names
	}
	for i, c := range []struct {
		wish relay.ReflectWish
		at   *udp.Conn
		from *udp.Conn
	}{
		{relay.ReflectWish{}, asker, one},
		{relay.ReflectWish{FromOther: true}, asker, two},
		{relay.ReflectWish{ToPort: beside.LocalAddr().Port()}, beside, one},
		{relay.ReflectWish{FromOther: true, ToPort: beside.LocalAddr().Port()}, beside, two},
	} {
		require.NoError(t, asker.Write(relay.AppendReflectWish(nil, [12]byte{byte(i)}, c.wish), one.LocalAddr(), 0, 0))
		from, names := receive(c.at)
		require.Equal(t, c.from.LocalAddr(), from)
		require.Equal(t, asker.LocalAddr(), names)
	}
	require.NoError(t, asker.Write(relay.AppendReflectWish(nil, [12]byte{9}, relay.ReflectWish{FromOther: true}), two.LocalAddr(), 0, 0))
	requireStats(t, relay.ReflectStats{NoOther: 1}, s)
}

// Requests that the kernel joined are answered each.
func TestReflectorTakesJoinedRequests(t *testing.T) {
	r, at, client := reflector(t, "127.0.0.1")
	const n = 20
	var b []byte
	for i := range byte(n) {
		b = relay.AppendReflectRequest(b, [12]byte{i})
	}
	require.NoError(t, client.Write(b, at, len(b)/n, 0))
	require.Len(t, replies(t, client, at, n), n)
	requireStats(t, relay.ReflectStats{Answered: n}, r)
}

// requireStats waits for what is counted: a reply is after it was sent, and may
// be here before that.
func requireStats(t *testing.T, want relay.ReflectStats, r *relay.Reflector) {
	t.Helper()
	if !assert.Eventually(t, func() bool { return r.Stats() == want }, 5*time.Second, time.Millisecond) {
		require.Equal(t, want, r.Stats())
	}
}

// PATH-14: a flood is answered as far as the limit goes.
func TestPATH14ReflectorLimits(t *testing.T) {
	r, at, client := reflector(t, "127.0.0.1")
	const n = 2000
	begin := time.Now()
	for i := range n {
		require.NoError(t, client.Write(relay.AppendReflectRequest(nil, [12]byte{byte(i), byte(i >> 8)}), at, 0, 0))
		if sent := uint64(i + 1); sent%100 == 0 { // no more at once than a socket's buffer holds
			require.Eventually(t, func() bool {
				s := r.Stats()
				return s.Answered+s.Limited == sent
			}, 5*time.Second, time.Millisecond)
		}
	}
	most := 200 + 100*time.Since(begin).Seconds()
	require.LessOrEqual(t, float64(r.Stats().Answered), most+1)
	require.GreaterOrEqual(t, r.Stats().Answered, uint64(200))
}

func TestReflectorClose(t *testing.T) {
	r, at, client := reflector(t, "127.0.0.1")
	require.NoError(t, client.Write(relay.AppendReflectRequest(nil, [12]byte{1}), at, 0, 0))
	replies(t, client, at, 1)
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	again, err := udp.Listen("udp4", at)
	require.NoError(t, err, "the port is free")
	require.NoError(t, again.Close())
}

func FuzzParseReflect(f *testing.F) {
	for _, v := range load[reflectVector](f, reflectFile) {
		f.Add(unhex(f, v.Request))
		f.Add(unhex(f, v.Reply))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if tx, wish, err := relay.ParseReflectRequest(b); err == nil {
			require.Equal(t, b, relay.AppendReflectWish(nil, tx, wish))
		} else {
			require.ErrorIs(t, err, relay.ErrReflect)
		}
		tx, from, err := relay.ParseReflectReply(b)
		if err != nil {
			require.ErrorIs(t, err, relay.ErrReflect)
			return
		}
		require.True(t, from.IsValid())
		require.False(t, from.Addr().Is4In6())
		require.Equal(t, b, relay.AppendReflectReply(nil, tx, from))
	})
}

func BenchmarkReflect(b *testing.B) {
	tx, from := [12]byte{1, 2, 3}, netip.MustParseAddrPort("198.51.100.7:40000")
	request, reply := relay.AppendReflectRequest(nil, tx), []byte(nil)
	b.ReportAllocs()
	for b.Loop() {
		tx, _, err := relay.ParseReflectRequest(request)
		if err != nil {
			b.Fatal(err)
		}
		reply = relay.AppendReflectReply(reply[:0], tx, from)
	}
}
