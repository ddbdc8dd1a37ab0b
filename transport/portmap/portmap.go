// Package portmap gets a public UDP port from the router of this network, by
// PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP, keeps it and gives it back
// (PATH-24). NAT-PMP and UPnP are go-libp2p's.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/p2p/net/nat"
	"github.com/libp2p/go-netroute"
)

const (
	// lifetime is what is asked for; routers give what they like. A crash
	// leaves the port open for that long.
	lifetime = time.Hour
	// renewAt is the part of its life at which a mapping is renewed.
	renewAt = 2
	// leastRenew bounds how often a router that gives little is asked.
	leastRenew = 10 * time.Second

	retryFirst = time.Minute
	retryMost  = 30 * time.Minute
	// natEvery is how often the mapping that go-libp2p keeps is looked at.
	natEvery = 15 * time.Second
	natFind  = 10 * time.Second
	// goodbye bounds giving the port back.
	goodbye = time.Second
)

// ErrNoRouter: this network has no router that could give a port: the machine
// has a public address, or no way out, or the router does not answer.
var ErrNoRouter = errors.New("no router that gives ports")

// ErrNotPublic: the router gave a port of an address that is not public
// itself, being behind another NAT.
var ErrNotPublic = errors.New("the router is behind another NAT")

// Config of a Mapper.
type Config struct {
	// Port is the local UDP port.
	Port uint16
	// Changed is called when External may say something new; it must not block.
	Changed func()
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Status is what a Mapper has reached.
type Status struct {
	// Protocol is "pcp", or "upnp" for both NAT-PMP and UPnP; "" without a
	// mapping.
	Protocol string
	// External is the public address and port; not valid without a mapping.
	External netip.AddrPort
	// Lifetime is how long the router gave the port for; it is renewed before. 0
	// where only go-libp2p, which keeps the mapping, knows.
	Lifetime time.Duration
	// Err says why there is no mapping; nil while it is not known.
	Err error
}

// Mapper keeps one UDP port mapped. All methods may be called concurrently.
type Mapper struct {
	cfg    Config
	log    *slog.Logger
	find   func() (network, error)
	ways   func(network) []mapping // in the order they are tried
	kick   chan struct{}
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	status Status
}

// Start looks for a router and asks it, in the background.
func Start(cfg Config) *Mapper {
	return start(cfg, findNetwork, func(at network) []mapping {
		return []mapping{newPCP(at.gateway, at.local, cfg.Port), &libp2pNAT{port: cfg.Port}}
	})
}

func start(cfg Config, find func() (network, error), ways func(network) []mapping) *Mapper {
	m := &Mapper{cfg: cfg, log: cfg.Logger, find: find, ways: ways, kick: make(chan struct{}, 1)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.wg.Go(func() { m.run(ctx) })
	return m
}

// External is the public address and port that reach the local one.
func (m *Mapper) External() (netip.AddrPort, bool) {
	s := m.Status()
	return s.External, s.External.IsValid()
}

// Status says what was reached, or why nothing was.
func (m *Mapper) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// Kick makes it ask again at once: the network changed.
func (m *Mapper) Kick() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Close gives the port back, waiting a second at most for the router, and
// returns after the last goroutine. It may be called more than once.
func (m *Mapper) Close() {
	m.cancel()
	m.wg.Wait()
}

// mapping is one way to a port, for one network.
type mapping interface {
	// acquire gets the port or renews it, and says how long it holds.
	acquire(ctx context.Context) (netip.AddrPort, time.Duration, error)
	// release gives it back.
	release(ctx context.Context) error
}

// network is where a mapping belongs.
type network struct{ gateway, local netip.Addr }

func (m *Mapper) run(ctx context.Context) {
	var (
		held  mapping
		at    network
		retry = retryFirst
		wait  time.Duration
	)
	drop := func() {
		if held == nil {
			return
		}
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
		defer cancel()
		if err := held.release(bye); err != nil {
			m.log.Debug("port not given back", "err", err)
		}
		held = nil
		m.set(Status{})
	}
	defer drop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		case <-m.kick:
			retry = retryFirst
			if _, ok := held.(*libp2pNAT); ok {
				drop() // go-libp2p takes a minute to look for the router again
			}
		}
		here, err := m.find()
		if here != at {
			drop()
			at = here
		}
		if err == nil {
			held, wait, err = m.renew(ctx, held, at)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			drop()
			m.log.Debug("no port mapping", "err", err)
			m.set(Status{Err: err})
			wait, retry = retry, min(2*retry, retryMost)
			continue
		}
		retry = retryFirst
	}
}

// renew keeps the mapping held, or else makes one, and says when to renew it.
func (m *Mapper) renew(ctx context.Context, held mapping, at network) (mapping, time.Duration, error) {
	var errs []error
	ways := []mapping{held}
	if held == nil {
		ways = m.ways(at)
	}
	for _, way := range ways {
		external, life, err := way.acquire(ctx)
		if err == nil && !public(external.Addr()) {
			err = fmt.Errorf("%w: it gave %s", ErrNotPublic, external)
		}
		if err == nil {
			got := Status{Protocol: protocolOf(way), External: external}
			if got.Protocol == "pcp" {
				got.Lifetime = life
			}
			m.set(got)
			return way, max(life/renewAt, leastRenew), nil
		}
		errs = append(errs, err)
		if way == held {
			break
		}
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
		_ = way.release(bye)
		cancel()
	}
	return held, 0, errors.Join(errs...)
}

func (m *Mapper) set(s Status) {
	m.mu.Lock()
	was := m.status
	m.status = s
	m.mu.Unlock()
	if was.External == s.External {
		return
	}
	if s.External.IsValid() {
		m.log.Info("the router gives a public port", "protocol", s.Protocol, "addr", s.External)
	}
	if m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}

func protocolOf(way mapping) string {
	if _, ok := way.(*pcp); ok {
		return "pcp"
	}
	return "upnp"
}

// libp2pNAT is a mapping that go-libp2p keeps.
type libp2pNAT struct {
	port uint16
	nat  *nat.NAT
}

func (l *libp2pNAT) acquire(ctx context.Context) (netip.AddrPort, time.Duration, error) {
	if l.nat == nil {
		find, cancel := context.WithTimeout(ctx, natFind)
		defer cancel()
		found, err := nat.DiscoverNAT(find)
		if err != nil {
			return netip.AddrPort{}, 0, fmt.Errorf("%w: %w", ErrNoRouter, err)
		}
		l.nat = found
		if err := found.AddMapping(find, "udp", int(l.port)); err != nil {
			return netip.AddrPort{}, 0, fmt.Errorf("ask router: %w", err)
		}
	}
	external, ok := l.nat.GetMapping("udp", int(l.port))
	if !ok {
		return netip.AddrPort{}, 0, ErrRefused
	}
	return netip.AddrPortFrom(external.Addr().Unmap(), external.Port()), natEvery * renewAt, nil
}

func (l *libp2pNAT) release(ctx context.Context) error {
	if l.nat == nil {
		return nil
	}
	err := l.nat.RemoveMapping(ctx, "udp", int(l.port))
	return errors.Join(err, l.nat.Close())
}

// findNetwork finds the router, if this machine may need one.
func findNetwork() (network, error) {
	routes, err := netroute.New()
	if err != nil {
		return network{}, fmt.Errorf("%w: %w", ErrNoRouter, err)
	}
	_, gateway, source, err := routes.Route(net.IPv4(9, 9, 9, 9)) // any far address: nothing is sent
	if err != nil {
		return network{}, fmt.Errorf("%w: %w", ErrNoRouter, err)
	}
	gw, ok1 := netip.AddrFromSlice(gateway)
	local, ok2 := netip.AddrFromSlice(source)
	gw, local = gw.Unmap(), local.Unmap()
	if !ok1 || !ok2 || !gw.IsValid() || gw.IsUnspecified() {
		return network{}, fmt.Errorf("%w: no gateway", ErrNoRouter)
	}
	if public(local) {
		return network{}, fmt.Errorf("%w: %s is public", ErrNoRouter, local)
	}
	return network{gw, local}, nil
}

func public(ip netip.Addr) bool {
	carrier := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) // behind its NAT, RFC 6598
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !carrier.Contains(ip)
}
