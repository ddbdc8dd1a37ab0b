package natlab

import (
	"fmt"
	"net/netip"
	"time"
)

// NewIP gives the host's NAT, or the public host itself, a new public address;
// the NAT forgets its mappings. Behind a carrier it is the carrier's address.
// Packets are let through all the time: an ISP changes the address, nothing
// reboots.
func (l *Lab) NewIP(host string) error {
	return l.event("new IP", host, func(m *member) error {
		u := m.edge()
		old, err := u.reserve()
		if err != nil {
			return err
		}
		if m.router == nil {
			m.addr = u.addr
			return u.renumber(old)
		}
		r := m.router.outermost()
		r.wan = u.addr

		return r.move(func() error { return u.renumber(old) })
	})
}

// NewLAN gives a host behind a NAT a new LAN address. Its old connections are
// dead, as after a new DHCP lease.
func (l *Lab) NewLAN(host string) error {
	return l.event("new LAN address", host, func(m *member) error {
		if m.router == nil || !m.addr.IsValid() {
			return errNoNAT
		}
		_, addr, err := m.router.nextPort()
		if err != nil {
			return err
		}
		old := m.addr
		m.addr = addr

		return m.space.ip(append([]string{fmt.Sprintf("address del %v/24 dev eth0", old)}, m.up()...)...)
	})
}

// Move takes the host to another network: its interface goes, and another one
// with other addresses comes, in the network that to describes. The name in to
// is not used. The old NAT stays for others behind it.
func (l *Lab) Move(host string, to Peer) error {
	to = to.normal()
	to.Name = host

	return l.event("move", host, func(m *member) error {
		if to.Behind == host || to.Carrier == host {
			return fmt.Errorf("behind itself: %w", errNoHost)
		}
		kinds := make(map[string]Kind)
		for name, h := range l.hosts {
			kinds[name] = h.kind
		}
		if err := to.check(kinds); err != nil {
			return err
		}
		l.disarm("unplug " + host)
		if err := l.detach(m); err != nil {
			return err
		}

		return l.attach(m, to)
	})
}

// NATReset reboots the NATs between the host and the internet: all mappings
// and connections are forgotten.
func (l *Lab) NATReset(host string) error {
	return l.event("NAT reset", host, func(m *member) error { return m.resetRouters(false) })
}

// NATShuffle is NATReset after which an EIM NAT no longer keeps ports.
func (l *Lab) NATShuffle(host string) error {
	return l.event("NAT shuffle", host, func(m *member) error { return m.resetRouters(true) })
}

func (m *member) resetRouters(shuffle bool) error {
	if m.router == nil {
		return errNoNAT
	}
	for r := m.router; r != nil; r = r.carrier {
		if shuffle {
			r.policy.keepPort = false
		}
		if err := r.reset(); err != nil {
			return err
		}
	}

	return nil
}

// NATRemap gives every UDP mapping of the NATs between the host and the internet
// another public port, also those in use; TCP connections are kept. From then
// on an EIM NAT no longer keeps ports. Masquerade does, so nothing changes there.
func (l *Lab) NATRemap(host string) error {
	return l.event("NAT remap", host, func(m *member) error {
		if m.router == nil {
			return errNoNAT
		}
		for r := m.router; r != nil; r = r.carrier {
			r.policy.keepPort = false
			if err := r.renew(r.space.forgetUDP); err != nil {
				return err
			}
		}

		return nil
	})
}

// Connect lays a second, fast cable between two hosts. Each gets one more
// interface with an address of a private IPv4 network of their own; where their
// other packets go does not change. [Lab.Disconnect] ends it.
func (l *Lab) Connect(host, other string) error {
	return l.event("connect", host, func(m *member) error {
		o, err := l.member(other)
		if err != nil {
			return fmt.Errorf("%q: %w", other, err)
		}
		key := cableName(host, other)
		if m == o || l.cables[key] != "" {
			return fmt.Errorf("%q: connected already", other)
		}
		lan, err := l.nextLAN()
		if err != nil {
			return err
		}
		dev := fmt.Sprintf("lan%d", lan)
		if err := ip(fmt.Sprintf("link add name %[1]s netns %[2]s type veth peer name %[1]s netns %[3]s", dev, m.space, o.space)); err != nil {
			return err
		}
		l.cables[key] = dev
		for i, space := range []namespace{m.space, o.space} {
			addr := netip.AddrFrom4([4]byte{192, 168, byte(firstLAN + lan), byte(1 + i)})
			if err := space.ip("link set "+dev+" up", fmt.Sprintf("address add %v/24 dev %s", addr, dev)); err != nil {
				return err
			}
		}

		return nil
	})
}

// Disconnect takes away what [Lab.Connect] laid.
func (l *Lab) Disconnect(host, other string) error {
	return l.event("disconnect", host, func(m *member) error {
		key := cableName(host, other)
		dev := l.cables[key]
		if dev == "" {
			return fmt.Errorf("%q: not connected", other)
		}
		delete(l.cables, key)

		return m.space.ip("link del " + dev)
	})
}

// cableName is the same for both ends.
func cableName(a, b string) string { return min(a, b) + " " + max(a, b) }

// Dark makes the cable between the host's site and the internet swallow every
// packet, silently, until [Lab.Light] or, if d is not zero, for d. It returns
// at once.
func (l *Lab) Dark(host string, d time.Duration) error {
	return l.darken("dark", host, inward|outward, d)
}

// Deaf is [Lab.Dark] in one direction: nothing from the internet reaches the
// host's site, what it sends still arrives.
func (l *Lab) Deaf(host string, d time.Duration) error { return l.darken("deaf", host, inward, d) }

// Mute is the other direction: the host's site hears, but nothing it sends
// arrives.
func (l *Lab) Mute(host string, d time.Duration) error { return l.darken("mute", host, outward, d) }

func (l *Lab) darken(what, host string, s shade, d time.Duration) error {
	return l.event(what, host, func(m *member) error {
		u := m.edge()
		l.arm("dark "+u.far, d, u.light)

		return u.dark(s)
	})
}

// Cut makes the internet swallow every packet between the sites of two hosts,
// silently, until [Lab.Mend] or, if d is not zero, for d. Both reach everybody
// else, and the cut stays when their addresses change. It returns at once.
func (l *Lab) Cut(host, other string, d time.Duration) error {
	return l.part("cut", host, other, inward|outward, d)
}

// CutOneWay is [Lab.Cut] in one direction: what the one site sends to the
// other vanishes, what it hears from there still arrives.
func (l *Lab) CutOneWay(from, to string, d time.Duration) error {
	return l.part("cut one way", from, to, outward, d)
}

func (l *Lab) part(what, host, other string, s shade, d time.Duration) error {
	return l.event(what, host, func(m *member) error {
		a, b, err := l.pair(m, other)
		if err != nil {
			return err
		}
		l.arm(cutName(a, b), d, func() error { return a.mend(b) })

		return a.cut(b, s)
	})
}

// Mend ends [Lab.Cut] and [Lab.CutOneWay].
func (l *Lab) Mend(host, other string) error {
	return l.event("mend", host, func(m *member) error {
		a, b, err := l.pair(m, other)
		if err != nil {
			return err
		}
		l.disarm(cutName(a, b))

		return a.mend(b)
	})
}

// pair are the cables of a host and of another one, which must be two.
func (l *Lab) pair(m *member, other string) (a, b *uplink, err error) {
	o, err := l.member(other)
	if err != nil {
		return nil, nil, fmt.Errorf("%q: %w", other, err)
	}
	if a, b = m.edge(), o.edge(); a == b {
		return nil, nil, fmt.Errorf("%q is at the same site", other)
	}

	return a, b, nil
}

// Light ends [Lab.Dark], [Lab.Deaf] and [Lab.Mute].
func (l *Lab) Light(host string) error {
	return l.event("light", host, func(m *member) error {
		u := m.edge()
		l.disarm("dark " + u.far)

		return u.light()
	})
}

// Unplug takes the host's own interface down, which programs in it can see,
// until [Lab.Plug] or, if d is not zero, for d. It returns at once.
func (l *Lab) Unplug(host string, d time.Duration) error {
	return l.event("unplug", host, func(m *member) error {
		l.arm("unplug "+host, d, func() error { return m.space.ip(m.up()...) })

		return m.space.ip("link set eth0 down")
	})
}

// Plug ends [Lab.Unplug].
func (l *Lab) Plug(host string) error {
	return l.event("plug", host, func(m *member) error {
		l.disarm("unplug " + host)

		return m.space.ip(m.up()...)
	})
}

// Kill ends all programs in the host with SIGKILL and returns when they are
// gone. Sockets that [Host.Do] opened are not touched.
func (l *Lab) Kill(host string) error {
	return l.event("kill", host, func(m *member) error { return killIn([]namespace{m.space}) })
}

// SetLink changes the cable between the host's site and the internet, for
// packets that enter it from then on. The host must have had a Link from the
// beginning, or be named in [Config] Links.
func (l *Lab) SetLink(host string, link Link) error {
	if err := link.check(); err != nil {
		return fmt.Errorf("set link of host %q: %w", host, err)
	}

	return l.event("set link", host, func(m *member) error { return m.edge().setLink(link) })
}

// event runs what happens to a host, alone.
func (l *Lab) event(what, host string, happen func(*member) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := l.member(host)
	if err == nil {
		err = happen(m)
	}
	if err != nil {
		return fmt.Errorf("%s of host %q: %w", what, host, err)
	}

	return nil
}
