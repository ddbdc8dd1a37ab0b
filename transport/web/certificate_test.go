package web

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/internal/acmetest"
)

func TestCheckDomain(t *testing.T) {
	for _, name := range []string{"relay.example.org", "a.b", "xn--bcher-kva.example", "1.example"} {
		require.NoError(t, CheckDomain(name))
	}
	for _, name := range []string{"", "localhost", "192.0.2.1", "Relay.example", "*.example.org", "a..b", ".a", "a.", "-a.b", "a-.b", "a b.c", "a.b:443"} {
		require.Error(t, CheckDomain(name), name)
	}
}

// writeCert makes files of a certificate with a serial number.
func writeCert(t *testing.T, dir string, serial int64, left time.Duration) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"relay.example"},
		NotBefore: time.Now().Add(-300 * 24 * time.Hour), NotAfter: time.Now().Add(left),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	return cert, key
}

func serialOf(t *testing.T, c *Certificates, name string) int64 {
	t.Helper()
	cert, err := c.get(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: []string{"http/1.1"}})
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	require.NoError(t, err)
	return leaf.SerialNumber.Int64()
}

// PATH-31: files of a certificate are read again when they change; while they
// are not right the old one stays. Its end is told.
func TestPATH31CertificateFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		dir := t.TempDir()
		cert, key := writeCert(t, dir, 1, 90*24*time.Hour)
		c, err := NewCertificates(CertificateConfig{CertFile: cert, KeyFile: key, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.Run(ctx)
		}()
		require.Equal(t, int64(1), serialOf(t, c, "relay.example"))
		require.Equal(t, int64(1), serialOf(t, c, ""), "there is no other")

		require.NoError(t, os.WriteFile(cert, []byte("half"), 0o600))
		time.Sleep(2 * filesEvery)
		require.Equal(t, int64(1), serialOf(t, c, ""))
		require.Contains(t, string(log.bytes()), "the old one stays")

		writeCert(t, dir, 22, 3*24*time.Hour)
		time.Sleep(2 * filesEvery)
		require.Equal(t, int64(22), serialOf(t, c, ""))
		require.Contains(t, string(log.bytes()), "expires soon")

		time.Sleep(4 * 24 * time.Hour)
		synctest.Wait()
		require.Contains(t, string(log.bytes()), "has expired")
		cancel()
		<-ended
	})
}

// PATH-31: while the authority does not answer, peers get in by a certificate
// of our own; nothing goes on after Run.
func TestPATH31AuthorityIsAway(t *testing.T) {
	l := listen(t)
	ca, err := acmetest.Start(acmetest.Config{Listener: l, Dial: func(context.Context, string) (net.Conn, error) { return nil, net.ErrClosed }})
	require.NoError(t, err)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(roots, ca.Root(), 0o600))
	var log syncBuffer
	c, err := NewCertificates(CertificateConfig{
		Domain: "relay.example", Directory: ca.Directory(), DirectoryRoots: roots, CacheDir: t.TempDir(),
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx)
	}()
	require.Eventually(t, func() bool { return bytes.Contains(log.bytes(), []byte("no certificate yet")) }, 20*time.Second, 10*time.Millisecond)
	cert, err := c.get(&tls.ClientHelloInfo{ServerName: "relay.example"})
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	require.NoError(t, err)
	require.Equal(t, []string{"relay.example"}, leaf.DNSNames)
	require.Empty(t, leaf.Issuer.CommonName)
	_, err = c.get(&tls.ClientHelloInfo{ServerName: "other.example", SupportedProtos: []string{"acme-tls/1"}})
	require.Error(t, err, "a challenge that nobody has begun")
	require.Zero(t, ca.Issued())
	cancel()
	<-ended
	require.NoError(t, ca.Close())
}

// PATH-31: a relay stops at once though the authority wants to be asked again in
// five minutes, whichever way it says so.
func TestPATH31BusyAuthority(t *testing.T) {
	for name, status := range map[string]int{"out of order": http.StatusServiceUnavailable, "too many requests": http.StatusTooManyRequests, "not ready": http.StatusOK} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 100)
			ca := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "300")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "{}")
				asked <- struct{}{}
			}))
			t.Cleanup(ca.Close)
			roots := filepath.Join(t.TempDir(), "roots.pem")
			require.NoError(t, os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw}), 0o600))
			c, err := NewCertificates(CertificateConfig{Domain: "relay.example", Directory: ca.URL, DirectoryRoots: roots})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				c.Run(ctx)
			}()
			<-asked
			cancel()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("it waits for the authority")
			}
		})
	}
}

// PATH-31: how long the authority wants to be left alone is kept to, within
// bounds, by a wait that can be ended.
func TestPATH31RetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoundClient(nil)
		require.NoError(t, b.wait(t.Context()))
		for text, want := range map[string]time.Duration{"3": 3 * time.Second, "300": acmePatience, "Fri, 31 Dec 1999 23:59:59 GMT": acmePatience, "-1": acmePatience} {
			h := http.Header{"Retry-After": {text}}
			begin := time.Now()
			b.later(h)
			require.Empty(t, h)
			require.NoError(t, b.wait(t.Context()))
			require.Equal(t, want, time.Since(begin), text)
		}
		b.later(http.Header{"Retry-After": {"300"}})
		begin := time.Now()
		b.close()
		require.ErrorIs(t, b.wait(t.Context()), errClosed)
		require.Zero(t, time.Since(begin))
	})
}
