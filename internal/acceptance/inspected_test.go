//go:build linux

package acceptance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// certMaker is the part of squid that signs the certificates it shows; only the
// Debian package squid-openssl has it.
const certMaker = "/usr/lib/squid/security_file_certgen"

// inspector is squid as the proxy of a strict network: it takes apart the TLS of
// all that goes to port 443, with an authority of its own, lets requests of HTTP
// and WebSockets pass, and nothing else.
type inspector struct {
	t    *testing.T
	dir  string
	addr netip.AddrPort
}

// inspect runs squid in a host until the end of the test, which is skipped where
// there is none. It takes all certificates, or, where roots are given in PEM, those
// of servers that hold; hosts are lines of /etc/hosts.
func inspect(t *testing.T, host *natlab.Host, port uint16, roots []byte, hosts string) *inspector {
	t.Helper()
	if _, err := exec.LookPath(certMaker); err != nil {
		if *required {
			t.Fatalf("missing Debian package squid-openssl: %s", err)
		}
		t.Skipf("no squid that takes TLS apart (Debian package squid-openssl): %s", err)
	}
	dir, err := os.MkdirTemp("", "alknet-squid-") //nolint:usetesting // squid becomes a user that cannot enter t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	i := &inspector{t: t, dir: dir, addr: netip.AddrPortFrom(host.PublicAddr(), port)}
	i.write("authority.pem", authority(t))
	i.write("hosts", []byte(hosts))
	trust := "sslproxy_cert_error allow all\ntls_outgoing_options flags=DONT_VERIFY_PEER"
	if roots != nil {
		i.write("roots.pem", roots)
		trust = "tls_outgoing_options cafile=" + filepath.Join(dir, "roots.pem")
	}
	// It is nobody's but this test's: no file of the system, no log, no cache.
	i.write("squid.conf", fmt.Appendf(nil, `http_port %[1]s ssl-bump tls-cert=%[2]s/authority.pem generate-host-certificates=on
sslcrtd_program %[3]s -s %[2]s/made -M 4MB
sslcrtd_children 1
acl begins at_step SslBump1
ssl_bump peek begins
ssl_bump bump all
%[4]s
acl web port 443
http_access deny !web
http_access allow all
http_upgrade_request_protocols websocket allow all
http_upgrade_request_protocols OTHER deny all
dns_nameservers 127.0.0.1
hosts_file %[2]s/hosts
cache deny all
pinger_enable off
access_log stdio:%[2]s/access.log
cache_log %[2]s/cache.log
pid_filename none
coredump_dir none
shutdown_lifetime 0 seconds
visible_hostname firewall
`, i.addr, dir, certMaker, trust))
	out, err := exec.Command(certMaker, "-c", "-s", filepath.Join(dir, "made"), "-M", "4MB").CombinedOutput()
	require.NoError(t, err, "%s", out)
	i.give()

	var said bytes.Buffer
	name := fmt.Sprintf("alknet%d", os.Getpid()) // of its shared memory, which it removes when it is let end
	cmd := host.Command(context.Background(), "squid", "-N", "-n", name, "-f", filepath.Join(dir, "squid.conf"))
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, time.Second
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		if t.Failed() {
			t.Logf("squid:\n%s\n%s\n%s", said.String(), i.read("cache.log"), i.read("access.log"))
		}
	})
	require.Eventually(t, func() bool {
		return host.Do(func() error {
			c, err := net.DialTimeout("tcp", i.addr.String(), time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err
		}) == nil
	}, 10*time.Second, 50*time.Millisecond, "squid does not start")
	return i
}

// give makes all its files those of the user that squid becomes.
func (i *inspector) give() {
	i.t.Helper()
	proxy, err := user.Lookup("proxy")
	require.NoError(i.t, err)
	uid, err := strconv.Atoi(proxy.Uid)
	require.NoError(i.t, err)
	require.NoError(i.t, filepath.WalkDir(i.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, -1)
	}))
}

func (i *inspector) write(name string, b []byte) {
	i.t.Helper()
	require.NoError(i.t, os.WriteFile(filepath.Join(i.dir, name), b, 0o600))
}

func (i *inspector) read(name string) string {
	b, err := os.ReadFile(filepath.Join(i.dir, name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// authority is a certificate that others can be signed with, and its key.
func authority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "firewall"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
}

// PATH-20, PATH-31: a firewall that takes TLS apart and lets nothing pass but
// WebSockets is no obstacle: a node behind it has its relay, reaches peers over it,
// and has a direct path to one that listens on port 443.
func TestPATH20InspectedTLS(t *testing.T) {
	lab := newLab(t, []string{"relay", "open", "proxy"},
		natlab.Peer{Name: "home", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "office", Kind: natlab.Egress443Only})
	squid := inspect(t, lab.Host("proxy"), 443, nil, "")
	relay := newProc(t, lab.Host("relay"), "").up(relaying...)
	join := []string{"--join", relay.ticket()}
	open := newProc(t, lab.Host("open"), offers).up(append(join, "--listen-443")...)
	home := newProc(t, lab.Host("home"), offers).up(join...)
	for _, host := range []string{"relay", "open"} {
		require.NoError(t, lab.Cut("office", host, 0), "the network lets out what goes to the proxy")
	}

	office := newProc(t, lab.Host("office"), fmt.Sprintf("proxy = \"http://%s\"\n%s", squid.addr, offers))
	begin := time.Now()
	office.up(join...)
	t.Logf("online %s after its start: %s", time.Since(begin), office.onlineLine())
	addr, through := office.linkOf()
	require.Contains(t, addr, "/tcp/443/tls/ws")
	require.Equal(t, "http://"+squid.addr.String(), through)

	office.requireDiskFree(home.key)
	home.requireDiskFree(office.key)
	require.Equal(t, "relayed", office.why(home.key).Result)

	require.Contains(t, office.becomesDirect(open.key), "/tcp/443/tls/ws")
	time.Sleep(12 * time.Second) // longer than a request may take
	office.requireDiskFree(open.key)
	open.requireDiskFree(office.key)
	require.Equal(t, "direct", office.why(open.key).Result)

	squid.requireSaw(2, office)
}

// requireSaw tells that the proxy has looked into so many WebSockets of a node, which
// it kills, and let nothing pass that it did not look into.
func (i *inspector) requireSaw(webSockets int, n *nodeProc) {
	i.t.Helper()
	n.kill() // squid logs what has ended
	require.Eventually(i.t, func() bool { return strings.Count(i.read("access.log"), "TCP_TUNNEL/101") >= webSockets }, 5*time.Second, 50*time.Millisecond)
	require.NotContains(i.t, i.read("access.log"), "TCP_TUNNEL/200")
}
