package natlab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// prefix begins the names of all our namespaces and lock files.
	prefix  = "natlab-"
	lockDir = "/run"
)

var (
	errHeld   = errors.New("a living process has this lab")
	errNoHost = errors.New("no such host")
	errNoNAT  = errors.New("it is not behind a NAT")
	errNoIPv4 = errors.New("it has no IPv4")
)

// Lab is a small internet. All methods may be called concurrently; events
// happen one after the other.
type Lab struct {
	id     string
	config Config
	inet   namespace
	lock   *lock

	mu          sync.Mutex
	closed      bool
	hosts       map[string]*member
	wires       []*wire
	sites       int // ever made, so that no address comes twice
	lans        int
	nameServers []*nameServer
	cables      map[string]string // devices of Connect, by both hosts
	undo        map[string]*timer // ends of events that last for a time, by event and host
	timers      sync.WaitGroup    // armed or running
	failed      error             // of events that a timer ended
	close       func() error
}

// member is a host as the lab keeps it.
type member struct {
	name   string
	kind   Kind
	space  namespace
	addr   netip.Addr // IPv4, zero if it has none
	addr6  netip.Addr // IPv6, zero if it has none
	uplink *uplink    // nil behind a router
	router *router    // nil on the internet
}

// New builds a lab, in some tenths of a second. It first removes what labs
// left behind whose process died. If New fails, it leaves nothing behind.
// [Lab.Close] takes the lab down.
func New(c Config) (*Lab, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := c.available(); err != nil {
		return nil, err
	}
	if err := removeStale(); err != nil {
		return nil, fmt.Errorf("remove labs of dead processes: %w", err)
	}

	c.Peers, c.Public, c.Links = slices.Clone(c.Peers), slices.Clone(c.Public), maps.Clone(c.Links)
	l := &Lab{
		id:     c.ID,
		config: c,
		hosts:  make(map[string]*member),
		undo:   make(map[string]*timer),
		cables: make(map[string]string),
	}
	if l.id == "" {
		var b [5]byte
		_, _ = rand.Read(b[:]) // never fails
		l.id = hex.EncodeToString(b[:])
	}
	l.inet = l.space(inetName)
	l.close = sync.OnceValue(l.takeDown)

	var err error
	l.lock, err = newLock(lockPath(l.id))
	if errors.Is(err, fs.ErrExist) { // what is dead was removed above
		err = errHeld
	}
	if err != nil {
		return nil, fmt.Errorf("lab %q: %w", l.id, err)
	}
	if err := l.build(); err != nil {
		return nil, errors.Join(err, l.Close())
	}

	return l, nil
}

// Close ends all programs in the lab with SIGKILL and removes the lab. It may
// be called more than once. Sockets that [Host.Do] opened and that are still
// open keep their namespace, without a name, in the kernel.
func (l *Lab) Close() error { return l.close() }

// ID returns the lab's ID.
func (l *Lab) ID() string { return l.id }

// Host returns the host of that name. If there is none, the methods of the
// result return errors and zero values.
func (l *Lab) Host(name string) *Host { return &Host{lab: l, name: name} }

func (l *Lab) space(name string) namespace { return namespace(prefix + l.id + "-" + name) }

func (l *Lab) build() error {
	if err := addNamespaces(l.inet); err != nil {
		return err
	}
	if err := l.inet.sysctl("ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1"); err != nil {
		return err
	}
	for _, name := range l.config.Public {
		if err := l.add(Peer{Name: name, Kind: None}); err != nil {
			return err
		}
	}
	for _, p := range l.config.Peers {
		if err := l.add(p.normal()); err != nil {
			return err
		}
	}

	return nil
}

func (l *Lab) add(p Peer) error {
	m := &member{name: p.Name, space: l.space(p.Name)}
	if err := addNamespaces(m.space); err != nil {
		return fmt.Errorf("host %q: %w", p.Name, err)
	}
	if err := l.attach(m, p); err != nil {
		return fmt.Errorf("host %q: %w", p.Name, err)
	}
	l.hosts[p.Name] = m

	return nil
}

// member finds a host of a lab that is not closed.
func (l *Lab) member(name string) (*member, error) {
	if l.closed {
		return nil, ErrClosed
	}
	m := l.hosts[name]
	if m == nil {
		return nil, errNoHost
	}

	return m, nil
}

// attach connects a host that has no interface to the network p describes.
func (l *Lab) attach(m *member, p Peer) error {
	switch {
	case p.Behind != "":
		other := l.hosts[p.Behind]
		m.kind, m.router = other.kind, other.router
	case p.Kind == None:
		u, err := l.newUplink(m.name, m.space, "eth0", !p.NoIPv4, !p.NoIPv6)
		if err != nil {
			return err
		}
		m.kind, m.uplink = None, u
		if u.ipv4 {
			m.addr = u.addr
		}
		if u.ipv6 {
			m.addr6 = u.addr6
		}

		return nil
	default:
		r, err := l.newRouters(m.name, p)
		if err != nil {
			return err
		}
		m.kind, m.router = p.Kind, r
	}

	port, addr, err := m.router.nextPort()
	if err != nil {
		return err
	}
	if m.router.policy.ipv4 {
		m.addr = addr
	}
	if m.router.policy.ipv6 {
		b := m.router.lan6.Addr().As16()
		b[15] = addr.As4()[3]
		m.addr6 = netip.AddrFrom16(b)
	}
	if m.router.policy.nat64 {
		if err := m.space.setResolver(m.router.gateway6()); err != nil {
			return err
		}
	}
	if err := m.router.plug(port, m.space, "eth0"); err != nil {
		return err
	}

	return m.space.ip(m.up()...)
}

// newRouters makes the router that p asks for, with its carrier.
func (l *Lab) newRouters(owner string, p Peer) (*router, error) {
	home := p.policy()
	if p.Kind != CGNAT {
		return l.newRouter(owner, "nat", home, nil)
	}
	if p.Carrier != "" {
		return l.newRouter(owner, "nat", home, l.hosts[p.Carrier].router.carrier)
	}
	carrier, err := l.newRouter(owner, "isp", home.carrier(), nil)
	if err != nil {
		return nil, err
	}

	return l.newRouter(owner, "nat", home, carrier)
}

// detach removes the host's interface.
func (l *Lab) detach(m *member) error {
	var err error
	if u := m.uplink; u != nil {
		l.disarm("dark " + u.far)
		err = errors.Join(u.light(), u.remove())
	} else {
		err = m.space.ip("link del eth0")
	}
	*m = member{name: m.name, kind: m.kind, space: m.space}

	return err
}

// up are the ip commands that bring the host's interface up, at first and
// after it was down.
func (m *member) up() []string {
	if m.uplink != nil {
		return m.uplink.nearEnd()
	}

	lines := []string{"link set eth0 up"}
	if m.addr.IsValid() {
		lines = append(lines,
			fmt.Sprintf("address replace %v/24 dev eth0", m.addr),
			fmt.Sprintf("route replace default via %v", m.router.gateway()))
	}
	if m.addr6.IsValid() {
		lines = append(lines,
			fmt.Sprintf("address replace %v/64 dev eth0 nodad", m.addr6),
			fmt.Sprintf("route replace ::/0 via %v", m.router.gateway6()))
	}

	return lines
}

// main is the host's IPv4 address, or IPv6 if it has no other.
func (m *member) main() netip.Addr {
	if m.addr.IsValid() {
		return m.addr
	}

	return m.addr6
}

// edge is the cable by which the host meets the internet.
func (m *member) edge() *uplink {
	if m.uplink != nil {
		return m.uplink
	}

	return m.router.edge()
}

func (l *Lab) takeDown() error {
	l.mu.Lock()
	l.closed = true
	for key := range l.undo {
		l.disarm(key)
	}
	l.mu.Unlock()
	l.timers.Wait()

	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.failed
	spaces, listed := namespacesOf(l.id)
	err = errors.Join(err, listed, removeNamespaces(spaces))
	for _, s := range l.nameServers {
		err = errors.Join(err, s.close())
	}
	for _, w := range l.wires {
		err = errors.Join(err, w.close())
	}

	return errors.Join(err, l.lock.release())
}

// timer ends an event that lasts for a time.
type timer struct{ *time.Timer }

// arm lets end run after d, unless disarm comes first; with d zero it only
// disarms. l.mu is held, also when end runs.
func (l *Lab) arm(key string, d time.Duration, end func() error) {
	l.disarm(key)
	if d <= 0 {
		return
	}
	t := new(timer)
	l.undo[key] = t
	l.timers.Add(1)
	t.Timer = time.AfterFunc(d, func() {
		defer l.timers.Done()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.undo[key] != t { // disarmed while it waited for l.mu
			return
		}
		delete(l.undo, key)
		l.failed = errors.Join(l.failed, end())
	})
}

func (l *Lab) disarm(key string) {
	if t := l.undo[key]; t != nil {
		delete(l.undo, key)
		if t.Stop() {
			l.timers.Done()
		}
	}
}

// available says what the machine lacks for building labs.
func (c Config) available() error {
	if err := capable(); err != nil {
		return err
	}
	programs := []string{"ip", "nft"}
	if slices.ContainsFunc(c.Peers, func(p Peer) bool { return p.PortMapping != NoPortMapping }) {
		programs = append(programs, "miniupnpd")
	}
	if slices.ContainsFunc(c.Peers, func(p Peer) bool { return p.NAT64 }) {
		programs = append(programs, "tayga")
	}
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w: %w (Debian packages iproute2, nftables, miniupnpd-nftables and tayga)", ErrUnavailable, err)
		}
	}

	return nil
}

func lockPath(id string) string { return filepath.Join(lockDir, prefix+id+".lock") }

// removeStale removes the labs whose process died.
func removeStale() error {
	paths, err := filepath.Glob(lockPath("*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), prefix), ".lock")
		held, err := takeLock(path)
		if err != nil { // alive, or gone meanwhile
			continue
		}
		spaces, err := namespacesOf(id)
		err = errors.Join(err, removeNamespaces(spaces))
		// The file goes last, and only with the rest: it is how the next one
		// finds what is left.
		if err != nil {
			return errors.Join(err, held.abandon())
		}
		if err := held.release(); err != nil {
			return err
		}
	}

	return nil
}
