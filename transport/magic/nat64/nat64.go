// Package nat64 reaches IPv4 addresses from a network that has IPv6 only, by a
// NAT64: it finds the network's prefix (RFC 7050) and writes IPv4 addresses
// below it (RFC 6052). It holds nothing.
package nat64

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

const (
	// MaxPrefixes is how many prefixes of one network are taken.
	MaxPrefixes = 2

	timeout = 3 * time.Second
	name    = "ipv4only.arpa." // has IPv4 addresses only: a DNS64 makes others of them
)

// ErrNone: the network has no NAT64, or does not say so.
var ErrNone = errors.New("no NAT64")

// carrierNAT is RFC 6598.
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// wellKnown are the addresses of ipv4only.arpa.
func wellKnown() [2]netip.Addr {
	return [...]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.AddrFrom4([4]byte{192, 0, 0, 171})}
}

// Discover asks the resolver, for 3 seconds at most, for the prefixes of this
// network's NAT64, at most MaxPrefixes (PATH-24). It returns ErrNone when the
// answer names none, and other errors when there was no answer. The answer is
// not proven to be the network's: it is a hint where to send, as addresses are.
func Discover(ctx context.Context, r *net.Resolver) ([]netip.Prefix, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addrs, err := r.LookupNetIP(ctx, "ip6", name)
	var none *net.DNSError
	if errors.As(err, &none) && none.IsNotFound {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if err != nil {
		return nil, fmt.Errorf("look for a NAT64: %w", err)
	}
	found := Find(addrs)
	if len(found) == 0 {
		return nil, ErrNone
	}
	return found, nil
}

// Find takes the prefixes out of what ipv4only.arpa is said to have, each once,
// at most MaxPrefixes.
func Find(addrs []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addrs {
		p, ok := prefixOf(a)
		if ok && !slices.Contains(out, p) && len(out) < MaxPrefixes {
			out = append(out, p)
		}
	}
	return out
}

// prefixOf finds where in the address one of the well-known ones is. It can be
// in one place only, since nothing but zeros may follow it.
func prefixOf(a netip.Addr) (netip.Prefix, bool) {
	if !a.Is6() || a.Is4In6() || !a.IsGlobalUnicast() {
		return netip.Prefix{}, false
	}
	for _, bits := range [...]int{96, 64, 56, 48, 40, 32} {
		p, err := a.WithZone("").Prefix(bits)
		if err != nil || p.Addr().IsUnspecified() {
			continue
		}
		for _, w := range wellKnown() {
			if Synthesize(p, w) == a.WithZone("") {
				return p, true
			}
		}
	}
	return netip.Prefix{}, false
}

// places are where in an IPv6 address the bytes of the IPv4 address are, after a
// prefix of that many bits: byte 8 stays zero (RFC 6052, section 2.2).
func places(bits int) (at [4]int, ok bool) {
	switch bits {
	case 32, 40, 48, 56, 64, 96:
	default:
		return at, false
	}
	i := bits / 8
	for n := range at {
		if i == 8 {
			i++
		}
		at[n] = i
		i++
	}
	return at, true
}

// Synthesize returns the address at which the NAT64 of the prefix, of 32, 40,
// 48, 56, 64 or 96 bits, takes what is meant for the IPv4 address; the zero
// Addr for others.
func Synthesize(p netip.Prefix, v4 netip.Addr) netip.Addr {
	at, ok := places(p.Bits())
	if !ok || !p.Addr().Is6() || !v4.Is4() {
		return netip.Addr{}
	}
	b, four := p.Masked().Addr().As16(), v4.As4()
	for i, where := range at {
		b[where] = four[i]
	}
	return netip.AddrFrom16(b)
}

// Extract is the inverse of Synthesize; the zero Addr for an address that it does
// not make: a short prefix may be that of a provider's hosts as well.
func Extract(p netip.Prefix, v6 netip.Addr) netip.Addr {
	at, ok := places(p.Bits())
	if !ok || !v6.Is6() || !p.Contains(v6) {
		return netip.Addr{}
	}
	b := v6.As16()
	var four [4]byte
	for i, where := range at {
		four[i] = b[where]
	}
	v4 := netip.AddrFrom4(four)
	if Synthesize(p, v4) != v6 {
		return netip.Addr{}
	}
	return v4
}

// Public tells that an IPv4 address means the same beyond a NAT64 as here: others
// must not be synthesised (PATH-14).
func Public(v4 netip.Addr) bool {
	return v4.Is4() && v4.IsGlobalUnicast() && !v4.IsPrivate() && !carrierNAT.Contains(v4)
}
