package socket_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

// PATH-22: when packets of a peer with a connection go straight after they went
// over a relay, QUIC sees them come from another port, once, and is told, once,
// though not while a connection is young: what it began with may come twice.
func TestPATH22DirectAfterARelayIsNews(t *testing.T) {
	w := newWire(t)
	a, aKey, aAddr := w.open(t, 1, nil)
	b, bKey, bAddr := w.open(t, 2, nil)
	a.SetAddrs([]netip.AddrPort{}) // relayed until they know where they are
	b.SetAddrs([]netip.AddrPort{})
	_, release, err := b.Dial(aKey)
	require.NoError(t, err)
	defer release()
	young := time.Now()
	addr, release, err := a.Dial(bKey)
	require.NoError(t, err)
	defer release()
	told := make(chan struct{}, 10)
	cancel := a.OnDirect(bKey, func() { told <- struct{}{} })
	defer cancel()
	never := a.OnDirect(bKey, func() { t.Error("called after it was cancelled") })
	never()
	port := func() int {
		_, err := b.WriteTo([]byte("\x40hello"), net.UDPAddrFromAddrPort(socket.VirtualAddr(aKey)))
		require.NoError(t, err)
		_, from := read(t, a)
		return from.(*net.UDPAddr).Port
	}
	require.Eventually(t, func() bool {
		port()
		return kindOf(a, bKey) == path.Relayed && kindOf(b, aKey) == path.Relayed
	}, 5*time.Second, time.Millisecond)
	first := port()
	require.Equal(t, addr.Port, first)
	require.Empty(t, told)
	a.SetAddrs([]netip.AddrPort{aAddr})
	b.SetAddrs([]netip.AddrPort{bAddr})
	require.Eventually(t, func() bool { return kindOf(a, bKey) == path.Direct && kindOf(b, aKey) == path.Direct }, 5*time.Second, time.Millisecond)
	require.Equal(t, first, port())
	<-told
	require.GreaterOrEqual(t, time.Since(young), 2*time.Second)
	var later int
	require.Eventually(t, func() bool { // what was under way had the earlier port
		later = port()
		return later != first
	}, 5*time.Second, time.Millisecond)
	a.NetworkChanged()
	for range 20 {
		require.Equal(t, later, port())
	}
	require.Empty(t, told)
}

// PATH-8, 22: what a peer marks as from its second port comes from there; a
// stranger's is dropped, as is what is no packet.
func TestPATH22SecondPort(t *testing.T) {
	_, a, b, aKey, bKey, aAddr := directPair(t)
	second := b.Second()
	b.Probing(aKey, true)
	question := append([]byte{0x40}, bytes.Repeat([]byte{1}, 1199)...)
	to := net.UDPAddrFromAddrPort(socket.VirtualAddr(aKey))
	_, err := second.WriteTo(question, to)
	require.NoError(t, err)
	got, from := read(t, a)
	require.Equal(t, string(question), got)
	require.True(t, from.(*net.UDPAddr).IP.Equal(net.IP(socket.VirtualAddr(bKey).Addr().AsSlice())))
	probe := from.(*net.UDPAddr).Port
	for _, data := range []string{"\x40data", string(large(7))} { // of a connection that has moved before
		_, err = second.WriteTo([]byte(data), to)
		require.NoError(t, err)
		got, from = read(t, a)
		require.Equal(t, data, got)
		require.NotEqual(t, probe, from.(*net.UDPAddr).Port)
	}
	b.Probing(aKey, false)
	_, err = second.WriteTo(question, to)
	require.NoError(t, err)
	_, from = read(t, a)
	require.NotEqual(t, probe, from.(*net.UDPAddr).Port)

	c, err := udp.Listen("udp4", netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	defer c.Close()
	before := a.Stats()
	require.NoError(t, c.Write(append([]byte{0x0e, 2}, question...), aAddr, 0, 0))
	require.Eventually(t, func() bool { return a.Stats().Unproven == before.Unproven+1 }, 5*time.Second, time.Millisecond)
	id, _, _, _ := b.Path(aKey)
	require.NoError(t, b.WriteTrain([]byte{0x0e, 2, 0x0e}, id.Addr, 0))
	require.Eventually(t, func() bool { return a.Stats().BadHalf == before.BadHalf+1 }, 5*time.Second, time.Millisecond)

	require.NoError(t, second.SetReadDeadline(time.Now()))
	_, _, err = second.ReadFrom(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}
