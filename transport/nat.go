package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/magic/nat64"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// How a NAT or firewall behaves, in the words of RFC 4787.
const (
	natUnknown  = "unknown"
	natNone     = "none" // there is none, or it lets everything through
	natEndpoint = "endpoint-independent"
	natAddress  = "address-dependent"
	natPort     = "address-and-port-dependent"
)

// NAT is what was measured of the NAT or firewall before this node in one
// address family. Every field is "unknown" before.
type NAT struct {
	// Mapping: none, endpoint-independent, address-dependent,
	// address-and-port-dependent.
	Mapping string
	// Filtering: the same words. One relay alone cannot tell
	// endpoint-independent from address-dependent, which is said then.
	Filtering string
	// Hairpin tells whether two nodes behind the NAT reach each other at its
	// public addresses: yes, no.
	Hairpin string
	// Seen is an address at which this node was seen; invalid when UDP does not
	// get through.
	Seen netip.AddrPort
}

const (
	natSettle   = time.Second      // relays come up together
	natAgain    = 10 * time.Second // between two measurements
	natTime     = 5 * time.Second  // for one
	natRelays   = 4                // asked in one
	hairpinWait = 200 * time.Millisecond
)

// natState measures the NAT before this node whenever the network, or what can
// be asked, has changed.
type natState struct {
	h    *Host
	wake chan struct{}

	mu    sync.Mutex
	found [2]NAT // of IPv4, IPv6
}

func newNATState(h *Host) *natState {
	n := &natState{h: h, wake: make(chan struct{}, 1)}
	n.forget()
	return n
}

// get is what is known of a family.
func (n *natState) get(v6 bool) NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.found[family(v6)]
}

func (n *natState) put(v6 bool, found NAT) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.found[family(v6)] = found
}

func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

func (n *natState) forget() {
	for _, v6 := range [...]bool{false, true} {
		n.put(v6, NAT{Mapping: natUnknown, Filtering: natUnknown, Hairpin: natUnknown})
	}
}

// kick makes it measure soon: there is more to ask, or another network.
func (n *natState) kick() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run measures until the host is closed.
func (n *natState) run() {
	if len(n.h.udp) == 0 {
		return
	}
	wait := natSettle
	for {
		select {
		case <-n.h.ctx.Done():
			return
		case <-n.wake:
		}
		if sleepContext(n.h.ctx, wait) != nil {
			return
		}
		n.measure(n.h.ctx)
		wait = natAgain
	}
}

// measure measures both families now.
func (n *natState) measure(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, natTime)
	defer cancel()
	var both sync.WaitGroup
	for _, v6 := range [...]bool{false, true} {
		both.Go(func() {
			if at := n.h.reflectors.at(v6); len(at) > 0 {
				if found, err := n.h.measureNAT(ctx, v6, at); err == nil && ctx.Err() == nil {
					n.put(v6, found)
				}
			}
		})
	}
	both.Wait()
}

func sleepContext(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reflectorsOf is where one relay reflects in one address family.
type reflectorsOf struct {
	at     []netip.AddrPort // of one IP address
	wishes bool             // also by another way than back
}

// at lists the reflectors of the relays this node is linked to, those first
// that can be asked most. Those of this machine, which see no NAT, are listed
// only where there is no other.
func (r *reflectors) at(v6 bool) []reflectorsOf {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []reflectorsOf
	for k, known := range r.targets {
		if len(known) == 0 {
			continue
		}
		ips := []netip.Addr{known[0].Addr()}
		if p, err := magic.PeerID(k); err == nil {
			ips = append(ips, ipsOf(r.h.book.get(p))...)
		}
		i := slices.IndexFunc(ips, func(ip netip.Addr) bool { return ip.Is6() == v6 })
		if i < 0 {
			continue
		}
		one := reflectorsOf{wishes: r.wishes[k]}
		for _, a := range known {
			one.at = append(one.at, netip.AddrPortFrom(ips[i], a.Port()))
		}
		out = append(out, one)
	}
	local := func(o reflectorsOf) bool { return o.at[0].Addr().IsLoopback() }
	if slices.ContainsFunc(out, func(o reflectorsOf) bool { return !local(o) }) {
		out = slices.DeleteFunc(out, local)
	}
	slices.SortFunc(out, func(a, b reflectorsOf) int {
		if a.wishes != b.wishes {
			if a.wishes {
				return -1
			}
			return 1
		}
		return a.at[0].Compare(b.at[0])
	})
	return out[:min(len(out), natRelays)]
}

// measureNAT measures as RFC 5780 does, with sockets of its own: what the direct
// paths' socket has sent would change what the NAT lets in.
func (h *Host) measureNAT(ctx context.Context, v6 bool, relays []reflectorsOf) (NAT, error) {
	found := NAT{Mapping: natUnknown, Filtering: natUnknown, Hairpin: natUnknown}
	wide, err := h.openReflect(v6) // asks everybody
	if err != nil {
		return found, err
	}
	defer wide.close()
	narrow, err := h.openReflect(v6) // asks one port of one relay
	if err != nil {
		return found, err
	}
	defer narrow.close()

	seen := wide.askAll(ctx, relays)
	found.Mapping = mappingOf(wide.isOwn, relays, seen)
	var first reflectorsOf // the one narrow asks
	for _, r := range relays {
		if s, ok := seen[r.at[0]]; ok {
			found.Seen = s
			first = r
			break
		}
	}
	if !found.Seen.IsValid() || !first.wishes {
		return found, nil
	}
	at, ok := narrow.ask(ctx, narrow, first.at[0], relay.ReflectWish{})
	if !ok {
		return found, nil
	}
	found.Filtering = h.filteringOf(ctx, filterProbe{wide, narrow, relays, seen, first, at, found.Mapping})
	switch found.Mapping {
	case natEndpoint:
		found.Hairpin = "no"
		if hairpins(ctx, wide, found.Seen, narrow, at) {
			found.Hairpin = "yes"
		}
	case natNone:
		found.Hairpin = natNone
	}
	return found, nil
}

// mappingOf judges where each reflector sees one socket. Two answers are needed
// to tell that mappings are the same for all.
func mappingOf(own func(netip.AddrPort) bool, relays []reflectorsOf, seen map[netip.AddrPort]netip.AddrPort) string {
	var one netip.AddrPort
	same, perRelay := true, true
	for _, r := range relays {
		var of netip.AddrPort // what this relay's first port saw
		for _, to := range r.at {
			s, ok := seen[to]
			if !ok {
				continue
			}
			if own(s) {
				return natNone
			}
			if !one.IsValid() {
				one = s
			}
			if !of.IsValid() {
				of = s
			}
			same = same && s == one
			perRelay = perRelay && s == of
		}
	}
	switch {
	case len(seen) == 0, len(seen) == 1:
		return natUnknown
	case same:
		return natEndpoint
	case perRelay && slices.ContainsFunc(relays, func(r reflectorsOf) bool {
		return len(r.at) > 1 && seen[r.at[0]].IsValid() && seen[r.at[1]].IsValid()
	}):
		return natAddress
	}
	return natPort
}

// filterProbe is what filteringOf works with.
type filterProbe struct {
	wide, narrow *reflectSocket
	relays       []reflectorsOf
	seen         map[netip.AddrPort]netip.AddrPort // wide, by reflector
	first        reflectorsOf                      // the only one narrow has sent to, at its first port
	at           netip.AddrPort                    // where that sees narrow
	mapping      string
}

// filteringOf tries what comes in at an address that was opened towards one
// port of one relay only.
func (h *Host) filteringOf(ctx context.Context, p filterProbe) string {
	if len(p.first.at) < 2 {
		return natUnknown
	}
	other, stranger, asked := false, false, false
	var tries sync.WaitGroup
	tries.Go(func() {
		_, other = p.narrow.ask(ctx, p.narrow, p.first.at[0], relay.ReflectWish{FromOther: true})
	})
	for _, r := range p.relays {
		// Another relay replies to narrow when wide asks it, which it sees at the
		// same address.
		if r.wishes && r.at[0].Addr() != p.first.at[0].Addr() && p.seen[r.at[0]].Addr() == p.at.Addr() {
			asked = true
			tries.Go(func() {
				_, stranger = p.wide.ask(ctx, p.narrow, r.at[0], relay.ReflectWish{ToPort: p.at.Port()})
			})
			break
		}
	}
	tries.Wait()
	switch {
	case ctx.Err() != nil:
		return natUnknown
	case (stranger || !asked && other) && p.mapping == natNone:
		return natNone
	case stranger:
		return natEndpoint
	case other:
		return natAddress
	}
	return natPort
}

// hairpins lets two sockets behind the NAT send to each other's public address.
// Both do, so that no filter is in the way.
func hairpins(ctx context.Context, a *reflectSocket, atA netip.AddrPort, b *reflectSocket, atB netip.AddrPort) bool {
	var tx [12]byte
	rand.Read(tx[:])
	gotA, gotB := a.expect(tx), b.expect(tx)
	for range 4 {
		knock := relay.AppendReflectRequest(nil, tx)
		a.send(knock, atB)
		b.send(knock, atA)
		select {
		case <-gotA:
			return true
		case <-gotB:
			return true
		case <-time.After(hairpinWait):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// reflectSocket is a UDP socket that asks reflectors; it owns one goroutine.
type reflectSocket struct {
	conn   *net.UDPConn
	prefix netip.Prefix              // of the NAT64 by which IPv4 is reached; zero without
	isOwn  func(netip.AddrPort) bool // an address of this socket on this machine
	done   chan struct{}

	mu    sync.Mutex
	waits map[[12]byte]chan netip.AddrPort
}

// openReflect opens one on any port, where the direct paths' sockets are.
func (h *Host) openReflect(v6 bool) (*reflectSocket, error) {
	network := "udp4"
	var prefix netip.Prefix
	if !v6 {
		prefix = h.nat64.prefix()
	}
	if v6 || prefix.IsValid() {
		network = "udp6"
	}
	ip, ok := h.bindIPs()[network]
	if !ok {
		return nil, errors.New("not listening on " + network)
	}
	conn, err := net.ListenUDP(network, &net.UDPAddr{IP: ip.AsSlice()})
	if err != nil {
		return nil, err
	}
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	ips := make(map[netip.Addr]bool)
	for _, a := range h.localAddrs() {
		ips[a.Addr()] = true
	}
	s := &reflectSocket{
		conn: conn, prefix: prefix, done: make(chan struct{}), waits: make(map[[12]byte]chan netip.AddrPort),
		isOwn: func(a netip.AddrPort) bool { return a.Port() == port && ips[a.Addr()] },
	}
	go func() {
		defer close(s.done)
		s.read()
	}()
	return s, nil
}

// close returns after the goroutine.
func (s *reflectSocket) close() {
	_ = s.conn.Close()
	<-s.done
}

func (s *reflectSocket) read() {
	buf := make([]byte, 256)
	for failed := 0; failed < 100; {
		n, err := s.conn.Read(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			failed++ // such as a port unreachable, said of something sent before
			continue
		}
		tx, at, err := relay.ParseReflectReply(buf[:n])
		if err != nil {
			if tx, _, err = relay.ParseReflectRequest(buf[:n]); err != nil {
				continue
			}
			at = netip.AddrPort{}
		}
		s.mu.Lock()
		if wait := s.waits[tx]; wait != nil {
			select {
			case wait <- at:
			default:
			}
		}
		s.mu.Unlock()
	}
}

// expect returns a channel on which the first packet with the transaction
// comes: where a reply sees the asker.
func (s *reflectSocket) expect(tx [12]byte) <-chan netip.AddrPort {
	wait := make(chan netip.AddrPort, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits[tx] = wait
	return wait
}

func (s *reflectSocket) send(b []byte, to netip.AddrPort) {
	if s.prefix.IsValid() {
		to = netip.AddrPortFrom(nat64.Synthesize(s.prefix, to.Addr()), to.Port())
	}
	_, _ = s.conn.WriteToUDPAddrPort(b, to) // lost, as on any network
}

// ask asks a reflector, up to four times in 1.5 s, and waits for its reply at a
// socket. Replies cannot be forged by who does not see the question.
func (s *reflectSocket) ask(ctx context.Context, at *reflectSocket, to netip.AddrPort, wish relay.ReflectWish) (netip.AddrPort, bool) {
	var tx [12]byte
	rand.Read(tx[:])
	reply := at.expect(tx)
	for _, wait := range [...]time.Duration{200 * time.Millisecond, 300 * time.Millisecond, 400 * time.Millisecond, 600 * time.Millisecond} {
		s.send(relay.AppendReflectWish(nil, tx, wish), to)
		timer := time.NewTimer(wait)
		select {
		case seen := <-reply:
			timer.Stop()
			return seen, seen.IsValid()
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return netip.AddrPort{}, false
		}
	}
	return netip.AddrPort{}, false
}

// askAll asks every reflector at once where it sees the socket.
func (s *reflectSocket) askAll(ctx context.Context, relays []reflectorsOf) map[netip.AddrPort]netip.AddrPort {
	var (
		mu   sync.Mutex
		all  sync.WaitGroup
		seen = make(map[netip.AddrPort]netip.AddrPort)
	)
	for _, r := range relays {
		for _, to := range r.at {
			all.Go(func() {
				if at, ok := s.ask(ctx, s, to, relay.ReflectWish{}); ok {
					mu.Lock()
					seen[to] = at
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	return seen
}
