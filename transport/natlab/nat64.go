package natlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// NAT64Prefix is where routers with Peer.NAT64 take what is meant for IPv4
// addresses: its last 32 bits are the address.
const NAT64Prefix = "2a04:2000:64::/96"

const (
	nat64Pool = "10.64.0.0/24" // whom IPv6 hosts become, before the router's masquerade
	nat64Self = "10.64.0.1"    // of the translator
	// resolversDir is where ip netns exec finds the resolv.conf of a namespace.
	resolversDir = "/etc/netns"
)

// startNAT64 runs tayga, of the Debian package tayga, which translates. It ends
// with the lab, as all programs in it.
func (r *router) startNAT64() error {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // read when the daemon has gone into the background
	config := filepath.Join(dir, "tayga.conf")
	if err := os.WriteFile(config, []byte("tun-device nat64\nipv4-addr "+nat64Self+"\nprefix "+NAT64Prefix+"\ndynamic-pool "+nat64Pool+"\n"), 0o600); err != nil {
		return err
	}
	if err := r.space.do(func() error { return tool("", "tayga", "-c", config, "--mktun") }); err != nil {
		return err
	}
	if err := r.space.ip(
		"link set nat64 up",
		"route add "+nat64Pool+" dev nat64",
		"route add "+NAT64Prefix+" dev nat64",
	); err != nil {
		return err
	}

	return r.space.do(func() error { return tool("", "tayga", "-c", config) })
}

// nameServer answers on the router's side of its LAN, as a DNS64 would, what
// ipv4only.arpa has (RFC 7050), and that there is nothing else.
type nameServer struct {
	conn *net.UDPConn
	done sync.WaitGroup
}

// startNameServer makes the hosts' programs ask it.
func (l *Lab) startNameServer(r *router) error {
	at := netip.AddrPortFrom(r.gateway6(), 53)
	s := new(nameServer)
	if err := r.space.do(func() (err error) {
		s.conn, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(at))
		return err
	}); err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	l.nameServers = append(l.nameServers, s)
	s.done.Go(s.serve)

	return nil
}

// setResolver makes programs in the host, of Host.Command, ask the router.
func (n namespace) setResolver(at netip.Addr) error {
	dir := filepath.Join(resolversDir, string(n))
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as the system's own
		return err
	}

	return os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver "+at.String()+"\n"), 0o644) //nolint:gosec // as the system's own
}

// removeResolver undoes setResolver.
func (n namespace) removeResolver() error {
	err := os.RemoveAll(filepath.Join(resolversDir, string(n)))
	_ = os.Remove(resolversDir) // unless others are there

	return err
}

// close returns after the goroutine.
func (s *nameServer) close() error {
	err := s.conn.Close()
	s.done.Wait()

	return err
}

func (s *nameServer) serve() {
	buf := make([]byte, 512)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if answer, err := answerName(buf[:n]); err == nil {
			_, _ = s.conn.WriteToUDPAddrPort(answer, from) // lost, as on any network
		}
	}
}

// answerName answers one question.
func answerName(question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	if m.Response || len(m.Questions) != 1 {
		return nil, errors.New("no question")
	}
	q := m.Questions[0]
	out := dnsmessage.Message{Header: dnsmessage.Header{
		ID: m.ID, Response: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true, RCode: dnsmessage.RCodeNameError,
	}, Questions: m.Questions}
	if q.Name.String() == "ipv4only.arpa." {
		out.RCode = dnsmessage.RCodeSuccess
		if q.Type == dnsmessage.TypeAAAA {
			for _, last := range [...]byte{170, 171} {
				b := netip.MustParsePrefix(NAT64Prefix).Addr().As16()
				copy(b[12:], []byte{192, 0, 0, last})
				out.Answers = append(out.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
					Body:   &dnsmessage.AAAAResource{AAAA: b},
				})
			}
		}
	}

	return out.Pack()
}
