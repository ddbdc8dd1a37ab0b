//go:build linux

package acceptance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/internal/acmetest"
	"github.com/alkdev/alknet-p2p/internal/proxytest"
	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

const relayDomain = "relay.example.org" // there is no DNS in a laboratory

// linkOf is where a node's link to its relay goes.
func (n *nodeProc) linkOf() (addr, proxy string) {
	n.t.Helper()
	var st struct {
		Relays []struct {
			Addr  string `json:"addr"`
			Proxy string `json:"proxy"`
			Up    bool   `json:"up"`
		} `json:"relays"`
	}
	require.NoError(n.t, json.Unmarshal([]byte(n.mustRun("status", "--json")), &st))
	require.Len(n.t, st.Relays, 1)
	require.True(n.t, st.Relays[0].Up)
	return st.Relays[0].Addr, st.Relays[0].Proxy
}

// onlineLine is what the node itself says of how long that took.
func (n *nodeProc) onlineLine() (last string) {
	for line := range strings.Lines(n.log.String()) {
		if strings.HasPrefix(line, "Online after") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// ticketOf is a relay's ticket with some of its addresses only.
func ticketOf(t *testing.T, relay *nodeProc, keep func(a string) bool) string {
	t.Helper()
	ticket, err := discovery.ParseTicket(relay.ticket())
	require.NoError(t, err)
	var kept []ma.Multiaddr
	for _, a := range ticket.Addrs {
		if keep(a.String()) {
			kept = append(kept, a)
		}
	}
	require.NotEmpty(t, kept, "%v", ticket.Addrs)
	ticket.Addrs = kept
	return ticket.String()
}

// dialFrom dials from a host of the lab; relayDomain is the host relay there.
func dialFrom(lab *natlab.Lab, host string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (c net.Conn, err error) {
		name, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if name == relayDomain {
			name = lab.Host("relay").PublicAddr().String()
		}
		err = lab.Host(host).Do(func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(name, port))
			return err
		})
		return c, err
	}
}

func listenAt(t *testing.T, host *natlab.Host, port int) net.Listener {
	t.Helper()
	var l net.Listener
	require.NoError(t, host.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", host.PublicAddr(), port))
		return err
	}))
	return l
}

// PATH-31: a relay that was told no more than its domain has a certificate of an
// ACME authority, over the port that peers come in by. Nodes whose networks let
// nothing out but TCP to port 443, nothing but TLS there, or nothing but a
// proxy, join by its ticket, and call and are called.
func TestPATH31NothingButTheWeb(t *testing.T) {
	lab := newLab(t, []string{"relay", "authority", "proxy"},
		natlab.Peer{Name: "home", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "strict", Kind: natlab.Egress443Only},
		natlab.Peer{Name: "stricter", Kind: natlab.Egress443Only},
		natlab.Peer{Name: "office", Kind: natlab.Egress443Only})
	asDomain := dialFrom(lab, "authority")
	ca, err := acmetest.Start(acmetest.Config{
		Listener: listenAt(t, lab.Host("authority"), 14000),
		Dial:     func(ctx context.Context, domain string) (net.Conn, error) { return asDomain(ctx, domain+":443") },
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = ca.Close() })

	relay := newProc(t, lab.Host("relay"), fmt.Sprintf("acme_directory = %q\nacme_roots = \"roots.pem\"\n", ca.Directory()))
	require.NoError(t, os.WriteFile(filepath.Join(relay.home, "roots.pem"), ca.Root(), 0o600))
	relay.up("--relay", "--domain", relayDomain)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca.Root()))
	require.Eventually(t, func() bool {
		raw, err := asDomain(t.Context(), relayDomain+":443")
		if err != nil {
			return false
		}
		defer raw.Close()
		return tls.Client(raw, &tls.Config{ServerName: relayDomain, RootCAs: roots}).HandshakeContext(t.Context()) == nil
	}, 20*time.Second, 100*time.Millisecond, "no certificate that holds")
	require.Equal(t, 1, ca.Issued())
	named := ticketOf(t, relay, func(a string) bool { return strings.HasPrefix(a, "/dns4/"+relayDomain+"/tcp/443/tls/sni/") })

	home := newProc(t, lab.Host("home"), offers).up("--join", relay.ticket())
	both := func(t *testing.T, n *nodeProc) {
		n.requireDiskFree(home.key)
		home.requireDiskFree(n.key)
	}

	t.Run("TCP 443", func(t *testing.T) {
		n := newProc(t, lab.Host("strict"), offers)
		begin := time.Now()
		n.up("--join", relay.ticket())
		t.Logf("online %s after its start: %s", time.Since(begin), n.onlineLine())
		addr, _ := n.linkOf()
		require.True(t, strings.HasSuffix(addr, "/tcp/443"), addr)
		both(t, n)
	})
	t.Run("TLS 443", func(t *testing.T) {
		n := newProc(t, lab.Host("stricter"), offers).up("--join", ticketOf(t, relay, func(a string) bool { return strings.Contains(a, "/ip4/") && strings.Contains(a, "/tls/") }))
		addr, proxy := n.linkOf()
		require.Contains(t, addr, "/tcp/443/tls/")
		require.Empty(t, proxy)
		both(t, n)
	})
	t.Run("proxy", func(t *testing.T) {
		l := listenAt(t, lab.Host("proxy"), 443)
		proxy := proxytest.Start(proxytest.Config{Listener: l, User: "me", Password: "secret", Dial: dialFrom(lab, "proxy")})
		t.Cleanup(proxy.Close)
		require.NoError(t, lab.Cut("office", "relay", 0), "the network lets out what goes to the proxy")
		n := newProc(t, lab.Host("office"), fmt.Sprintf("proxy = \"http://me:secret@%s\"\n%s", l.Addr(), offers))
		begin := time.Now()
		n.up("--join", named)
		t.Logf("online %s after its start: %s", time.Since(begin), n.onlineLine())
		addr, through := n.linkOf()
		require.Contains(t, addr, "/tcp/443")
		require.Equal(t, "http://"+l.Addr().String(), through)
		both(t, n)
		require.NotContains(t, n.log.String()+n.mustRun("config", "show")+n.mustRun("status", "--json"), "secret")

		// All of the relay's addresses do as well: those that are blocked cost little.
		n.kill()
		begin = time.Now()
		n.up("--join", relay.ticket())
		t.Logf("online %s after its start, by all addresses: %s", time.Since(begin), n.onlineLine())
		both(t, n)
	})
	t.Run("proxy that takes TLS apart", func(t *testing.T) {
		squid := inspect(t, lab.Host("proxy"), 443, ca.Root(), lab.Host("relay").PublicAddr().String()+" "+relayDomain+"\n")
		n := newProc(t, lab.Host("office"), fmt.Sprintf("proxy = \"http://%s\"\n%s", squid.addr, offers)).up("--join", named)
		addr, through := n.linkOf()
		require.Contains(t, addr, "/dns4/"+relayDomain+"/tcp/443/tls/")
		require.Equal(t, "http://"+squid.addr.String(), through)
		both(t, n)
		squid.requireSaw(1, n)
	})
}

// PATH-31: port 443 may be somebody else's. A relay does without and says so;
// one that is to have a certificate does not start, and says what it needs.
func TestPATH31PortOfSomebodyElse(t *testing.T) {
	lab := newLab(t, []string{"relay"})
	l := listenAt(t, lab.Host("relay"), 443)
	t.Cleanup(func() { _ = l.Close() })
	relay := newProc(t, lab.Host("relay"), "")
	_, errs, code := relay.run("up", "--relay", "--domain", relayDomain, "--passphrase-file", relay.passphrase())
	require.Equal(t, 1, code, errs)
	require.Contains(t, errs, "a relay with a certificate needs TCP port 443")
	relay.up("--relay")
	require.Contains(t, relay.log.String(), "not listening on TCP port 443")
	ticket, err := discovery.ParseTicket(relay.ticket())
	require.NoError(t, err)
	for _, a := range ticket.Addrs {
		if a[0].Code() == ma.P_IP4 {
			require.NotContains(t, a.String(), "/tcp/443")
		}
	}
}
