// Package acmetest is a small ACME authority (RFC 8555), for tests. It gives
// certificates by the challenge TLS-ALPN-01 (RFC 8737) and no other, to whoever
// passes it: it connects to the domain and looks.
package acmetest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
)

const (
	validateTimeout = 10 * time.Second
	maxRequest      = 64 << 10
)

// Config of an Authority. All fields are required but Lifetime.
type Config struct {
	// Listener is where the authority is asked. Its address is an IP address.
	Listener net.Listener
	// Dial connects to port 443 of a domain.
	Dial func(ctx context.Context, domain string) (net.Conn, error)
	// Lifetime is that of the certificates, 90 days when zero.
	Lifetime time.Duration
}

// Authority is a running server. All methods are safe for concurrent use.
type Authority struct {
	cfg    Config
	root   *x509.Certificate
	key    *ecdsa.PrivateKey
	server *http.Server
	done   chan struct{}

	mu     sync.Mutex
	nonces map[string]bool
	keys   map[string]*ecdsa.PublicKey // accounts, by URL
	orders []*order
}

type order struct {
	account, domain, token, failure string
	status                          string // pending, ready, valid, invalid
	chain                           []byte
}

// Start makes an authority with a root of its own.
func Start(cfg Config) (*Authority, error) {
	if cfg.Lifetime == 0 {
		cfg.Lifetime = 90 * 24 * time.Hour
	}
	a := &Authority{cfg: cfg, nonces: map[string]bool{}, keys: map[string]*ecdsa.PublicKey{}, done: make(chan struct{})}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "acmetest root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(cfg.Listener.Addr().String())
	if err != nil {
		return nil, err
	}
	chain, err := a.sign(own.Public(), nil, []net.IP{net.ParseIP(host)})
	if err != nil {
		return nil, err
	}
	a.server = &http.Server{
		Handler: a.routes(), ReadHeaderTimeout: validateTimeout,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{chain}, PrivateKey: own}}, MinVersion: tls.VersionTLS12},
	}
	go func() {
		defer close(a.done)
		_ = a.server.ServeTLS(cfg.Listener, "", "")
	}()
	return a, nil
}

// Close ends the server and returns after its last goroutine but those of
// requests, whose contexts are done.
func (a *Authority) Close() error {
	err := a.server.Close()
	<-a.done
	return err
}

// Directory is the URL to give to clients.
func (a *Authority) Directory() string { return a.url("/directory") }

// Root is the certificate that all others are signed by, as PEM.
func (a *Authority) Root() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})
}

// Issued counts the certificates given.
func (a *Authority) Issued() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, o := range a.orders {
		if o.status == acme.StatusValid {
			n++
		}
	}
	return n
}

func (a *Authority) url(path string) string {
	return "https://" + a.cfg.Listener.Addr().String() + path
}

func (a *Authority) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /directory", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{
			"newNonce": a.url("/nonce"), "newAccount": a.url("/account"), "newOrder": a.url("/order"),
			"revokeCert": a.url("/revoke"), "keyChange": a.url("/key"),
			"meta": map[string]any{"termsOfService": a.url("/terms")},
		})
	})
	mux.HandleFunc("/nonce", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Replay-Nonce", a.nonce()) })
	for pattern, handle := range map[string]func(*request) (int, any, error){
		"POST /account": a.account, "POST /order": a.newOrder, "POST /order/{n}": a.order, "POST /authz/{n}": a.authz,
		"POST /challenge/{n}": a.challenge, "POST /finalize/{n}": a.finalize, "POST /certificate/{n}": a.certificate,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, hr *http.Request) {
			w.Header().Set("Replay-Nonce", a.nonce())
			r, err := a.open(hr)
			status, body := 0, any(nil)
			if err == nil {
				r.header = w.Header()
				status, body, err = handle(r)
			}
			if err != nil {
				kind := "malformed"
				if errors.Is(err, errNonce) {
					kind = "badNonce"
				}
				w.Header().Set("Content-Type", "application/problem+json")
				reply(w, http.StatusBadRequest, map[string]any{"type": "urn:ietf:params:acme:error:" + kind, "detail": err.Error()})
				return
			}
			reply(w, status, body)
		})
	}
	return mux
}

func reply(w http.ResponseWriter, status int, body any) {
	if chain, ok := body.([]byte); ok {
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.WriteHeader(status)
		_, _ = w.Write(chain)
		return
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // maps of strings and the like
}

func (a *Authority) nonce() string {
	n := rand.Text()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nonces[n] = true
	return n
}

// request is what a client has signed.
type request struct {
	http    *http.Request
	header  http.Header // of the answer
	key     *ecdsa.PublicKey
	account string // URL, "" for a new one
	payload []byte
	order   *order // that the path names
	n       string
}

var errNonce = errors.New("this nonce was not given out, or is used up")

// open checks the signature, nonce and URL of a request.
func (a *Authority) open(hr *http.Request) (*request, error) {
	var jws struct {
		Protected string `json:"protected"`
		Payload   string `json:"payload"`
		Signature string `json:"signature"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, hr.Body, maxRequest)).Decode(&jws); err != nil {
		return nil, err
	}
	var head struct {
		Alg   string `json:"alg"`
		Nonce string `json:"nonce"`
		URL   string `json:"url"`
		Kid   string `json:"kid"`
		JWK   *struct {
			X string `json:"x"`
			Y string `json:"y"`
		} `json:"jwk"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(jws.Protected)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	r := &request{http: hr, account: head.Kid, n: hr.PathValue("n")}
	a.mu.Lock()
	fresh := a.nonces[head.Nonce]
	delete(a.nonces, head.Nonce)
	r.key = a.keys[head.Kid]
	if i, err := strconv.Atoi(r.n); err == nil && i >= 0 && i < len(a.orders) {
		r.order = a.orders[i]
	}
	a.mu.Unlock()
	switch {
	case !fresh:
		return nil, errNonce
	case head.URL != a.url(hr.URL.Path):
		return nil, errors.New("signed for another URL")
	case head.Alg != "ES256":
		return nil, errors.New("want ES256")
	case head.JWK != nil && head.Kid == "":
		if r.key, err = publicKey(head.JWK.X, head.JWK.Y); err != nil {
			return nil, err
		}
	case r.key == nil:
		return nil, errors.New("no such account")
	}
	if r.n != "" && (r.order == nil || r.order.account != r.account) {
		return nil, errors.New("no such order of this account")
	}
	sig, err := base64.RawURLEncoding.DecodeString(jws.Signature)
	if err != nil || len(sig) != 64 {
		return nil, errors.New("bad signature")
	}
	sum := sha256.Sum256([]byte(jws.Protected + "." + jws.Payload))
	if !ecdsa.Verify(r.key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return nil, errors.New("bad signature")
	}
	r.payload, err = base64.RawURLEncoding.DecodeString(jws.Payload)
	return r, err
}

func publicKey(x, y string) (*ecdsa.PublicKey, error) {
	point := []byte{4}
	for _, text := range []string{x, y} {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		point = append(point, b...)
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}

func (a *Authority) account(r *request) (int, any, error) {
	var ask struct {
		TermsOfServiceAgreed bool `json:"termsOfServiceAgreed"`
	}
	if err := json.Unmarshal(r.payload, &ask); err != nil {
		return 0, nil, err
	}
	if !ask.TermsOfServiceAgreed {
		return 0, nil, errors.New("the terms were not agreed to")
	}
	thumb, err := acme.JWKThumbprint(r.key)
	if err != nil {
		return 0, nil, err
	}
	at := a.url("/account/" + thumb)
	a.mu.Lock()
	defer a.mu.Unlock()
	status := http.StatusCreated
	if a.keys[at] != nil {
		status = http.StatusOK
	}
	a.keys[at] = r.key
	r.header.Set("Location", at)
	return status, map[string]any{"status": acme.StatusValid}, nil
}

func (a *Authority) newOrder(r *request) (int, any, error) {
	var ask struct {
		Identifiers []struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"identifiers"`
	}
	if err := json.Unmarshal(r.payload, &ask); err != nil {
		return 0, nil, err
	}
	if len(ask.Identifiers) != 1 || ask.Identifiers[0].Type != "dns" {
		return 0, nil, errors.New("want one name")
	}
	o := &order{account: r.account, domain: ask.Identifiers[0].Value, token: rand.Text(), status: acme.StatusPending}
	a.mu.Lock()
	r.n = strconv.Itoa(len(a.orders))
	a.orders = append(a.orders, o)
	a.mu.Unlock()
	r.order = o
	r.header.Set("Location", a.url("/order/"+r.n))
	_, body, err := a.order(r)
	return http.StatusCreated, body, err
}

func (a *Authority) order(r *request) (int, any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body := map[string]any{
		"status": r.order.status, "identifiers": []any{map[string]string{"type": "dns", "value": r.order.domain}},
		"authorizations": []string{a.url("/authz/" + r.n)}, "finalize": a.url("/finalize/" + r.n),
	}
	if r.order.status == acme.StatusValid {
		body["certificate"] = a.url("/certificate/" + r.n)
	}
	return http.StatusOK, body, nil
}

func (a *Authority) authz(r *request) (int, any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return http.StatusOK, map[string]any{
		"status": proven(r.order.status), "identifier": map[string]string{"type": "dns", "value": r.order.domain},
		"challenges": []any{a.challengeOf(r)},
	}, nil
}

// proven is the status of an authorization, by that of its order.
func proven(status string) string {
	if status == acme.StatusReady {
		return acme.StatusValid
	}
	return status
}

func (a *Authority) challengeOf(r *request) map[string]any {
	c := map[string]any{"type": "tls-alpn-01", "url": a.url("/challenge/" + r.n), "token": r.order.token, "status": proven(r.order.status)}
	if r.order.failure != "" {
		c["error"] = map[string]string{"type": "urn:ietf:params:acme:error:incorrectResponse", "detail": r.order.failure}
	}
	return c
}

// challenge looks whether the domain is the account's.
func (a *Authority) challenge(r *request) (int, any, error) {
	err := a.validate(r.http.Context(), r)
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.order.status == acme.StatusPending {
		r.order.status = acme.StatusReady
		if err != nil {
			r.order.status, r.order.failure = acme.StatusInvalid, err.Error()
		}
	}
	return http.StatusOK, a.challengeOf(r), nil
}

// validate is RFC 8737, section 3.
func (a *Authority) validate(ctx context.Context, r *request) error {
	ctx, cancel := context.WithTimeout(ctx, validateTimeout)
	defer cancel()
	raw, err := a.cfg.Dial(ctx, r.order.domain)
	if err != nil {
		return err
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{
		ServerName: r.order.domain, NextProtos: []string{acme.ALPNProto}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // what the certificate holds is the proof
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	state := c.ConnectionState()
	if state.NegotiatedProtocol != acme.ALPNProto {
		return fmt.Errorf("the server speaks %q", state.NegotiatedProtocol)
	}
	leaf := state.PeerCertificates[0]
	if len(leaf.DNSNames) != 1 || !strings.EqualFold(leaf.DNSNames[0], r.order.domain) {
		return fmt.Errorf("the challenge's certificate is for %v", leaf.DNSNames)
	}
	thumb, err := acme.JWKThumbprint(r.key)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(r.order.token + "." + thumb))
	want, err := asn1.Marshal(sum[:])
	if err != nil {
		return err
	}
	for _, e := range leaf.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) && e.Critical && string(e.Value) == string(want) {
			return nil
		}
	}
	return errors.New("the challenge's certificate does not hold the key authorization")
}

func (a *Authority) finalize(r *request) (int, any, error) {
	var ask struct {
		CSR string `json:"csr"`
	}
	if err := json.Unmarshal(r.payload, &ask); err != nil {
		return 0, nil, err
	}
	der, err := base64.RawURLEncoding.DecodeString(ask.CSR)
	if err != nil {
		return 0, nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return 0, nil, err
	}
	a.mu.Lock()
	status := r.order.status
	a.mu.Unlock()
	switch {
	case csr.CheckSignature() != nil:
		return 0, nil, errors.New("the request is not signed by its key")
	case status != acme.StatusReady:
		return 0, nil, errors.New("the order is not ready")
	case len(csr.DNSNames) != 1 || csr.DNSNames[0] != r.order.domain:
		return 0, nil, errors.New("the request is for other names")
	}
	leaf, err := a.sign(csr.PublicKey, []string{r.order.domain}, nil)
	if err != nil {
		return 0, nil, err
	}
	a.mu.Lock()
	r.order.chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), a.Root()...)
	r.order.status = acme.StatusValid
	a.mu.Unlock()
	r.header.Set("Location", a.url("/order/"+r.n))
	return a.order(r)
}

func (a *Authority) certificate(r *request) (int, any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.order.chain == nil {
		return 0, nil, errors.New("there is none yet")
	}
	return http.StatusOK, r.order.chain, nil
}

// sign makes a server's certificate.
func (a *Authority) sign(key crypto.PublicKey, names []string, ips []net.IP) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(a.cfg.Lifetime),
		DNSNames: names, IPAddresses: ips,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.root, key, a.key)
}
