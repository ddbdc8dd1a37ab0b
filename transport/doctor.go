package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/multiformats/go-multistream"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/portmap"
	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/alkdev/alknet-p2p/transport/web"
)

const (
	doctorTry    = 2500 * time.Millisecond // for one way to one relay
	doctorWait   = 3 * time.Second         // for a link, of a node that has just started
	doctorOther  = time.Second             // for its second link
	doctorRelays = 4                       // looked at
	doctorAddrs  = 8                       // of one relay
	httpsPort    = 443
)

// Check is one finding of Doctor.
type Check struct {
	// Name says what was looked at: relay, clock, dns, proxy, udp4, udp6, tcp4, tcp6,
	// tcp443, quic4, quic6, mapping4, mapping6, filtering4, filtering6, hairpin4,
	// lifetime4, nat64, listen443, port-mapping.
	Name string
	// Relay is whom the finding is about, "" when about this node alone.
	Relay peer.ID
	OK    bool
	// Detail is what was seen.
	Detail string
	// Cause and Cure say what is wrong and what to do; "" when OK.
	Cause, Cure string
}

// DoctorOptions say what Doctor looks at beside the usual. The zero value adds
// nothing.
type DoctorOptions struct {
	// Lifetime measures for how long the NAT keeps an idle mapping, up to this
	// time, which it may take.
	Lifetime time.Duration
	// Progress, when set, hears what is being done. It must not block.
	Progress func(what string)
}

// Doctor looks at the ways from this node to its relays and at the NAT before
// it, in five seconds or so, and names for every trouble its cause and its cure
// (PATH-31, PATH-34). It sends a few packets, to relays only.
func (h *Host) Doctor(ctx context.Context, opts DoctorOptions) ([]Check, error) {
	ctx, done, err := h.work(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	tell := opts.Progress
	if tell == nil {
		tell = func(string) {}
	}
	tell("waiting for a link to a relay")
	h.awaitLink(ctx)
	d := &doctor{h: h, relays: h.doctorRelays(), offline: offline()}
	tell("trying every way to each relay, and the NAT")
	var all sync.WaitGroup
	for _, r := range d.relays {
		all.Go(func() { r.try(ctx, h) })
	}
	all.Go(func() {
		if len(h.udp) > 0 {
			h.nat.measure(ctx)
		}
	})
	all.Go(func() { d.dns = h.checkDNS(ctx) })
	all.Go(func() { d.proxy = h.checkProxy(ctx) })
	all.Wait()
	if opts.Lifetime > 0 {
		tell(fmt.Sprintf("waiting for the NAT to forget an idle mapping, %s at most", opts.Lifetime))
		d.lifetime = h.checkLifetime(ctx, opts.Lifetime, tell)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("doctor: %w", context.Cause(ctx))
	}
	return d.report(), nil
}

// awaitLink waits a little for links that are being made: long for the first,
// not so long for the other home.
func (h *Host) awaitLink(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	var soon <-chan time.Time
	for {
		up := h.links.ups.wait()
		homes := h.links.pool.Homes()
		down := slices.ContainsFunc(homes, func(home relay.HomeInfo) bool { return home.Home && !home.Up })
		live := len(h.links.Live()) > 0
		if h.cfg.NoRelays || len(homes) == 0 || live && !down {
			return
		}
		if live && soon == nil {
			soon = time.After(doctorOther)
		}
		select {
		case <-up:
		case <-soon:
			return
		case <-ctx.Done():
			return
		}
	}
}

// doctor is one examination.
type doctor struct {
	h        *Host
	relays   []*patient
	dns      Check
	proxy    Check
	lifetime *Check
	offline  bool
}

// patient is one relay and the ways to it.
type patient struct {
	id    peer.ID
	home  relay.HomeInfo
	addrs []ma.Multiaddr
	refl  []netip.AddrPort // its reflectors, if it has said them
	ips   []netip.Addr     // of addrs, as far as names are resolved
	ways  []way
}

// way is what came of one way to a relay.
type way struct {
	name string // udp4, udp6, tcp4, tcp6, tcp443, quic4, quic6
	to   string
	took time.Duration
	err  error
	// optional: the relay does not say that it is there
	optional bool
}

var (
	// errNoAnswer: what was sent was not answered in time.
	errNoAnswer = errors.New("no answer")
	// errStranger: what answers does not speak as a relay does.
	errStranger = errors.New("something else answers there")
)

// doctorRelays lists the relays to look at, homes first.
func (h *Host) doctorRelays() []*patient {
	var out []*patient
	for _, home := range h.links.pool.Homes() {
		p, err := magic.PeerID(home.Key)
		if err != nil || p == h.id || len(out) == doctorRelays {
			continue
		}
		addrs := h.dialledAt(h.book.get(p))
		h.reflectors.mu.Lock()
		refl := slices.Clone(h.reflectors.targets[home.Key])
		h.reflectors.mu.Unlock()
		out = append(out, &patient{id: p, home: home, addrs: addrs[:min(len(addrs), doctorAddrs)], refl: refl})
	}
	return out
}

// dialledAt leaves out what a relay is not dialled at from elsewhere: it says its
// addresses on its own machine and networks as well.
func (h *Host) dialledAt(addrs []ma.Multiaddr) []ma.Multiaddr {
	if loopbackOnly(h.listen) {
		return addrs
	}
	public := slices.ContainsFunc(addrs, manet.IsPublicAddr)
	return slices.DeleteFunc(addrs, func(a ma.Multiaddr) bool {
		return manet.IsIPLoopback(a) || manet.IsIPUnspecified(a) || public && manet.IsPrivateAddr(a)
	})
}

// try tries every way to the relay at once.
func (p *patient) try(ctx context.Context, h *Host) {
	ctx, cancel := context.WithTimeout(ctx, doctorTry)
	defer cancel()
	var (
		mu  sync.Mutex
		all sync.WaitGroup
	)
	attempt := func(w way, do func() error) {
		all.Go(func() {
			begin := time.Now()
			w.err = do()
			w.took = time.Since(begin)
			if w.err != nil && ctx.Err() != nil {
				w.err = errNoAnswer
			}
			mu.Lock()
			p.ways = append(p.ways, w)
			mu.Unlock()
		})
	}
	addrs := h.nat64.translate(resolveAll(ctx, p.addrs))
	p.ips = ipsOf(addrs)
	for _, ip := range p.ips {
		if !routed(ip) {
			continue
		}
		if len(h.udp) > 0 {
			ports := []uint16{RelayPort + 1, RelayPort + 2}
			if len(p.refl) > 0 {
				ports = ports[:0]
				for _, a := range p.refl {
					ports = append(ports, a.Port())
				}
			}
			w := way{name: "udp" + digit(ip), to: fmt.Sprintf("%s, ports %s", ip, joinPorts(ports)), optional: len(p.refl) == 0}
			attempt(w, func() error { return h.tryReflect(ctx, ip, ports) })
		}
		if !slices.ContainsFunc(addrs, func(a ma.Multiaddr) bool { return isTCP(a, httpsPort) && hasIP(a, ip) }) {
			to := netip.AddrPortFrom(ip, httpsPort)
			attempt(way{name: "tcp443", to: to.String(), optional: true}, func() error { return tryTCP(ctx, to.String(), nil) })
		}
	}
	for _, a := range addrs {
		ips := ipsOf([]ma.Multiaddr{a})
		if len(ips) == 0 || !routed(ips[0]) {
			continue
		}
		w := way{to: a.String()}
		_, host, err := manet.DialArgs(a)
		switch {
		case isTCP(a, httpsPort):
			w.name = "tcp443"
		case isTCP(a, 0):
			w.name = "tcp" + digit(ips[0])
		case err == nil && strings.Contains(w.to, "/quic-v1"):
			w.name = "quic" + digit(ips[0])
			attempt(w, func() error { return h.tryQUIC(ctx, a, p.id) })
			continue
		default:
			continue
		}
		if i := strings.LastIndex(host, ":"); err != nil || i < 0 { // with something over TCP: its port is what counts
			port, perr := a.ValueForProtocol(ma.P_TCP)
			if perr != nil {
				continue
			}
			host = net.JoinHostPort(ips[0].String(), port)
		}
		attempt(w, func() error { return tryTCP(ctx, host, greetingOf(a)) })
	}
	all.Wait()
	slices.SortFunc(p.ways, func(a, b way) int { return strings.Compare(a.name+a.to, b.name+b.to) })
}

func digit(ip netip.Addr) string {
	if ip.Is6() {
		return "6"
	}
	return "4"
}

func joinPorts(ports []uint16) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = strconv.Itoa(int(p))
	}
	return strings.Join(texts, " and ")
}

// ipsOf lists the IP addresses in multiaddrs, each once.
func ipsOf(addrs []ma.Multiaddr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		raw, err := manet.ToIP(a)
		if err != nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(raw); ok && !slices.Contains(out, ip.Unmap()) {
			out = append(out, ip.Unmap())
		}
	}
	return out
}

func hasIP(a ma.Multiaddr, ip netip.Addr) bool {
	return slices.Contains(ipsOf([]ma.Multiaddr{a}), ip)
}

// isTCP tells that the address is of TCP, on the port unless that is 0.
func isTCP(a ma.Multiaddr, port int) bool {
	text, err := a.ValueForProtocol(ma.P_TCP)
	return err == nil && (port == 0 || text == strconv.Itoa(port))
}

// resolveAll replaces names by addresses; those that are not found are left out.
func resolveAll(ctx context.Context, addrs []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		found, err := madns.DefaultResolver.Resolve(ctx, a)
		if err == nil {
			out = append(out, found[:min(len(found), doctorAddrs)]...)
		}
	}
	return out
}

// offline tells that this machine has no route to any internet address.
func offline() bool {
	return !routed(netip.AddrFrom4([4]byte{192, 0, 2, 1})) && !routed(netip.MustParseAddr("2001:db8::1")) // of documentation
}

// routed tells that this machine has a way to send there at all.
func routed(ip netip.Addr) bool {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 9))) // sends nothing
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func (h *Host) tryReflect(ctx context.Context, ip netip.Addr, ports []uint16) error {
	if err := mayUDP(netip.AddrPortFrom(ip, ports[0])); err != nil {
		return err
	}
	s, err := h.openReflect(ip.Is6())
	if err != nil {
		return err
	}
	defer s.close()
	answers := make(chan bool, len(ports))
	for _, port := range ports {
		h.wg.Go(func() {
			_, ok := s.ask(ctx, s, netip.AddrPortFrom(ip, port), relay.ReflectWish{})
			answers <- ok
		})
	}
	failed := 0
	for range ports {
		if !<-answers {
			failed++
		}
	}
	switch {
	case failed == len(ports):
		return errNoAnswer
	case failed > 0:
		return fmt.Errorf("%w on one of its ports", errNoAnswer)
	}
	return nil
}

// mayUDP sends a packet that no reflector answers: a firewall of this machine
// itself refuses it with an error.
func mayUDP(to netip.AddrPort) error {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte{0})
	return err
}

// tryTCP connects, and says what a relay answers to: a captive portal, or a
// firewall that answers in its place, lets itself be connected to as well.
func tryTCP(ctx context.Context, to string, greet func(context.Context, net.Conn) error) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if greet == nil {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return fmt.Errorf("limit the time of %s: %w", to, err)
		}
	}
	err = greet(ctx, c)
	if err != nil && (ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)) {
		return errNoAnswer
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errStranger, err)
	}
	return nil
}

// greetingOf is how a connection to the address begins; nil when not known.
func greetingOf(a ma.Multiaddr) func(context.Context, net.Conn) error {
	switch text := a.String(); {
	case strings.Contains(text, "/tls/"):
		name, _ := a.ValueForProtocol(ma.P_SNI) // "" without one
		return func(ctx context.Context, c net.Conn) error {
			return tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).HandshakeContext(ctx) //nolint:gosec // sends nothing; the relay's key is proven inside
		}
	case strings.Contains(text, "/ws"):
		return nil
	}
	return func(_ context.Context, c net.Conn) error {
		hello := []byte("\x13" + multistream.ProtocolID + "\n")
		if _, err := c.Write(hello); err != nil {
			return fmt.Errorf("greet: %w", err)
		}
		answer := make([]byte, len(hello))
		if _, err := io.ReadFull(c, answer); err != nil {
			return fmt.Errorf("answer to a greeting: %w", err)
		}
		if !bytes.Equal(answer, hello) {
			return fmt.Errorf("it says %q", answer)
		}
		return nil
	}
}

// tryQUIC makes a connection of QUIC and closes it again.
func (h *Host) tryQUIC(ctx context.Context, a ma.Multiaddr, p peer.ID) error {
	t := h.swarm.TransportForDialing(a)
	if t == nil {
		return errors.New("no transport for it")
	}
	c, err := t.Dial(ctx, a, p)
	if err != nil {
		return err
	}
	return c.Close()
}

// checkDNS resolves the names among the addresses of relays.
func (h *Host) checkDNS(ctx context.Context) Check {
	c := Check{Name: "dns", OK: true, Detail: "no relay is named, so none is needed"}
	ctx, cancel := context.WithTimeout(ctx, doctorTry)
	defer cancel()
	var found []string
	for _, p := range h.doctorRelays() {
		for _, a := range p.addrs {
			if !madns.Matches(a) {
				continue
			}
			got, err := madns.DefaultResolver.Resolve(ctx, a)
			if err != nil || len(got) == 0 {
				if err == nil {
					err = errors.New("no address")
				}
				return trouble("dns", p.id, fmt.Sprintf("%s: %s", a, err), reasonDNS)
			}
			found = append(found, a.String())
		}
	}
	if len(found) > 0 {
		c.Detail = "resolved: " + strings.Join(found, ", ")
	}
	return c
}

// checkProxy goes to a relay through the proxy that is configured.
func (h *Host) checkProxy(ctx context.Context) Check {
	if h.cfg.Proxy == "" {
		return Check{Name: "proxy", OK: true, Detail: "none is configured"}
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTry)
	defer cancel()
	var last error
	for _, p := range h.doctorRelays() {
		for _, a := range p.addrs {
			if !isTCP(a, 0) {
				continue
			}
			proxy, err := h.dialer.TryProxy(ctx, a)
			if err == nil {
				return Check{Name: "proxy", OK: true, Detail: fmt.Sprintf("%s leads to %s", proxy, a)}
			}
			last = err
			if errors.Is(err, web.ErrProxyAuth) {
				return trouble("proxy", p.id, err.Error(), reasonProxyAuth)
			}
		}
	}
	if last == nil {
		return Check{Name: "proxy", OK: true, Detail: "not tried: no relay with an address of TCP is known"}
	}
	if op, ok := errors.AsType[*net.OpError](last); ok && op.Op == "dial" {
		return trouble("proxy", "", last.Error(), reasonProxyDown)
	}
	return trouble("proxy", "", last.Error(), reasonProxyRefuses)
}

// trouble is a check that found some.
func trouble(name string, p peer.ID, detail string, r reason) Check {
	return Check{Name: name, Relay: p, Detail: detail, Cause: r.cause, Cure: r.cure}
}

// report turns what was seen into findings.
func (d *doctor) report() []Check {
	var out []Check
	if len(d.relays) == 0 {
		out = append(out, d.noRelays())
	}
	for _, p := range d.relays {
		out = append(out, d.link(p))
	}
	if !d.dns.OK && d.proxy.OK && d.h.cfg.Proxy != "" {
		d.dns = Check{Name: "dns", OK: true, Detail: "not resolved here, but by the proxy: " + d.dns.Detail}
	}
	out = append(out, d.clock(), d.dns, d.proxy)
	for _, p := range d.relays {
		for _, w := range p.ways {
			out = append(out, d.judge(p, w))
		}
	}
	out = append(out, d.h.nat64.check())
	if d.h.certs != nil {
		out = append(out, d.h.checkListen443())
	}
	out = append(out, d.nat()...)
	if d.lifetime != nil {
		out = append(out, *d.lifetime)
	}
	return append(out, d.portMapping())
}

func (d *doctor) noRelays() Check {
	c := Check{Name: "relay", OK: true}
	switch {
	case d.h.cfg.Relay != nil:
		c.Detail = "this node is a relay itself and joined no other"
	case d.h.cfg.NoRelays:
		c.Detail = "none is used (--no-relay)"
	default:
		return trouble("relay", "", "none is known", reasonNoJoin)
	}
	return c
}

func (d *doctor) link(p *patient) Check {
	if p.home.Up {
		detail := "linked"
		if p.home.Home {
			detail = "linked, a home"
		}
		if p.home.RTT > 0 {
			detail += fmt.Sprintf(", round trip %s", p.home.RTT.Round(100*time.Microsecond))
		}
		return Check{Name: "relay", Relay: p.id, OK: true, Detail: detail}
	}
	// A known relay that is neither home nor dialled is no trouble.
	if !p.home.Home && p.home.Err == nil && d.linked() {
		return Check{Name: "relay", Relay: p.id, OK: true, Detail: "known, not used now"}
	}
	detail := "not linked"
	if p.home.Err != nil {
		detail += ": " + foremost(p.home.Err)
	}
	return trouble("relay", p.id, detail, d.notLinked(p))
}

// notLinked is why there is no link to a relay.
func (d *doctor) notLinked(p *patient) reason {
	switch {
	case otherKey(p.home.Err) || slices.ContainsFunc(p.ways, func(w way) bool { return otherKey(w.err) }):
		return reasonOtherKey
	case d.offline && !d.works(nil):
		return reasonOffline
	case len(p.ips) == 0:
		return reasonNoAddress
	case len(p.ways) == 0:
		return reasonNoWay
	case d.swallowsLarge(p):
		return reasonBlackHole
	}
	if r, ok := d.shut(p); ok {
		return r
	}
	return reasonNotLinked
}

// shut is why no way at all leads to a relay; false when one does, or the proxy.
func (d *doctor) shut(p *patient) (reason, bool) {
	ended := func(with error) bool {
		return slices.ContainsFunc(p.ways, func(w way) bool { return errors.Is(w.err, with) })
	}
	switch {
	case d.works(p) || p.home.Up:
		return reason{}, false
	case ended(errStranger):
		return reasonStranger, true
	case d.works(nil):
		return reasonRelayDead, true
	case ended(syscall.ECONNREFUSED):
		return reasonRefused, true
	case d.linked() || d.h.cfg.Proxy != "" && d.proxy.OK: // by the proxy
		return reason{}, false
	case d.h.cfg.Proxy != "":
		return reasonCutOffProxy, true
	}
	return reasonCutOff, true
}

// swallowsLarge tells that small packets reach a relay by TCP and UDP, and those
// of QUIC, which are large, do not.
func (d *doctor) swallowsLarge(p *patient) bool {
	for _, family := range [...]string{"4", "6"} {
		if d.works(p, "udp"+family) && d.works(p, "tcp"+family, "tcp443") && !d.works(p, "quic"+family) &&
			slices.ContainsFunc(p.ways, func(w way) bool { return w.name == "quic"+family && errors.Is(w.err, errNoAnswer) }) {
			return true
		}
	}
	return false
}

// foremost is the first line of an error that says more than that this machine
// lacks an address family, or had no room for one more attempt.
func foremost(err error) string {
	lines := strings.Split(err.Error(), "\n")
	first := max(0, slices.IndexFunc(lines, func(line string) bool {
		return !strings.Contains(line, syscall.ENETUNREACH.Error()) && !strings.Contains(line, network.ErrResourceLimitExceeded.Error())
	}))
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%s (and %d more)", lines[first], len(lines)-1)
}

// otherKey tells that somebody answered who has another key.
func otherKey(err error) bool {
	if err == nil {
		return false
	}
	if _, ok := errors.AsType[sec.ErrPeerIDMismatch](err); ok {
		return true
	}
	return strings.Contains(err.Error(), "peer id mismatch") // quic-go keeps the text alone
}

func (d *doctor) linked() bool {
	return slices.ContainsFunc(d.relays, func(p *patient) bool { return p.home.Up })
}

// clock compares this machine's clock with what relays said when they were
// linked (PATH-25).
func (d *doctor) clock() Check {
	skews := d.h.clock.differences()
	if len(skews) == 0 {
		return Check{Name: "clock", OK: true, Detail: "no relay to compare it with"}
	}
	slices.Sort(skews)
	off := skews[(len(skews)-1)/2]
	detail := fmt.Sprintf("within %s of %s", off.Abs().Round(time.Second)+time.Second, relaysClocks(len(skews)))
	if off.Abs() > clockOff {
		detail = "off by " + longTime(off.Abs())
		if d.h.clock.corrected() {
			detail += ", corrected for address records"
		}
		return trouble("clock", "", detail, reasonClock(off, len(skews)))
	}
	return Check{Name: "clock", OK: true, Detail: detail}
}

// works tells that a way of that name works, to the relay or, when nil, to any.
func (d *doctor) works(to *patient, names ...string) bool {
	return slices.ContainsFunc(d.relays, func(p *patient) bool {
		return (to == nil || to == p) && slices.ContainsFunc(p.ways, func(w way) bool {
			return w.err == nil && (len(names) == 0 || slices.Contains(names, w.name))
		})
	})
}

func (d *doctor) judge(p *patient, w way) Check {
	if w.err == nil {
		return Check{Name: w.name, Relay: p.id, OK: true, Detail: fmt.Sprintf("%s answers after %s", w.to, w.took.Round(100*time.Microsecond))}
	}
	detail := fmt.Sprintf("%s: %s", w.to, w.err)
	if errors.Is(w.err, network.ErrResourceLimitExceeded) {
		return Check{Name: w.name, Relay: p.id, OK: true, Detail: "not tried: this node's own attempts to reach this relay are under way"}
	}
	if w.optional { // others may use it for something else, or nobody
		return Check{Name: w.name, Relay: p.id, OK: true, Detail: "the relay has not said that it offers this; " + detail}
	}
	return trouble(w.name, p.id, detail, d.blame(p, w))
}

// blame finds what is wrong with a way by what works beside it.
func (d *doctor) blame(p *patient, w way) reason {
	udp := strings.HasPrefix(w.name, "udp") || strings.HasPrefix(w.name, "quic")
	switch {
	case otherKey(w.err):
		return reasonOtherKey
	case errors.Is(w.err, errStranger):
		return reasonStranger
	case udp && d.forbidden(w.name[len(w.name)-1:]):
		return reasonLocalFirewall
	case strings.HasSuffix(w.name, "6") && !d.works(nil, "udp6", "tcp6", "quic6") && d.works(nil):
		return reasonNoIPv6
	case !p.home.Up && errors.Is(w.err, errNoAnswer) && d.swallowsLarge(p):
		return reasonBlackHole
	}
	if r, ok := d.shut(p); ok {
		return r
	}
	switch w.name {
	case "udp4", "udp6":
		if d.works(nil, w.name) {
			return reasonRelayUDP
		}
		return reasonUDPBlocked
	case "quic4", "quic6":
		if !d.works(nil, w.name, "udp"+w.name[len(w.name)-1:]) {
			return reasonUDPBlocked
		}
		if d.works(p, "udp"+w.name[len(w.name)-1:]) {
			return reasonLargeBlocked
		}
		return reasonQUICBlocked
	}
	if d.works(nil, w.name) {
		return reasonRelayTCP
	}
	return reasonTCPBlocked
}

// forbidden tells that this machine itself refuses to send UDP of the family.
func (d *doctor) forbidden(family string) bool {
	return slices.ContainsFunc(d.relays, func(p *patient) bool {
		return slices.ContainsFunc(p.ways, func(w way) bool {
			return (w.name == "udp"+family || w.name == "quic"+family) && errors.Is(w.err, os.ErrPermission)
		})
	})
}

// nat tells how the NAT behaves, in each family that gets through.
func (d *doctor) nat() []Check {
	if len(d.h.udp) == 0 {
		return []Check{{Name: "mapping4", OK: true, Detail: "not looked at: this node uses no UDP of its own (--hide-ip)"}}
	}
	var out []Check
	for _, v6 := range [...]bool{false, true} {
		n := d.h.nat.get(v6)
		suffix := "4"
		if v6 {
			suffix = "6"
		}
		if !n.Seen.IsValid() {
			if !v6 {
				out = append(out, Check{Name: "mapping4", OK: true, Detail: natUnknown + ": no relay answers by UDP"})
			}
			continue
		}
		if n.Seen.Addr().IsLoopback() { // which says nothing about a NAT
			if !v6 {
				out = append(out, Check{Name: "mapping4", OK: true, Detail: "not measured: the relay that answers is on this machine"})
			}
			continue
		}
		mapping := Check{Name: "mapping" + suffix, OK: true, Detail: mappingDetail(n)}
		if (n.Mapping == natAddress || n.Mapping == natPort) && !d.open() {
			mapping = trouble(mapping.Name, "", mapping.Detail, reasonSymmetric)
		}
		out = append(out, mapping, Check{Name: "filtering" + suffix, OK: true, Detail: filteringDetail(n.Filtering)})
		if !v6 {
			out = append(out, Check{Name: "hairpin4", OK: true, Detail: hairpinDetail(n.Hairpin)})
		}
	}
	return out
}

// open tells that a port of a router is known to lead here.
func (d *doctor) open() bool {
	if len(d.h.cfg.External) > 0 {
		return true
	}
	m := d.h.mapper.Load()
	if m == nil {
		return false
	}
	_, ok := m.External()
	return ok
}

func mappingDetail(n NAT) string {
	switch n.Mapping {
	case natNone:
		return fmt.Sprintf("none: there is no NAT, relays see %s", n.Seen.Addr())
	case natEndpoint:
		return fmt.Sprintf("endpoint-independent: every relay sees the same port of %s", n.Seen.Addr())
	case natAddress:
		return fmt.Sprintf("address-dependent: each relay sees another port of %s", n.Seen.Addr())
	case natPort:
		return fmt.Sprintf("address-and-port-dependent: each port of a relay sees another port of %s", n.Seen.Addr())
	}
	return fmt.Sprintf("unknown: seen at %s by one port of one relay only", n.Seen.Addr())
}

func filteringDetail(filtering string) string {
	switch filtering {
	case natNone:
		return "none: packets from anyone come in"
	case natEndpoint:
		return "endpoint-independent: packets from anyone come in once a port was used"
	case natAddress:
		return "address-dependent: packets come in from addresses that were sent to, perhaps from others"
	case natPort:
		return "address-and-port-dependent: packets come in only from where they were sent to"
	}
	return "unknown: it takes a relay that answers on two ports"
}

func hairpinDetail(hairpin string) string {
	switch hairpin {
	case "yes":
		return "yes: two nodes behind this NAT reach each other at its public address"
	case "no":
		return "no: two nodes behind this NAT reach each other at local addresses only"
	case natNone:
		return "not needed: there is no NAT"
	}
	return "unknown: only for a NAT that maps endpoint-independently"
}

func (d *doctor) portMapping() Check {
	c := Check{Name: "port-mapping", OK: true}
	m := d.h.mapper.Load()
	if m == nil {
		c.Detail = "not asked for: port_mapping is off, or there is no IPv4 socket for it"
		return c
	}
	st := m.Status()
	known := d.h.nat.get(false).Seen.IsValid()
	needed := slices.Contains([]string{natAddress, natPort}, d.h.nat.get(false).Mapping) && len(d.h.cfg.External) == 0
	switch {
	case st.External.IsValid():
		c.Detail = fmt.Sprintf("%s gives %s", st.Protocol, st.External)
		if st.Lifetime > 0 {
			c.Detail += fmt.Sprintf(" for %s, renewed in time", st.Lifetime)
		}
		return c
	case st.Err == nil:
		c.Detail = "the router has not answered yet"
		return c
	}
	c.Detail = foremost(st.Err)
	switch {
	case !known:
		c.Detail = "none, and no relay tells whether one is needed: " + c.Detail
		return c
	case !needed: // the NAT lets paths through as it is
		c.Detail = "none, and none is needed: " + c.Detail
		return c
	case errors.Is(st.Err, portmap.ErrNotPublic):
		return trouble(c.Name, "", c.Detail, reasonDoubleNAT)
	}
	return trouble(c.Name, "", c.Detail, reasonRouterRefuses)
}

// checkLifetime opens mappings at once and asks after each in another time,
// by a reply that is sent to it when another socket asks (RFC 5780, 4.6).
func (h *Host) checkLifetime(ctx context.Context, most time.Duration, tell func(string)) *Check {
	c := &Check{Name: "lifetime4", OK: true}
	var first netip.AddrPort
	for _, r := range h.reflectors.at(false) {
		if r.wishes {
			first = r.at[0]
			break
		}
	}
	n := h.nat.get(false)
	switch {
	case len(h.udp) == 0 || !first.IsValid() || !n.Seen.IsValid():
		c.Detail = "unknown: no relay that can be asked answers by UDP"
		return c
	case n.Mapping == natNone && n.Filtering == natNone:
		c.Detail = "not needed: there is no NAT"
		return c
	}
	probe, err := h.openReflect(false)
	if err != nil {
		c.Detail = "unknown: " + err.Error()
		return c
	}
	defer probe.close()
	type idle struct {
		s     *reflectSocket
		at    netip.AddrPort
		since time.Time
		after time.Duration
	}
	var idles []idle
	for _, after := range lifetimeSteps(most) {
		s, err := h.openReflect(false)
		if err != nil {
			continue
		}
		defer s.close()
		if at, ok := s.ask(ctx, s, first, relay.ReflectWish{}); ok {
			idles = append(idles, idle{s, at, time.Now(), after})
		}
	}
	if len(idles) == 0 {
		c.Detail = "unknown: the relay does not answer by UDP"
		return c
	}
	lives := time.Duration(0)
	for _, i := range idles {
		if sleepContext(ctx, time.Until(i.since.Add(i.after))) != nil {
			break
		}
		if _, ok := probe.ask(ctx, i.s, first, relay.ReflectWish{ToPort: i.at.Port()}); !ok {
			if _, ok := probe.ask(ctx, probe, first, relay.ReflectWish{}); !ok {
				c.Detail = fmt.Sprintf("an idle mapping lives %s or longer; then the relay answered no more", lives)
				return c
			}
			c.Detail = fmt.Sprintf("an idle mapping lives %s, and is gone after %s", lives, i.after)
			if i.after <= reflectEvery {
				t := trouble(c.Name, "", c.Detail, reasonShortLife(i.after))
				c = &t
			}
			return c
		}
		lives = i.after
		tell(fmt.Sprintf("a mapping that was idle for %s is there", lives))
	}
	c.Detail = fmt.Sprintf("an idle mapping lives %s or longer", lives)
	return c
}

// lifetimeSteps are the times after which mappings are asked after.
func lifetimeSteps(most time.Duration) []time.Duration {
	var out []time.Duration
	for _, s := range [...]int{5, 10, 15, 20, 25, 30, 45, 60, 90, 120} {
		if d := time.Duration(s) * time.Second; d < most {
			out = append(out, d)
		}
	}
	return append(out, most)
}
