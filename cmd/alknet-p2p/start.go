package main

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticketfile"
)

// nodeFlags override the configuration for one run.
type nodeFlags struct {
	relay     bool
	relayRate bitRate
	publish   publish
	join      []string
	listen    []string
	listen443 bool
	hideIP    bool
	noRelay   bool
	disclose  disclose
	admission admission
	port      uint16
	external  externals
	domain    string
	tlsCert   string
	tlsKey    string
	proxy     proxyFlag
}

// runningNode is a node of a home with what keeps it up to date.
type runningNode struct {
	*node.Node
	home    home
	config  *config // as it was when the node started, but for who is admitted
	flags   nodeFlags
	peers   *auth.Peers
	tickets *ticketfile.File
	log     *slog.Logger

	watch        *peerfile.Watcher
	watchTickets *ticketfile.Watcher

	stop context.CancelFunc
	wg   sync.WaitGroup

	reloading sync.Mutex // held by reload; config changes under it

	mu      sync.Mutex
	applied *auth.Config // what the open sessions were checked against
}

// startNode makes and starts the node of a home. The home's lock must be held.
func startNode(ctx context.Context, h home, cfg *config, f nodeFlags, key *nodeKey, log *slog.Logger) (*runningNode, error) {
	registry, err := peerfile.Load(h.peers())
	if err != nil {
		return nil, err
	}
	peers, err := auth.NewPeers(registry)
	if err != nil {
		return nil, err
	}
	tickets, err := ticketfile.Open(h.tickets())
	if err != nil {
		return nil, err
	}
	ops, err := cfg.operations(log)
	if err != nil {
		return nil, err
	}
	for i, o := range cfg.Operations {
		ops[i].Capabilities = key.lent[o.Credential]
	}
	ncfg := cfg.node(h, f, key, peers, log)
	ncfg.Tickets = tickets
	if ncfg.HandOvers, err = h.handOvers(key.generation); err != nil {
		return nil, err
	}
	ncfg.Successions = &fileSuccessions{home: h, log: log, reload: func() error { return peerfile.Reload(h.peers(), peers) }}
	n, err := node.New(ncfg)
	if err != nil {
		return nil, failf(exitUsage, codeConfig, "%s", err)
	}
	if err := n.Calls().Register(ops...); err != nil {
		return nil, failf(exitUsage, codeConfig, "%s", err)
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	r := &runningNode{Node: n, home: h, config: cfg, flags: f, peers: peers, tickets: tickets, log: log, applied: peers.Config()}
	r.watch, err = peerfile.Watch(h.peers(), peers, func(err error) { _, _ = r.reloaded(err) })
	if err != nil {
		_ = n.Close()
		return nil, err
	}
	if r.watchTickets, err = tickets.Watch(r.ticketsReloaded); err != nil {
		r.watch.Close()
		_ = n.Close()
		return nil, err
	}
	ends, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = cancel
	r.wg.Go(func() { r.endKeys(ends) })
	return r, nil
}

// node translates the file and the flags.
func (c *config) node(h home, f nodeFlags, key *nodeKey, peers *auth.Peers, log *slog.Logger) node.Config {
	cfg := node.Config{
		Key:           key.private,
		NextKey:       key.next,
		Generation:    key.generation,
		Network:       c.Network,
		Join:          append(append([]string(nil), c.Join...), f.join...),
		Listen:        c.Listen,
		Listen443:     c.Listen443 || f.listen443,
		PublishAddrs:  c.Publish.addresses || f.publish.addresses,
		HideIP:        c.HideIP || f.hideIP,
		NoRelays:      c.NoRelay || f.noRelay,
		Port:          cmp.Or(f.port, c.Port),
		Proxy:         cmp.Or(f.proxy.text, c.Proxy.text),
		External:      append(append([]netip.AddrPort(nil), c.External...), f.external...),
		CacheDir:      h.cache(),
		NoMDNS:        c.MDNS != nil && !*c.MDNS,
		NoPortMapping: c.PortMapping != nil && !*c.PortMapping,
		Peers:         peers,
		Admission:     c.admission(f),
		DrainTimeout:  c.DrainTimeout.Duration,
		Logger:        log,
	}
	cfg.DiscloseKnown = c.Disclose.known
	if f.disclose.set {
		cfg.DiscloseKnown = f.disclose.known
	}
	if len(f.listen) > 0 {
		cfg.Listen = f.listen
	}
	if c.Relay || f.relay {
		cfg.Relay = c.certificate(f)
		rate := c.RelayRate
		if f.relayRate.set {
			rate = f.relayRate
		}
		if rate.set {
			cfg.Relay.Rate = rate.perSecond
			if rate.perSecond == 0 {
				cfg.Relay.Rate = -1 // no limit
			}
		}
	}
	return cfg
}

// admission is who may have sessions: --admission stands for all that the file
// says.
func (c *config) admission(f nodeFlags) auth.Admission {
	if f.admission.Admit != "" {
		return auth.Admission{Default: f.admission.Admit}
	}
	return auth.Admission{Default: c.Admission, ALPNs: c.AdmissionALPN}
}

// close stops the node (NODE-14).
func (r *runningNode) close() error {
	r.stop()
	r.wg.Wait()
	r.watch.Close()
	r.watchTickets.Close()
	return r.Close()
}
