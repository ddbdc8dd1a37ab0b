package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
)

const (
	filesEvery  = 10 * time.Second     // how often files are looked at, at most
	expiryEvery = 12 * time.Hour       // how often the end of a certificate is looked at
	expiryWarn  = 14 * 24 * time.Hour  // before its end, a certificate that was not renewed is worth a warning
	selfSigned  = 365 * 24 * time.Hour // how long our own lasts; nobody checks
)

// CertificateConfig says where the certificate of a relay comes from. The zero
// value is one that it signs itself.
type CertificateConfig struct {
	// Domain is the name under which others reach TCP port 443 of this machine.
	Domain string
	// CertFile and KeyFile are PEM files: the chain, leaf first, and its private
	// key. They are read again when they change. Without them the certificate of
	// Domain comes from an ACME authority (RFC 8555), by the challenge
	// TLS-ALPN-01 on the very port; its terms of service are agreed to.
	CertFile, KeyFile string
	// Directory is the URL of the ACME authority; Let's Encrypt when empty.
	Directory string
	// DirectoryRoots is a PEM file of certificates that the authority's own
	// server is checked against; those of the system when empty.
	DirectoryRoots string
	// CacheDir keeps the ACME account and certificate with their keys, files
	// 0600 in a folder 0700; memory only when empty, which authorities dislike.
	CacheDir string
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Certificates answers TLS clients with a relay's certificate. While there is
// none from outside, and to those who ask for another name, it shows one that it
// signed itself: peers do not mind. It is safe for concurrent use.
type Certificates struct {
	cfg   CertificateConfig
	files *certFiles // nil without
	acme  *authority // nil without
	own   func() (*tls.Certificate, error)
	log   *slog.Logger
}

// NewCertificates checks the configuration and reads the files it names.
func NewCertificates(cfg CertificateConfig) (*Certificates, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{cfg: cfg, log: cfg.Logger}
	c.own = sync.OnceValues(func() (*tls.Certificate, error) { return signOwn(cfg.Domain) })
	if cfg.Domain != "" {
		if err := CheckDomain(cfg.Domain); err != nil {
			return nil, err
		}
	}
	switch files := cfg.CertFile != "" || cfg.KeyFile != ""; {
	case files && (cfg.CertFile == "" || cfg.KeyFile == ""):
		return nil, errors.New("a certificate's file needs the file of its private key, and the other way round")
	case files && cfg.Directory != "":
		return nil, errors.New("the certificate comes from files or from an ACME authority, not from both")
	case cfg.Directory != "" && cfg.Domain == "":
		return nil, errors.New("an ACME authority gives certificates for a domain, and none is named")
	case cfg.DirectoryRoots != "" && cfg.Directory == "":
		return nil, errors.New("roots for an ACME authority, and no authority is named")
	case files:
		var err error
		if c.files, err = readCertFiles(cfg.CertFile, cfg.KeyFile, cfg.Logger); err != nil {
			return nil, err
		}
	case cfg.Domain != "":
		var err error
		if c.acme, err = newAuthority(cfg); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// CheckDomain says whether a certificate can be had for a name: a host name of
// two parts or more, in small ASCII letters, without wildcards, no IP address.
func CheckDomain(name string) error {
	parts := strings.Split(name, ".")
	ok := len(name) <= 253 && len(parts) > 1 && net.ParseIP(name) == nil
	for _, p := range parts {
		ok = ok && len(p) > 0 && len(p) <= 63 && strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" &&
			p[0] != '-' && p[len(p)-1] != '-'
	}
	if !ok {
		return fmt.Errorf("%q is no domain such as relay.example.org", name)
	}
	return nil
}

// TLS is the configuration to listen with.
func (c *Certificates) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: c.get,
		// The authority's challenge names a protocol of its own.
		NextProtos: []string{"http/1.1", acme.ALPNProto},
	}
}

// get chooses a certificate. It does not wait for an authority.
func (c *Certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	switch {
	case c.files != nil:
		return c.files.get(), nil
	case c.acme != nil && isChallenge(hello):
		return c.acme.manager.GetCertificate(hello)
	case c.acme != nil && strings.EqualFold(strings.TrimSuffix(hello.ServerName, "."), c.cfg.Domain):
		if cert := c.acme.get(); cert != nil {
			return cert, nil
		}
	}
	return c.own()
}

// Run obtains the certificate, has it renewed and tells when it ends, until ctx
// is done.
func (c *Certificates) Run(ctx context.Context) {
	if c.acme != nil {
		c.acme.run(ctx)
		return
	}
	if c.files == nil {
		return
	}
	tick := time.NewTicker(expiryEvery)
	defer tick.Stop()
	for {
		tellEnd(c.log, c.files.get())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// tellEnd logs until when a certificate holds.
func tellEnd(log *slog.Logger, cert *tls.Certificate) {
	left := time.Until(cert.Leaf.NotAfter)
	end := cert.Leaf.NotAfter.UTC().Format(time.RFC3339)
	switch {
	case left < 0:
		log.Error("the certificate has expired: peers still get in, browsers and strict networks do not", "expired", end)
	case left < min(expiryWarn, cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)/4):
		log.Warn("the certificate expires soon and was not renewed", "expires", end)
	default:
		log.Info("certificate", "names", cert.Leaf.DNSNames, "expires", end)
	}
}

// certFiles is a certificate in files.
type certFiles struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	now     *tls.Certificate
	looked  time.Time
	changed [2]fileState
}

// fileState tells whether a file was changed.
type fileState struct {
	size int64
	time time.Time
}

func readCertFiles(cert, key string, log *slog.Logger) (*certFiles, error) {
	f := &certFiles{cert: cert, key: key, log: log}
	state, err := f.state()
	if err != nil {
		return nil, err
	}
	if f.now, err = f.load(); err != nil {
		return nil, err
	}
	f.changed, f.looked = state, time.Now()
	return f, nil
}

// get is the certificate in the files; the last good one while they are not.
func (f *certFiles) get() *tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < filesEvery {
		return f.now
	}
	f.looked = time.Now()
	state, err := f.state()
	if err == nil && state == f.changed {
		return f.now
	}
	var next *tls.Certificate
	if err == nil {
		next, err = f.load()
	}
	if err != nil {
		// One of the two may have been written before the other: looked at again.
		f.log.Warn("certificate not read again, the old one stays", "err", err)
		return f.now
	}
	f.now, f.changed = next, state
	tellEnd(f.log, next)
	return next
}

func (f *certFiles) state() (s [2]fileState, err error) {
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return s, fmt.Errorf("there is no file %s", name)
		case err != nil:
			return s, fmt.Errorf("certificate: %w", err)
		}
		s[i] = fileState{info.Size(), info.ModTime()}
	}
	return s, nil
}

func (f *certFiles) load() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", f.cert, f.key, err)
	}
	return &cert, nil // with its Leaf, since Go 1.23
}

// signOwn makes a certificate that nobody vouches for.
func signOwn(name string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(selfSigned),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if name != "" {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
