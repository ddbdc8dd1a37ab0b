package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/sec"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

// PATH-34: the cause of each way that does not work, and of a link that is not
// there, is found from what works beside it.
func TestPATH34DoctorBlames(t *testing.T) {
	mismatch := fmt.Errorf("failed to negotiate: %w", sec.ErrPeerIDMismatch{})
	stranger := fmt.Errorf("%w: it says %q", errStranger, "HTTP/1.1 400")
	refused := os.NewSyscallError("sendmsg", syscall.EPERM)
	ip := []netip.Addr{netip.MustParseAddr("5.20.0.2")}
	ways := func(udp, quic, tcp, web error) []way {
		return []way{{name: "udp4", err: udp}, {name: "quic4", err: quic}, {name: "tcp4", err: tcp}, {name: "tcp443", err: web}}
	}
	dead := ways(errNoAnswer, errNoAnswer, errNoAnswer, errNoAnswer)
	up, down := relay.HomeInfo{Home: true, Up: true}, relay.HomeInfo{Home: true}
	proxy := Check{Name: "proxy", OK: true}
	for _, c := range []struct {
		name      string
		d         doctor
		link      reason // "" when it is up
		udp, quic reason
		tcp, web  reason // "" when OK
	}{
		{"cut off", doctor{relays: []*patient{{home: down, ips: ip, ways: dead}}}, reasonCutOff, reasonCutOff, reasonCutOff, reasonCutOff, reasonCutOff},
		{
			"old key",
			doctor{relays: []*patient{{home: down, ips: ip, ways: ways(nil, mismatch, nil, nil)}}},
			reasonOtherKey,
			reason{},
			reasonOtherKey,
			reason{},
			reason{},
		},
		{
			"captive portal",
			doctor{relays: []*patient{{home: down, ips: ip, ways: ways(errNoAnswer, errNoAnswer, errNoAnswer, stranger)}}},
			reasonStranger, reasonStranger, reasonStranger, reasonStranger, reasonStranger,
		},
		{
			"firewall here",
			doctor{relays: []*patient{{home: up, ips: ip, ways: ways(refused, errNoAnswer, nil, nil)}}},
			reason{},
			reasonLocalFirewall, reasonLocalFirewall,
			reason{},
			reason{},
		},
		{
			"proxy alone",
			doctor{h: &Host{cfg: Config{Proxy: "http://p"}}, proxy: proxy, relays: []*patient{{home: up, ips: ip, ways: dead}}},
			reason{},
			reasonUDPBlocked, reasonUDPBlocked, reasonTCPBlocked, reasonTCPBlocked,
		},
		{
			"proxy down",
			doctor{h: &Host{cfg: Config{Proxy: "http://p"}}, relays: []*patient{{home: down, ips: ip, ways: dead}}},
			reasonCutOffProxy, reasonCutOffProxy, reasonCutOffProxy, reasonCutOffProxy, reasonCutOffProxy,
		},
		{
			"black hole",
			doctor{relays: []*patient{{home: down, ips: ip, ways: ways(nil, errNoAnswer, nil, errNoAnswer)}}},
			reasonBlackHole,
			reason{},
			reasonBlackHole,
			reason{},
			reasonBlackHole,
		},
		{
			"small MTU",
			doctor{relays: []*patient{{home: up, ips: ip, ways: ways(nil, errNoAnswer, nil, nil)}}},
			reason{},
			reason{},
			reasonLargeBlocked,
			reason{},
			reason{},
		},
		{
			"relay down",
			doctor{relays: []*patient{{home: down, ips: ip, ways: ways(errNoAnswer, errNoAnswer, syscall.ECONNREFUSED, errNoAnswer)}}},
			reasonRefused, reasonRefused, reasonRefused, reasonRefused, reasonRefused,
		},
		{
			"own attempts",
			doctor{relays: []*patient{{home: up, ips: ip, ways: ways(nil, network.ErrResourceLimitExceeded, nil, nil)}}},
			reason{},
			reason{},
			reason{},
			reason{},
			reason{},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.d.h == nil {
				c.d.h = &Host{}
			}
			p := c.d.relays[0]
			link := c.d.link(p)
			require.Equal(t, [2]string{c.link.cause, c.link.cure}, [2]string{link.Cause, link.Cure})
			for i, want := range []reason{c.udp, c.quic, c.tcp, c.web} {
				got := c.d.judge(p, p.ways[i])
				require.Equal(t, want, reason{got.Cause, got.Cure}, "%+v", got)
				require.Equal(t, want == reason{}, got.OK)
			}
		})
	}
	for name, c := range map[string]struct {
		d    doctor
		want reason
	}{
		"offline":         {doctor{offline: true, relays: []*patient{{home: down, ips: ip}}}, reasonOffline},
		"no name":         {doctor{relays: []*patient{{home: down}}}, reasonNoAddress},
		"no family":       {doctor{relays: []*patient{{home: down, ips: ip}}}, reasonNoWay},
		"old key, no UDP": {doctor{relays: []*patient{{home: relay.HomeInfo{Err: errors.Join(io.EOF, mismatch)}, ips: ip, ways: dead}}}, reasonOtherKey},
	} {
		c.d.h = &Host{}
		require.Equal(t, c.want, c.d.notLinked(c.d.relays[0]), name)
	}
}

// PATH-34: an error of many lines is told by the first that says something.
func TestPATH34DoctorIsShort(t *testing.T) {
	far := errors.New("dial /ip6/2a04::2: connect: network is unreachable")
	require.Equal(t, "one", foremost(errors.New("one")))
	require.Equal(t, "no answer (and 2 more)", foremost(errors.Join(far, errNoAnswer, far)))
	require.Equal(t, far.Error()+" (and 1 more)", foremost(errors.Join(far, far)))
	require.Equal(t, "1096 days", longTime(3*366*24*time.Hour-2*24*time.Hour))
	require.Equal(t, "10m0s", longTime(10*time.Minute))
}

// PATH-31, PATH-34: what lets itself be connected to is no relay yet.
func TestPATH34DoctorKnowsAStranger(t *testing.T) {
	for _, c := range []struct {
		addr, answer string
		stranger     bool
	}{
		{"/ip4/5.20.0.2/tcp/443", "\x13/multistream/1.0.0\n", false},
		{"/ip4/5.20.0.2/tcp/443", "HTTP/1.1 302 Found\r\n\r\n", true},
		{"/ip4/5.20.0.2/tcp/443", "", true},
		{"/ip4/5.20.0.2/tcp/443/tls/ws", "HTTP/1.1 400 Bad Request\r\n\r\n", true},
		{"/ip4/5.20.0.2/tcp/4242/ws", "", false},
	} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			peer, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.CopyN(io.Discard, peer, 3)
			_, _ = io.WriteString(peer, c.answer)
			_ = peer.Close()
		}()
		err = tryTCP(context.Background(), l.Addr().String(), greetingOf(ma.StringCast(c.addr)))
		require.Equal(t, c.stranger, errors.Is(err, errStranger), "%s %q: %v", c.addr, c.answer, err)
		require.False(t, err != nil && strings.Contains(err.Error(), "\n"))
		require.NoError(t, l.Close())
		<-done
	}
}
