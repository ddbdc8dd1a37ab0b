//go:build linux

package acceptance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/internal/proxytest"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// becomesDirect pings until the path is direct, and says where it leads.
func (n *nodeProc) becomesDirect(target string) string {
	n.t.Helper()
	out, errs, _ := n.run("ping", "--json", "--until-direct", "10s", "--interval", "20ms", target)
	d := readPing(out)
	require.True(n.t, d.Connected, errs)
	require.NotNil(n.t, d.Direct, "%+v", n.why(target))
	n.t.Logf("direct to %s after %.2f s", d.Addr, *d.Direct)
	return d.Addr
}

// PATH-20, PATH-31: peers whose networks let nothing out but TCP to port 443 have
// direct paths to one that listens there, whoever dials, and those outlive the
// relays. Two such peers have none, and are told why.
func TestPATH20DirectByPort443(t *testing.T) {
	lab := newLab(t, []string{"relay", "open", "proxy"},
		natlab.Peer{Name: "strict", Kind: natlab.Egress443Only},
		natlab.Peer{Name: "stricter", Kind: natlab.Egress443Only},
		natlab.Peer{Name: "office", Kind: natlab.Egress443Only})
	relay := newProc(t, lab.Host("relay"), "").up(relaying...)
	join := []string{"--join", relay.ticket()}
	open := newProc(t, lab.Host("open"), offers).up(append(join, "--listen-443")...)
	strict := newProc(t, lab.Host("strict"), offers).up(join...)
	stricter := newProc(t, lab.Host("stricter"), offers).up(join...)

	require.Equal(t, "/ip4/"+lab.Host("open").PublicAddr().String()+"/tcp/443/tls/ws", strict.becomesDirect(open.key))
	addr := open.becomesDirect(stricter.key)
	require.True(t, strings.HasPrefix(addr, "/ip4/"+lab.Host("stricter").PublicAddr().String()+"/tcp/") && strings.HasSuffix(addr, "/tls/ws"), addr)

	// PATH-31: where nothing but a proxy is let out to, the path leads through it.
	l := listenAt(t, lab.Host("proxy"), 443)
	proxy := proxytest.Start(proxytest.Config{Listener: l, Dial: dialFrom(lab, "proxy")})
	t.Cleanup(proxy.Close)
	for _, host := range []string{"relay", "open"} {
		require.NoError(t, lab.Cut("office", host, 0))
	}
	office := newProc(t, lab.Host("office"), fmt.Sprintf("proxy = \"http://%s\"\n%s", l.Addr(), offers)).up(join...)
	require.Contains(t, office.becomesDirect(open.key), "/tcp/443/tls/ws") // of IPv6, perhaps: the proxy has both

	w := strict.why(stricter.key)
	require.Equal(t, "relayed", w.Result)
	require.Contains(t, w.Reason, "UDP gets through from neither side")
	require.Contains(t, w.Cure, "--listen-443")

	relay.kill()
	time.Sleep(3 * time.Second) // for that to be noticed
	for _, n := range []*nodeProc{strict, stricter, office} {
		n.requireDiskFree(open.key)
		open.requireDiskFree(n.key)
		w := n.why(open.key)
		require.Equal(t, "direct", w.Result, "%+v", w)
	}
}

// PATH-20: a relay takes direct paths on the port 443 that it has anyway. A peer
// that is let out to nothing else has one to a relay that is none of its own, and
// the relay to it.
func TestPATH20DirectToARelayByPort443(t *testing.T) {
	lab := newLab(t, []string{"one", "two", "other"}, natlab.Peer{Name: "strict", Kind: natlab.Egress443Only})
	one := newProc(t, lab.Host("one"), "").up(relaying...)
	two := newProc(t, lab.Host("two"), "").up(append(relaying, "--join", one.ticket())...)
	strict := newProc(t, lab.Host("strict"), offers).up("--join", one.ticket(), "--join", two.ticket())
	// The other is a relay that strict does not learn of before it is dialled by it.
	other := newProc(t, lab.Host("other"), offers).up(append(relaying, "--join", one.ticket())...)
	require.Contains(t, other.becomesDirect(strict.key), lab.Host("strict").PublicAddr().String())
	addr := strict.becomesDirect(other.key)
	require.Contains(t, addr, lab.Host("other").PublicAddr().String()+"/tcp/443")
	require.Equal(t, "direct", strict.why(other.key).Result)
	found, _ := other.doctor()
	require.Contains(t, found["listen443"].Detail, lab.Host("other").PublicAddr().String()+":443")
}
