package disco

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

const (
	// MaxPorts bounds the ports in a Punch.
	MaxPorts = 16
	// MaxTCP bounds the TCP addresses in a CallMeMaybe.
	MaxTCP = 8
)

// Types of extensions of a CallMeMaybe, on the wire.
const (
	extNetwork = 1
	extPunch   = 2
	extTCP     = 4
)

// flagNoUDP is the flag of a network extension.
const flagNoUDP = 1

// Mapping is how the NATs before a node choose the outer address of a socket
// (RFC 4787, section 4.1).
type Mapping uint8

// The mappings. Others that come are taken as MappingUnknown.
const (
	MappingUnknown     Mapping = iota
	MappingNone                // the socket's own address is seen outside
	MappingIndependent         // one outer address, whatever the socket sends to
	MappingDependent           // another one for each address, or port, it sends to
)

// Network is what a node knows of its way out.
type Network struct {
	IPv4, IPv6 Mapping
	NoUDP      bool // UDP does not get through
}

// PunchState is where the sender's side of a burst stands (PATH-23).
type PunchState uint8

// The states. Others that come are taken as no Punch.
const (
	PunchOpen PunchState = 1 // its sockets are open and have sent to the receiver
	PunchDone PunchState = 2 // probes are of no more use to it
	PunchWait PunchState = 3 // it looks for others first: the receiver's sockets are to stay open
)

// Punch is what a node behind a hard NAT tells the peer that looks for it, and is
// told.
type Punch struct {
	State PunchState // zero: nothing is told
	// Ports are those at which the sender was seen lately by others, at most
	// MaxPorts, for the receiver to guess from.
	Ports []uint16
}

func (m CallMeMaybe) appendExtensions(dst []byte) ([]byte, error) {
	if n := m.Network; n != (Network{}) {
		if n.IPv4 > MappingDependent || n.IPv6 > MappingDependent {
			return dst, fmt.Errorf("call-me-maybe with mappings %d and %d: %w", n.IPv4, n.IPv6, ErrMalformed)
		}
		var flags byte
		if n.NoUDP {
			flags |= flagNoUDP
		}
		dst = append(dst, extNetwork, 3, byte(n.IPv4), byte(n.IPv6), flags)
	}
	if m.Punch.State > PunchWait || len(m.Punch.Ports) > MaxPorts {
		return dst, fmt.Errorf("call-me-maybe with punch state %d and %d ports: %w", m.Punch.State, len(m.Punch.Ports), ErrMalformed)
	}
	if m.Punch.State != 0 {
		dst = append(dst, extPunch, byte(1+2*len(m.Punch.Ports)), byte(m.Punch.State))
		for _, p := range m.Punch.Ports {
			dst = binary.BigEndian.AppendUint16(dst, p)
		}
	}
	if len(m.TCP) > MaxTCP {
		return dst, fmt.Errorf("call-me-maybe with %d TCP addresses: %w", len(m.TCP), ErrMalformed)
	}
	if len(m.TCP) > 0 {
		dst = append(dst, extTCP, byte(addrSize*len(m.TCP)))
	}
	for _, a := range m.TCP {
		var err error
		if dst, err = appendAddr(dst, a); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// extensions takes the rest of a CallMeMaybe: known extensions once each,
// others are skipped. What is longer than known is a later version's, and its
// end is not read.
func (r *reader) extensions(m *CallMeMaybe) {
	var seen [256]bool
	for !r.bad && len(r.rest) > 0 {
		typ := r.byte()
		body := reader{rest: r.take(int(r.byte()))}
		if r.bad {
			return
		}
		switch typ {
		case extNetwork:
			m.Network = body.network()
		case extPunch:
			m.Punch = body.punch()
		case extTCP:
			m.TCP = body.addrs(MaxTCP)
		default:
			continue
		}
		r.bad = body.bad || seen[typ]
		seen[typ] = true
	}
}

func (r *reader) network() Network {
	n := Network{IPv4: r.mapping(), IPv6: r.mapping()}
	n.NoUDP = r.byte()&flagNoUDP != 0
	return n
}

func (r *reader) mapping() Mapping {
	if m := Mapping(r.byte()); m <= MappingDependent {
		return m
	}
	return MappingUnknown
}

func (r *reader) punch() Punch {
	p := Punch{State: PunchState(r.byte())}
	r.bad = r.bad || len(r.rest)%2 != 0 || len(r.rest) > 2*MaxPorts
	for !r.bad && len(r.rest) > 0 {
		p.Ports = append(p.Ports, binary.BigEndian.Uint16(r.take(2)))
	}
	if p.State > PunchWait || p.State == 0 {
		return Punch{}
	}
	return p
}

// addrs takes the rest: addresses, at least one and at most most.
func (r *reader) addrs(most int) []netip.AddrPort {
	n := len(r.rest) / addrSize
	r.bad = r.bad || len(r.rest)%addrSize != 0 || n == 0 || n > most
	var out []netip.AddrPort
	for range n {
		if r.bad {
			return nil
		}
		out = append(out, r.addr())
	}
	return out
}
