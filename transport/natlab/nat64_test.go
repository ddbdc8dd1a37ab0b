package natlab_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// A host with IPv6 only reaches an IPv4 one by its router's NAT64, which is seen
// there at the router's address, and is told the prefix by DNS.
func TestNAT64(t *testing.T) {
	lab := start(t, natlab.Config{
		Public: []string{"out"},
		Peers:  []natlab.Peer{{Name: "a", Kind: natlab.IPv6Firewalled, NAT64: true}},
	})
	a, out := lab.Host("a"), lab.Host("out")
	require.True(t, a.Addr().Is6())
	at := out.Addr().As4()
	b := netip.MustParsePrefix(natlab.NAT64Prefix).Addr().As16()
	copy(b[12:], at[:])
	to := netip.AddrPortFrom(netip.AddrFrom16(b), 7000)

	var inside, outside *net.UDPConn
	require.NoError(t, out.Do(func() (err error) {
		outside, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 7000})
		return err
	}))
	defer outside.Close()
	require.NoError(t, a.Do(func() (err error) {
		inside, err = net.ListenUDP("udp6", &net.UDPAddr{Port: 8000})
		return err
	}))
	defer inside.Close()
	_, err := inside.WriteToUDPAddrPort([]byte("ping"), to)
	require.NoError(t, err)
	buf := make([]byte, 16)
	require.NoError(t, outside.SetReadDeadline(time.Now().Add(patience)))
	n, from, err := outside.ReadFromUDPAddrPort(buf)
	require.NoError(t, err)
	require.Equal(t, "ping", string(buf[:n]))
	require.EqualValues(t, 8000, from.Port())
	_, err = outside.WriteToUDPAddrPort([]byte("pong"), from)
	require.NoError(t, err)
	require.NoError(t, inside.SetReadDeadline(time.Now().Add(patience)))
	n, from, err = inside.ReadFromUDPAddrPort(buf)
	require.NoError(t, err)
	require.Equal(t, "pong", string(buf[:n]))
	require.Equal(t, to, from)

	require.NoError(t, out.Do(func() error {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", ":7000")
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	}))
	require.NoError(t, a.Do(func() error {
		c, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp6", to.String())
		if err == nil {
			_ = c.Close()
		}
		return err
	}))

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := a.Command(ctx, "getent", "ahostsv6", "ipv4only.arpa").Output()
	require.NoError(t, err)
	require.Contains(t, string(answer), "2a04:2000:64::c000:aa")
}
