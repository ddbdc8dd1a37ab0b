package acmetest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/acme"

	"github.com/alkdev/alknet-p2p/internal/acmetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whoever does not pass the challenge gets no certificate: a server without
// one, and one that shows the token of somebody else.
func TestChallengeIsChecked(t *testing.T) {
	const domain = "a.example"
	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var shown atomic.Pointer[tls.Certificate]
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*shown.Load()}, NextProtos: []string{acme.ALPNProto}})
			_ = s.Handshake()
			_ = s.Close()
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	a, err := acmetest.Start(acmetest.Config{Listener: l, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Addr().String())
	}})
	require.NoError(t, err)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(a.Root()))
	web := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	c := &acme.Client{Key: key, DirectoryURL: a.Directory(), HTTPClient: &http.Client{Transport: web}}
	ctx := t.Context()
	_, err = c.Register(ctx, &acme.Account{}, func(string) bool { return false })
	require.Error(t, err, "the terms were not agreed to")
	_, err = c.Register(ctx, &acme.Account{}, acme.AcceptTOS)
	require.NoError(t, err)

	order := func(token string) error {
		o, err := c.AuthorizeOrder(ctx, acme.DomainIDs(domain))
		require.NoError(t, err)
		z, err := c.GetAuthorization(ctx, o.AuthzURLs[0])
		require.NoError(t, err)
		if token == "" {
			token = z.Challenges[0].Token
		}
		cert, err := c.TLSALPN01ChallengeCert(token, domain)
		require.NoError(t, err)
		shown.Store(&cert)
		_, err = c.Accept(ctx, z.Challenges[0])
		require.NoError(t, err)
		_, err = c.WaitAuthorization(ctx, z.URI)
		return err
	}
	require.NoError(t, order(""))
	require.ErrorContains(t, order("another"), "does not hold the key authorization")
	require.Zero(t, a.Issued(), "nobody has asked for it yet")

	web.CloseIdleConnections()
	require.NoError(t, a.Close())
	require.NoError(t, server.Close())
	<-served
}
