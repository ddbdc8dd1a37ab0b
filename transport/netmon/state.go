package netmon

import (
	"fmt"
	"net/netip"
	"slices"
)

// State is the network as a Monitor found it.
type State struct {
	Interfaces []Interface // by index
}

// Interface is a network interface, loopback too.
type Interface struct {
	Name  string
	Index int
	// Up says that it is switched on and has a link.
	Up bool
	// Addrs are its addresses with the networks they are in, in order. Those
	// that the system still checks for duplicates are left out where it says so.
	Addrs []netip.Prefix
	// Default4 and Default6 say that IPv4, and IPv6, packets to the internet
	// leave by it.
	Default4, Default6 bool

	gateway4, gateway6 netip.Addr // by way of, where the system says it
}

func (s State) clone() State {
	out := State{slices.Clone(s.Interfaces)}
	for i := range out.Interfaces {
		out.Interfaces[i].Addrs = slices.Clone(out.Interfaces[i].Addrs)
	}
	return out
}

// sort brings the state into the one order that compare takes.
func (s State) sort() {
	slices.SortFunc(s.Interfaces, func(a, b Interface) int { return a.Index - b.Index })
	for _, i := range s.Interfaces {
		slices.SortFunc(i.Addrs, netip.Prefix.Compare)
	}
}

// at returns the interface with this index, or one with nothing.
func (s State) at(index int) Interface {
	for _, i := range s.Interfaces {
		if i.Index == index {
			return i
		}
	}
	return Interface{Index: index}
}

// exit returns the interface by which packets of a family reach the internet,
// or one without name.
func (s State) exit(six bool) (out Interface, gateway netip.Addr) {
	for _, i := range s.Interfaces {
		if six && i.Default6 {
			return i, i.gateway6
		}
		if !six && i.Default4 {
			return i, i.gateway4
		}
	}
	return Interface{}, netip.Addr{}
}

// matters reports whether a path to another machine may start at the address.
func matters(p netip.Prefix) bool { return !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() }

// compare reports what differs from old to now. Of the interfaces that flapped
// those that are up in both were down in between.
func compare(old, now State, flapped map[int]bool, report func(reason string, major bool)) {
	for _, six := range []bool{false, true} {
		a, via := old.exit(six)
		b, viaNow := now.exit(six)
		family := "IPv4"
		if six {
			family = "IPv6"
		}
		switch {
		case b.Name == "" && a.Name != "":
			report("no way out for "+family, true)
		case a.Index != b.Index:
			report(family+" leaves by "+b.Name, true)
		case via != viaNow:
			report(fmt.Sprintf("%s leaves by %v on %s", family, viaNow, b.Name), true)
		}
	}

	for _, b := range now.Interfaces {
		a := old.at(b.Index)
		if slices.ContainsFunc(slices.Concat(a.Addrs, b.Addrs), matters) {
			switch {
			case a.Up && !b.Up:
				report(b.Name+" is down", true)
			case !a.Up && b.Up && a.Name != "":
				report(b.Name+" is up", true)
			case a.Up && b.Up && flapped[b.Index]:
				report(b.Name+" was down for a moment", true)
			}
		}
		compareAddrs(b.Name, a.Addrs, b.Addrs, report)
	}
	for _, a := range old.Interfaces {
		if now.at(a.Index).Name == "" {
			compareAddrs(a.Name, a.Addrs, nil, report)
		}
	}
}

func compareAddrs(name string, old, now []netip.Prefix, report func(reason string, major bool)) {
	for _, p := range old {
		if matters(p) && !slices.Contains(now, p) {
			report(fmt.Sprintf("%v on %s is gone", p, name), true)
		}
	}
	for _, p := range now {
		if matters(p) && !slices.Contains(old, p) {
			report(fmt.Sprintf("%v on %s is new", p, name), false)
		}
	}
}
