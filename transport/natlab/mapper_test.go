package natlab_test

import (
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// natPMP asks a gateway for the public port of a local UDP port (RFC 6886 §3.3)
// and returns the result code and the port.
func natPMP(t *testing.T, h *natlab.Host, local uint16) (result, public uint16) {
	t.Helper()
	gateway := h.Addr().As4()
	gateway[3] = 1
	var conn net.Conn
	require.NoError(t, h.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(t.Context(), "udp4", net.JoinHostPort(net.IP(gateway[:]).String(), "5351"))
		return err
	}))
	defer conn.Close()
	request := []byte{0, 1, 0, 0}
	request = binary.BigEndian.AppendUint16(request, local)
	request = binary.BigEndian.AppendUint16(request, local)
	request = binary.BigEndian.AppendUint32(request, 600)
	_, err := conn.Write(request)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, 8)
	result = binary.BigEndian.Uint16(answer[2:])
	if n >= 16 {
		public = binary.BigEndian.Uint16(answer[10:])
	}
	return result, public
}

// A router with port mapping lets anybody in on a port that was asked for, until
// it reboots; one that refuses says so.
func TestPortMapping(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"out"},
		Peers: []natlab.Peer{
			{Name: "a", PortMapping: natlab.PortMappingGrants},
			{Name: "b", PortMapping: natlab.PortMappingDenies},
		},
	})
	a, out := lab.Host("a"), lab.Host("out")
	var inside net.PacketConn
	require.NoError(t, a.Do(func() (err error) {
		inside, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp4", "0.0.0.0:7000")
		return err
	}))
	defer inside.Close()
	arrives := func() bool {
		var conn net.Conn
		require.NoError(t, out.Do(func() (err error) {
			conn, err = new(net.Dialer).DialContext(t.Context(), "udp4", net.JoinHostPort(a.PublicAddr().String(), "7000"))
			return err
		}))
		defer conn.Close()
		_, err := conn.Write([]byte("hello"))
		require.NoError(t, err)
		require.NoError(t, inside.SetReadDeadline(time.Now().Add(time.Second)))
		_, _, err = inside.ReadFrom(make([]byte, 16))
		return err == nil
	}
	require.False(t, arrives())
	result, public := natPMP(t, a, 7000)
	require.Zero(t, result)
	require.EqualValues(t, 7000, public)
	require.True(t, arrives())
	require.NoError(t, lab.NATReset("a"))
	require.False(t, arrives())

	result, _ = natPMP(t, lab.Host("b"), 7000)
	require.EqualValues(t, 2, result, "not authorised")
}
