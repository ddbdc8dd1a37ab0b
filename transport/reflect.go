package transport

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/alkdev/alknet-p2p/transport/magic/udp"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

const (
	reflectEvery   = 20 * time.Second // shorter than NATs forget an idle mapping
	reflectAgain   = 250 * time.Millisecond
	reflectTries   = 4
	reflectFresh   = 2 * reflectEvery
	udpPatience    = 100 * time.Millisecond // for an answer, beside three round trips
	reflectFeature = "reflect/"             // and the port, in a relay's Welcome
	wishFeature    = "reflect-wish"
	maxReflectors  = 16
)

// reflectors asks relays where this node's direct paths are seen from outside
// (PATH-31), and keeps the NAT mapping of their port alive by it.
type reflectors struct {
	h        *Host
	patience func() time.Duration // for an answer, before UDP is taken not to get through
	changed  func()               // peers are to hear what is known now

	mu      sync.Mutex
	targets map[relay.Key][]netip.AddrPort // reflectors of each relay
	wishes  map[relay.Key]bool             // those that reply another way than back
	asked   map[[12]byte]netip.AddrPort    // questions without an answer
	seen    map[netip.AddrPort]sighting    // by reflector
	quiet   time.Time                      // since when none has answered questions; zero: one has, or none was asked
	probes  map[[12]byte]probe             // questions of reflects
	wake    chan struct{}
}

// probe is a question whose answer somebody waits for.
type probe struct {
	to   netip.AddrPort
	back chan struct{}
}

// sighting is what a reflector answered.
type sighting struct {
	addr netip.AddrPort
	at   time.Time
}

func newReflectors(h *Host) *reflectors {
	return &reflectors{
		h: h, patience: h.udpPatience, changed: h.gather, wake: make(chan struct{}, 1),
		targets: make(map[relay.Key][]netip.AddrPort),
		wishes:  make(map[relay.Key]bool),
		asked:   make(map[[12]byte]netip.AddrPort),
		seen:    make(map[netip.AddrPort]sighting),
		probes:  make(map[[12]byte]probe),
	}
}

// learn takes the reflectors a relay offers in its Welcome.
func (r *reflectors) learn(k relay.Key, features []string) {
	p, err := magic.PeerID(k)
	if err != nil {
		return
	}
	c := r.h.stockConn(p)
	if c == nil {
		return
	}
	ip, err := manet.ToIP(c.RemoteMultiaddr())
	if err != nil {
		return
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return
	}
	var at []netip.AddrPort
	for _, f := range features {
		text, ok := strings.CutPrefix(f, reflectFeature)
		if !ok {
			continue
		}
		if port, err := strconv.ParseUint(text, 10, 16); err == nil && port != 0 && len(at) < 2 {
			at = append(at, netip.AddrPortFrom(r.h.nat64.plain(addr.Unmap()), uint16(port)))
		}
	}
	r.mu.Lock()
	if len(r.targets) >= maxReflectors {
		clear(r.targets)
		clear(r.wishes)
	}
	r.targets[k] = at
	r.wishes[k] = slices.Contains(features, wishFeature)
	r.mu.Unlock()
	r.kick()
	r.h.nat.kick()
}

// forget stops asking a relay.
func (r *reflectors) forget(k relay.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.everywhere(k) {
		delete(r.seen, a)
	}
	delete(r.targets, k)
	delete(r.wishes, k)
}

// everywhere are a relay's reflectors in both address families: a node with both
// learns its mappings in both, whichever its link to the relay goes by. The caller
// holds mu.
func (r *reflectors) everywhere(k relay.Key) []netip.AddrPort {
	known := r.targets[k]
	if len(known) == 0 {
		return nil
	}
	p, err := magic.PeerID(k)
	if err != nil {
		return known
	}
	met := known[0]
	ips := ipsOf(r.h.book.get(p))
	i := slices.IndexFunc(ips, func(ip netip.Addr) bool { // a public relay names no address of ours
		return ip.Is6() != met.Addr().Is6() && (outside(netip.AddrPortFrom(ip, met.Port())) || !outside(met))
	})
	if i < 0 {
		return known
	}
	out := slices.Clone(known)
	for _, a := range known {
		out = append(out, netip.AddrPortFrom(ips[i], a.Port()))
	}
	return out
}

// kick asks again at once: the network changed.
func (r *reflectors) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// reset forgets what was seen before the network changed, and asks again.
func (r *reflectors) reset() {
	r.mu.Lock()
	clear(r.seen)
	r.quiet = time.Time{}
	r.mu.Unlock()
	r.kick()
}

// run asks every reflector now and then until the host is closed.
func (r *reflectors) run() {
	timer := time.NewTimer(reflectEvery)
	defer timer.Stop()
	silence := time.NewTimer(reflectEvery)
	defer silence.Stop()
	for tries := 0; ; {
		select {
		case <-r.h.ctx.Done():
			return
		case <-silence.C:
			// A relay may have turned out to be farther away since the timer was set.
			if wait := r.untilSilent(); wait > 0 {
				silence.Reset(wait)
			} else {
				r.changed()
			}
			continue
		case <-timer.C:
		case <-r.wake:
			tries = 0
			r.mu.Lock()
			clear(r.asked)
			r.mu.Unlock()
		}
		wait := reflectEvery
		if open := r.ask(tries > 0); open && tries < reflectTries {
			tries++
			wait = reflectAgain << (tries - 1)
		} else {
			tries = 0
		}
		timer.Reset(wait)
		if wait := r.untilSilent(); wait > 0 {
			silence.Reset(wait)
		}
	}
}

// silent tells that reflectors were asked and none has answered for longer than
// any should take: UDP does not get through here.
func (r *reflectors) silent() bool {
	r.mu.Lock()
	quiet := r.quiet
	r.mu.Unlock()
	return !quiet.IsZero() && r.untilSilent() <= 0
}

// untilSilent is how long to wait until silent may tell so; 0 when there is
// nothing to wait for.
func (r *reflectors) untilSilent() time.Duration {
	r.mu.Lock()
	quiet := r.quiet
	r.mu.Unlock()
	if quiet.IsZero() {
		return 0
	}
	return max(0, r.patience()-time.Since(quiet))
}

// udpPatience is how long an answer of a reflector may take, as far as the round
// trips to the home relays tell.
func (h *Host) udpPatience() time.Duration {
	patience := udpPatience
	for _, home := range h.links.pool.Homes() {
		patience = max(patience, udpPatience+3*home.RTT)
	}
	return patience
}

// settled notes whether any reflector answered lately. The caller holds mu.
func (r *reflectors) settled(now time.Time) bool {
	for _, s := range r.seen {
		if now.Sub(s.at) < reflectFresh {
			return true
		}
	}
	return false
}

// ask sends questions: to all reflectors, or again to those that have not
// answered. It tells whether answers are open.
func (r *reflectors) ask(again bool) bool {
	r.mu.Lock()
	var to []netip.AddrPort
	if again {
		for _, a := range r.asked {
			if !slices.Contains(to, a) {
				to = append(to, a)
			}
		}
	} else {
		clear(r.asked)
		for k := range r.targets {
			to = append(to, r.everywhere(k)...)
		}
	}
	type question struct {
		tx [12]byte
		to netip.AddrPort
	}
	var qs []question
	for _, a := range to {
		q := question{to: a}
		rand.Read(q.tx[:])
		r.asked[q.tx] = a
		qs = append(qs, q)
	}
	if now := time.Now(); r.quiet.IsZero() && len(qs) > 0 && len(r.h.udp) > 0 && !r.settled(now) {
		r.quiet = now
	}
	r.mu.Unlock()
	for _, q := range qs {
		if err := r.h.socket.WriteRaw(relay.AppendReflectRequest(nil, q.tx), q.to); err != nil {
			r.h.log.Debug("reflector not asked", "addr", q.to, "err", err)
		}
	}
	return len(qs) > 0
}

// answer takes a reflector's answer from the direct paths' socket.
func (r *reflectors) answer(from netip.AddrPort, b []byte) {
	tx, addr, err := relay.ParseReflectReply(b)
	if err != nil {
		return
	}
	r.mu.Lock()
	if p, ok := r.probes[tx]; ok && p.to == from {
		close(p.back)
		delete(r.probes, tx)
		r.mu.Unlock()
		return
	}
	at, ok := r.asked[tx]
	if !ok || at != from {
		r.mu.Unlock()
		return
	}
	for t, a := range r.asked {
		if a == from {
			delete(r.asked, t)
		}
	}
	old := r.seen[from]
	r.seen[from] = sighting{addr, time.Now()}
	quiet := !r.quiet.IsZero()
	r.quiet = time.Time{}
	r.mu.Unlock()
	if old.addr != addr || quiet {
		r.changed()
	}
}

// addrs are the addresses this node was seen at lately, those that most
// reflectors agree on first.
func (r *reflectors) addrs() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	votes := make(map[netip.AddrPort]int)
	for _, s := range r.seen {
		if time.Since(s.at) < reflectFresh {
			votes[s.addr]++
		}
	}
	out := make([]netip.AddrPort, 0, len(votes))
	for a := range votes {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		if votes[a] != votes[b] {
			return votes[b] - votes[a]
		}
		return a.Compare(b)
	})
	return out
}

// mapping says how the NAT before this node maps its port (RFC 4787): "none"
// without a NAT, "unknown" before two reflectors have answered.
func (r *reflectors) mapping() string {
	own := r.h.localAddrs()
	r.mu.Lock()
	defer r.mu.Unlock()
	var v4 []netip.AddrPort
	for _, s := range r.seen {
		if s.addr.Addr().Is4() && time.Since(s.at) < reflectFresh {
			v4 = append(v4, s.addr)
		}
	}
	switch {
	case len(v4) == 0:
		return "unknown"
	case slices.Contains(own, v4[0]):
		return "none"
	case len(v4) == 1:
		return "unknown"
	}
	for _, a := range v4[1:] {
		if a != v4[0] {
			return "address-and-port-dependent"
		}
	}
	return "endpoint-independent"
}

// network is what mapping says in the words of a CallMeMaybe, and the ports at
// which this node was seen lately.
func (r *reflectors) network() (n disco.Network, ports []uint16) {
	switch r.mapping() {
	case "none":
		n.IPv4 = disco.MappingNone
	case "endpoint-independent":
		n.IPv4 = disco.MappingIndependent
	case "address-and-port-dependent":
		n.IPv4 = disco.MappingDependent
	}
	own := r.h.localAddrs()
	for _, a := range r.addrs() {
		switch {
		case a.Addr().Is4():
			ports = append(ports, a.Port())
		case slices.Contains(own, a):
			n.IPv6 = disco.MappingNone
		}
	}
	return n, ports
}

// reflects asks a reflector that has answered lately whether it still does, and
// waits for the answer until ctx ends. True also when there is none to ask.
func (r *reflectors) reflects(ctx context.Context) bool {
	var tx [12]byte
	rand.Read(tx[:])
	p := probe{back: make(chan struct{})}
	r.mu.Lock()
	for to, s := range r.seen {
		if to.Addr().Is4() && time.Since(s.at) < reflectFresh {
			p.to = to
			break
		}
	}
	if p.to.IsValid() {
		r.probes[tx] = p
	}
	r.mu.Unlock()
	if !p.to.IsValid() {
		return true
	}
	defer func() {
		r.mu.Lock()
		delete(r.probes, tx)
		r.mu.Unlock()
	}()
	if err := r.h.socket.WriteRaw(relay.AppendReflectRequest(nil, tx), p.to); err != nil {
		return false
	}
	select {
	case <-p.back:
		return true
	case <-ctx.Done():
		return false
	}
}

// startReflectors answers on two ports of a relay, so that clients can tell
// how their NAT maps, and what it lets in.
func (h *Host) startReflectors() ([]string, error) {
	features := []string{wishFeature}
	ips := h.bindIPs()
	var ports [2]uint16 // the same for both families, so that one number names both
	if h.cfg.Listen == nil {
		ports = [2]uint16{RelayPort + 1, RelayPort + 2}
	}
	for _, network := range [...]string{"udp4", "udp6"} {
		ip, ok := ips[network]
		if !ok {
			continue
		}
		var conns [2]*udp.Conn
		for i, port := range ports {
			c, err := udp.Listen(network, netip.AddrPortFrom(ip, port))
			if err != nil {
				if network == "udp6" {
					continue
				}
				if conns[0] != nil {
					_ = conns[0].Close()
				}
				return nil, fmt.Errorf("%w on UDP port %d for the reflector: %w", ErrBind, port, err)
			}
			conns[i], ports[i] = c, c.LocalAddr().Port()
			if f := reflectFeature + strconv.Itoa(int(ports[i])); !slices.Contains(features, f) {
				features = append(features, f)
			}
		}
		for i, c := range conns {
			if c != nil {
				h.reflecting = append(h.reflecting, relay.NewReflector(c, conns[1-i]))
			}
		}
	}
	return features, nil
}
