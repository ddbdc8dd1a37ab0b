package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/vault"
)

// upFlags are the choices of up.
type upFlags struct {
	node       nodeFlags
	passphrase passphraseFlags
	logLevel   logLevel
}

func newUp(a *app) *cobra.Command {
	f := upFlags{logLevel: logLevel{slog.LevelInfo}}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the node",
		Long: `Runs the node until it is interrupted. The first node of a network is started
with --relay on a machine that others can reach: it is relay, bootstrap node and
DHT server at once. Every other node joins with its ticket.

A relay listens on UDP and TCP port 4242, and on TCP port 443 where it may, since
some networks let nothing else out. There it looks like a web server; --domain
gives it a certificate that firewalls and browsers take, too. --listen-443 lets
any other node be reached straight from such networks, without a relay between.

SIGINT and SIGTERM let running calls finish for two seconds, SIGHUP reads the
peers and the configuration again, as config reload does.`,
		Example: `  alknet-p2p up --relay
  alknet-p2p up --relay --domain relay.example.org
  alknet-p2p up --join alk1…
  alknet-p2p up --join alk1… --listen-443
  alknet-p2p up --join alk1… --proxy http://proxy.office:8080`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.up(cmd.Context(), f) },
	}
	f.node.add(cmd)
	f.passphrase.add(cmd)
	cmd.Flags().Var(&f.logLevel, "log-level", "least to log: debug, info, warn or error")
	return cmd
}

func (f *nodeFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.relay, "relay", false, "be a relay, bootstrap node and DHT server for others")
	flags.Var(&f.relayRate, "relay-rate", "what an unknown node may send through the relay, 0 = no limit (default 10Mbit)")
	flags.Var(&f.publish, "publish", "what the public address record holds: relays, or addresses too")
	flags.BoolVar(&f.hideIP, "hide-ip", false, "let nobody but the relays learn this machine's address; every path stays relayed")
	flags.BoolVar(&f.noRelay, "no-relay", false, "use no relay: reach and be reached straight, or not at all")
	flags.Var(&f.admission, "admission", "who may have sessions: open, known peers and holders of tickets only, or closed, which also tells strangers nothing (default open)")
	flags.Var(&f.disclose, "disclose", "who may learn this machine's address by dialling the node: any, or known peers only (default any)")
	flags.Uint16Var(&f.port, "port", 0, "UDP `port` of direct paths (default: chosen once and kept)")
	flags.Var(&f.external, "external", "UDP `address` under which direct paths reach this node from outside, such as a forwarded port; with port 443, TCP; may be repeated")
	flags.StringVar(&f.domain, "domain", "", "as a relay, have a certificate for this `name` of TCP port 443 here, from Let's Encrypt or the authority in the configuration; its terms are agreed to")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "as a relay, use the certificate chain in this PEM `file`, read again when it changes")
	flags.StringVar(&f.tlsKey, "tls-key", "", "PEM `file` of the private key of --tls-cert")
	flags.Var(&f.proxy, "proxy", "HTTP or SOCKS5 proxy to reach TCP through where the straight way is blocked, as http://host:port or socks5://host:port; a password stands in the configuration only")
	flags.StringArrayVar(&f.join, "join", nil, "enter the network by this `ticket`; may be repeated")
	flags.StringArrayVar(&f.listen, "listen", nil, "listen on this `multiaddr` instead of free ports; may be repeated")
	flags.BoolVar(&f.listen443, "listen-443", false, "listen on TCP port 443 as well, as a relay does: peers whose networks let nothing else out have direct paths then")
}

func (a *app) up(ctx context.Context, f upFlags) error {
	if err := f.node.proxy.check(); err != nil {
		return err
	}
	h, err := a.home()
	if err != nil {
		return err
	}
	cfg, err := readConfig(h.config())
	if err != nil {
		return err
	}
	if !cfg.Relay && !f.node.relay && (f.node.domain != "" || f.node.tlsCert != "" || f.node.tlsKey != "") {
		return usagef("a certificate is for a relay: give --relay as well")
	}
	if err := a.needVault(ctx, h, f.passphrase); err != nil {
		return err
	}
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	key, err := a.openVault(ctx, h, f.passphrase, cfg)
	if err != nil {
		return err
	}
	if a.quiet {
		f.logLevel.Level = max(f.logLevel.Level, slog.LevelError)
	}
	log := a.logger(f.logLevel.Level)
	n, err := startNode(ctx, h, cfg, f.node, key, log)
	if err != nil {
		return err
	}
	control, err := serveControl(h, localNode{n.Node}, n, log)
	if err != nil {
		return errors.Join(err, n.close())
	}
	defer control.close()

	if err := a.announce(h, n); err != nil {
		return errors.Join(err, n.close())
	}
	a.warnOfOpenOperations(cfg)
	a.serve(ctx, n)
	a.sayf("Stopping.")
	if err := n.close(); err != nil {
		return failf(exitFailed, codeFailed, "stopped, but not in order: %s", err)
	}
	return nil
}

// needVault makes the vault on a first start, if there is somebody to ask.
func (a *app) needVault(ctx context.Context, h home, p passphraseFlags) error {
	_, err := vault.ReadInfo(string(h))
	if !errors.Is(err, vault.ErrNoVault) {
		return nil // opening it says what is wrong
	}
	if !a.interactive() {
		return failf(exitFailed, codeNoVault,
			"%s holds no vault; make one: alknet-p2p --home %s init --passphrase-file FILE --words-file FILE", h, quote(string(h)))
	}
	a.tellf("%s holds no vault yet, so this node has no key. Let us make one.", h)
	_, err = a.initialise(ctx, h, initFlags{passphrase: p, workFactor: a.workFactor})
	return err
}

// announce says who this node is and how others reach it.
func (a *app) announce(h home, n *runningNode) error {
	answer := struct {
		NodeKey string `json:"node_key"`
		PeerID  string `json:"peer_id"`
		Ticket  string `json:"ticket"`
		Home    string `json:"home"`
	}{n.Key(), n.ID().String(), n.Ticket(), string(h)}
	err := a.show(answer, func(w *bytes.Buffer) {
		fmt.Fprintf(w, "node key  %s\npeer ID   %s\nticket    %s\n", answer.NodeKey, answer.PeerID, answer.Ticket)
	})
	a.sayf("Others join with: alknet-p2p up --join %s", answer.Ticket)
	return err
}

// warnOfOpenOperations names the operations that anyone may call.
func (a *app) warnOfOpenOperations(cfg *config) {
	for _, o := range cfg.Operations {
		if o.Scopes != nil && len(o.Scopes) == 0 {
			a.sayf("Warning: anyone who knows the key can call %s (scopes = []).", oneLine(o.Name))
		}
	}
}

// serve keeps the node until ctx ends, and says once when it is online.
func (a *app) serve(ctx context.Context, n *runningNode) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	started := time.Now()
	var waiting sync.WaitGroup
	defer waiting.Wait()
	waiting.Go(func() {
		if n.Online(ctx) == nil {
			a.sayf("Online after %s; stop with ^C.", time.Since(started).Round(time.Millisecond))
		}
	})
	for {
		select {
		case <-hangup:
			_, _ = n.reload() // it has logged what became of it
		case <-ctx.Done():
			return
		}
	}
}

// logLevel is a flag.
type logLevel struct{ slog.Level }

// Set implements pflag.Value.
func (d *disclose) Set(text string) error { return d.UnmarshalText([]byte(text)) }

// Type implements pflag.Value.
func (d *disclose) Type() string { return "whom" }

// String implements pflag.Value.
func (d *disclose) String() string {
	switch {
	case d.known:
		return "known"
	case d.set:
		return "any"
	}
	return ""
}

// admission is a flag; see auth.Admit.
type admission struct{ auth.Admit }

// Set implements pflag.Value.
func (d *admission) Set(text string) (err error) {
	if d.Admit, err = auth.ParseAdmit(text); err != nil {
		err = fmt.Errorf("%q %w", text, err)
	}
	return err
}

// Type implements pflag.Value.
func (d *admission) Type() string { return "whom" }

// String implements pflag.Value.
func (d *admission) String() string { return string(d.Admit) }

// externals are addresses given one by one.
type externals []netip.AddrPort

// Set implements pflag.Value.
func (e *externals) Set(text string) error {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return errors.New("want an IP address and a port, as in 203.0.113.7:4242")
	}
	*e = append(*e, a)
	return nil
}

// Type implements pflag.Value.
func (e *externals) Type() string { return "address" }

// String implements pflag.Value.
func (e *externals) String() string { return "" }

// Set implements pflag.Value.
func (l *logLevel) Set(text string) error { return l.UnmarshalText([]byte(text)) }

// Type implements pflag.Value.
func (l *logLevel) Type() string { return "level" }

// Set implements pflag.Value.
func (r *bitRate) Set(text string) error { return r.UnmarshalText([]byte(text)) }

// Type implements pflag.Value.
func (r *bitRate) Type() string { return "rate" }

// String implements pflag.Value.
func (r *bitRate) String() string {
	if !r.set {
		return ""
	}
	return strconv.FormatInt(r.perSecond, 10)
}

// Set implements pflag.Value.
func (p *publish) Set(text string) error { return p.UnmarshalText([]byte(text)) }

// Type implements pflag.Value.
func (p *publish) Type() string { return "what" }

// String implements pflag.Value.
func (p *publish) String() string {
	if p.addresses {
		return "addresses"
	}
	return "relays"
}
