package main

import (
	"cmp"
	"path/filepath"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/transport/web"
)

// certificate is what a relay is to grant and show, but for its rate.
func (c *config) certificate(f nodeFlags) *node.RelayConfig {
	r := &node.RelayConfig{
		Domain:        cmp.Or(f.domain, c.Domain),
		CertFile:      c.beside(c.TLSCert),
		KeyFile:       c.beside(c.TLSKey),
		ACMEDirectory: c.ACMEDirectory,
		ACMERoots:     c.beside(c.ACMERoots),
	}
	if f.tlsCert != "" || f.tlsKey != "" {
		r.CertFile, r.KeyFile, r.ACMEDirectory, r.ACMERoots = f.tlsCert, f.tlsKey, "", ""
	}
	return r
}

// beside is a file that the configuration names: one that is not absolute
// stands in the same folder.
func (c *config) beside(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(c.places.file), name)
}

// proxyURL is a proxy in the configuration. It may hold a password, which is
// never printed.
type proxyURL struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *proxyURL) UnmarshalText(text []byte) error {
	if len(text) > 0 {
		if _, err := web.ParseProxy(string(text)); err != nil {
			return err
		}
	}
	p.text = string(text)
	return nil
}

// MarshalText implements encoding.TextMarshaler, without user and password.
func (p proxyURL) MarshalText() ([]byte, error) {
	if p.text == "" {
		return nil, nil
	}
	proxy, err := web.ParseProxy(p.text)
	if err != nil {
		return nil, err
	}
	return []byte(proxy.String()), nil
}

// proxyFlag is a proxy on the command line, which others can read.
type proxyFlag struct{ text string }

// Set implements pflag.Value. It never fails: cobra would repeat the text, with
// the password in it; see check.
func (p *proxyFlag) Set(text string) error {
	p.text = text
	return nil
}

// check refuses what is no proxy, and passwords.
func (p *proxyFlag) check() error {
	if p.text == "" {
		return nil
	}
	proxy, err := web.ParseProxy(p.text)
	switch {
	case err != nil:
		return usagef("--%s", err)
	case proxy.HasCredentials():
		return usagef("--proxy: others can read a command line; write proxy = \"http://user:password@host:port\" into the configuration")
	}
	return nil
}

// Type implements pflag.Value.
func (p *proxyFlag) Type() string { return "url" }

// String implements pflag.Value.
func (p *proxyFlag) String() string { return p.text }
