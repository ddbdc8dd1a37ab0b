package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	acmeRetry    = time.Minute      // after a failure, doubling
	acmeRetryMax = time.Hour        // authorities count failures
	acmeTimeout  = 30 * time.Second // for one request of theirs
	acmeEvery    = time.Hour        // how often a renewed certificate is looked for
	acmePatience = 10 * time.Second // before the next request, if they want it later
	acmeTries    = 5                // of one request, one after the other
	acmeSoon     = 500 * time.Millisecond
	maxRoots     = 1 << 20
)

// authority has an ACME authority give and renew the certificate of a domain.
type authority struct {
	domain  string
	manager *autocert.Manager
	client  *boundClient
	log     *slog.Logger

	cert atomic.Pointer[tls.Certificate] // nil until there is one
}

func newAuthority(cfg CertificateConfig) (*authority, error) {
	directory := cfg.Directory
	if directory == "" {
		directory = autocert.DefaultACMEDirectory
	}
	if u, err := url.Parse(directory); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("ACME directory %q is no https URL", directory)
	}
	var roots *x509.CertPool
	if cfg.DirectoryRoots != "" {
		info, err := os.Stat(cfg.DirectoryRoots)
		if err != nil {
			return nil, fmt.Errorf("roots of the ACME authority: %w", err)
		}
		if info.Size() > maxRoots {
			return nil, fmt.Errorf("roots of the ACME authority: %s is larger than %d bytes", cfg.DirectoryRoots, maxRoots)
		}
		text, err := os.ReadFile(cfg.DirectoryRoots)
		if err != nil {
			return nil, fmt.Errorf("roots of the ACME authority: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("roots of the ACME authority: no certificate in %s", cfg.DirectoryRoots)
		}
	}
	client := newBoundClient(roots)
	a := &authority{
		domain: cfg.Domain, client: client, log: cfg.Logger,
		manager: &autocert.Manager{
			Prompt:     autocert.AcceptTOS,
			HostPolicy: autocert.HostWhitelist(cfg.Domain),
			Client: &acme.Client{
				DirectoryURL: directory, UserAgent: "alknet-p2p",
				HTTPClient: &http.Client{Transport: client, Timeout: acmeTimeout}, RetryBackoff: backoff,
			},
		},
	}
	if cfg.CacheDir != "" {
		a.manager.Cache = autocert.DirCache(cfg.CacheDir)
	}
	return a, nil
}

// get is the certificate, nil while there is none.
func (a *authority) get() *tls.Certificate { return a.cert.Load() }

// run obtains the certificate at once, not when the first client asks for it,
// and takes up what autocert renews.
func (a *authority) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, a.client.close)
	defer stop()
	retry := acmeRetry
	var told *tls.Certificate
	for {
		cert, err := a.manager.GetCertificate(helloOf(a.domain))
		if ctx.Err() != nil {
			return
		}
		wait := acmeEvery
		switch {
		case err != nil:
			wait = retry
			retry = min(2*retry, acmeRetryMax)
			a.log.Error("no certificate yet: the authority must reach TCP port 443 of this machine under the domain", "domain", a.domain, "again_in", wait, "err", err)
		case told == nil || !slices.EqualFunc(cert.Certificate, told.Certificate, slices.Equal) || time.Until(cert.Leaf.NotAfter) < expiryWarn:
			told, retry = cert, acmeRetry
			a.cert.Store(cert)
			tellEnd(a.log, cert)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// backoff is how long to wait before a request that was refused is made again:
// not at all where the authority has had enough of them, since run comes again.
func backoff(tried int, _ *http.Request, answer *http.Response) time.Duration {
	if tried >= acmeTries || answer.StatusCode == http.StatusTooManyRequests {
		return -1
	}
	return acmeSoon
}

// helloOf is a client that asks for the certificate of a name. All are asked for
// in the same way, else autocert would get a second one, with an RSA key, for
// whoever claims to know nothing newer.
func helloOf(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: name, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
}

// isChallenge tells a client that is the authority, which looks whether the
// domain is here (RFC 8737).
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto
}

// boundClient makes HTTP requests until it is closed, and none after: autocert's
// timers cannot be stopped. Nor can package acme be while it waits for as long as
// the authority wants (Retry-After), so the next request waits here instead. It
// asks no proxy.
type boundClient struct {
	http *http.Transport
	ctx  context.Context
	end  context.CancelFunc
	done sync.Once

	mu    sync.Mutex
	after time.Time // when the authority wants the next request
}

func newBoundClient(roots *x509.CertPool) *boundClient {
	ctx, cancel := context.WithCancel(context.Background())
	return &boundClient{
		ctx: ctx, end: cancel,
		http: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: acmeTimeout, MaxIdleConns: 2, IdleConnTimeout: acmeTimeout, ForceAttemptHTTP2: true,
		},
	}
}

var errClosed = errors.New("the relay has stopped")

// RoundTrip implements http.RoundTripper.
func (b *boundClient) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := b.wait(r.Context()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(b.ctx, cancel)
	answer, err := b.http.RoundTrip(r.WithContext(ctx))
	if err != nil {
		stop()
		cancel()
		return nil, err
	}
	answer.Body = &boundBody{answer.Body, func() { stop(); cancel() }}
	b.later(answer.Header)
	return answer, nil
}

// wait returns when the next request may be made. It fails once b is closed.
func (b *boundClient) wait(ctx context.Context) error {
	b.mu.Lock()
	after := b.after
	b.mu.Unlock()
	timer := time.NewTimer(time.Until(after))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.ctx.Done():
	}
	if b.ctx.Err() != nil {
		return errClosed
	}
	return nil
}

// later takes note of when the authority wants the next request, and keeps it
// from package acme.
func (b *boundClient) later(answer http.Header) {
	text := answer.Get("Retry-After")
	if text == "" {
		return
	}
	answer.Del("Retry-After")
	wait := acmePatience // of a date, too
	if n, err := strconv.ParseUint(text, 10, 16); err == nil {
		wait = min(wait, time.Duration(n)*time.Second)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.after = time.Now().Add(wait)
}

func (b *boundClient) close() {
	b.done.Do(func() {
		b.end()
		b.http.CloseIdleConnections()
	})
}

// boundBody ends its request when it is closed.
type boundBody struct {
	body interface {
		Read(b []byte) (int, error)
		Close() error
	}
	end func()
}

func (b *boundBody) Read(p []byte) (int, error) { return b.body.Read(p) }

func (b *boundBody) Close() error {
	defer b.end()
	return b.body.Close()
}
