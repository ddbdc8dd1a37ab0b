package natlab_test

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var (
	required = flag.Bool("natlab.required", false, "fail where a test would be skipped because there are no namespaces")
	leave    = flag.String("natlab.leave", "", "build a lab with this ID and a program in it, and wait to be killed (for a test)")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *leave != "" {
		leaveLab(*leave)
	}
	goleak.VerifyTestMain(m)
}

// leaveLab is the child process of TestStaleLab.
func leaveLab(id string) {
	lab, err := natlab.New(natlab.Config{ID: id, Public: []string{"one"}})
	if err == nil {
		err = lab.Host("one").Do(exec.Command("sleep", "60").Start)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, "built")
	time.Sleep(time.Minute)
	os.Exit(1)
}

const (
	// patience is how long a packet that must come may take.
	patience = 5 * time.Second
	// silence is how long a packet that must not come is waited for.
	silence = 150 * time.Millisecond
)

func start(t *testing.T, c natlab.Config) *natlab.Lab {
	t.Helper()
	c.Required = *required

	return natlab.Start(t, c)
}

// socket is a UDP socket inside a host.
type socket struct {
	*net.UDPConn
	t    *testing.T
	host *natlab.Host
	port uint16
}

// udp opens a socket in a host, at any port if port is 0.
func udp(t *testing.T, h *natlab.Host, port uint16) *socket {
	t.Helper()
	if h.Addr().Is6() {
		return udpOn(t, h, "udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	}

	return udpOn(t, h, "udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port))
}

func udpOn(t *testing.T, h *natlab.Host, network string, at netip.AddrPort) *socket {
	t.Helper()
	s := &socket{t: t, host: h}
	require.NoError(t, h.Do(func() (err error) {
		s.UDPConn, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { s.Close() })
	s.port = s.LocalAddr().(*net.UDPAddr).AddrPort().Port()

	return s
}

// addr is where the socket is, as seen in its own network.
func (s *socket) addr() netip.AddrPort { return netip.AddrPortFrom(s.host.Addr(), s.port) }

// send sends a packet; that a host's own kernel refuses counts as lost.
func (s *socket) send(what string, to netip.AddrPort) {
	_, _ = s.WriteToUDPAddrPort([]byte(what), to)
}

// hear returns the next packet and its sender, or false after the wait.
func (s *socket) hear(wait time.Duration) (what string, from netip.AddrPort, ok bool) {
	s.t.Helper()
	end := time.Now().Add(wait)
	buf := make([]byte, 2048)
	for {
		require.NoError(s.t, s.SetReadDeadline(end))
		n, from, err := s.ReadFromUDPAddrPort(buf)
		if err == nil {
			return string(buf[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), true
		}
		if !time.Now().Before(end) {
			return "", netip.AddrPort{}, false
		}
	}
}

// seen sends from s to server and returns the endpoint that the server sees.
func (s *socket) seen(server *socket) (netip.AddrPort, bool) {
	s.t.Helper()
	return s.seenWithin(server, server.addr(), patience)
}

func (s *socket) seenWithin(server *socket, at netip.AddrPort, wait time.Duration) (netip.AddrPort, bool) {
	s.t.Helper()
	s.send("hello from "+s.addr().String(), at)
	end := time.Now().Add(wait)
	for {
		what, from, ok := server.hear(time.Until(end))
		if !ok {
			return netip.AddrPort{}, false
		}
		if what == "hello from "+s.addr().String() {
			return from, true
		}
	}
}

// mustSee is seen, which must succeed.
func (s *socket) mustSee(server *socket) netip.AddrPort {
	s.t.Helper()
	from, ok := s.seen(server)
	require.True(s.t, ok, "%s does not hear %s", server.host.Name(), s.host.Name())

	return from
}

// cut reports whether nothing from s reaches server.
func (s *socket) cut(server *socket) bool {
	s.t.Helper()
	_, ok := s.seenWithin(server, server.addr(), silence)

	return !ok
}
