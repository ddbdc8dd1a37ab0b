package disco

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Limits of messages.
const (
	// MaxPacket is the size of the largest packet, in bytes (PATH-9).
	MaxPacket = 1452
	// MaxAddrs bounds the addresses in a CallMeMaybe.
	MaxAddrs = 16
	// MaxHomes bounds the home relays in a CallMeMaybe.
	MaxHomes = 4

	addrSize = 18
)

// ErrMalformed says that a packet or message breaks the format.
var ErrMalformed = errors.New("malformed disco packet")

// TxID names one message, by which a recording of it is told from it, and ties a
// Pong to its Ping. It is random.
type TxID [12]byte

// NewTxID returns a random transaction id.
func NewTxID() (id TxID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// BootID names one run of a node: unix milliseconds, big-endian, then random
// bytes, so that of two runs the later one compares higher (PATH-11).
type BootID [16]byte

// NewBootID returns a boot id for a run that begins now.
func NewBootID(now time.Time) (id BootID) {
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli()))
	_, _ = rand.Read(id[8:]) // never fails
	return id
}

// Before says that b belongs to an earlier run than other.
func (b BootID) Before(other BootID) bool { return bytes.Compare(b[:], other[:]) < 0 }

// Message is a Ping, Pong, CallMeMaybe, PathGone or Hello. Messages are passed
// by value.
type Message interface {
	// Stamp tells a message from a recording of it, and names the run of the
	// node that sent it. A Pong has the transaction of its Ping.
	Stamp() (TxID, BootID)
	// append appends the type and the body.
	append(dst []byte) ([]byte, error)
}

// Types of messages on the wire.
const (
	typePing        = 1
	typePong        = 2
	typeCallMeMaybe = 3
	typePathGone    = 4
	typeHello       = 5
)

// Ping asks for a Pong over the path it takes.
type Ping struct {
	TxID   TxID
	BootID BootID
	// Padding is the number of zero bytes at the end; see [Ping.Sized].
	Padding int
}

// Sized returns the ping with the padding that makes a packet of the given
// kind size bytes long, or with none when it is longer without.
func (m Ping) Sized(kind Kind, size int) Ping {
	m.Padding = max(0, size-kind.Overhead()-1-len(m.TxID)-len(m.BootID))
	return m
}

// Pong answers a Ping.
type Pong struct {
	TxID TxID
	// BootID is the run that answers. A change of it counts, because the Pong
	// proves by the TxID that it is fresh. Zero when the sender does not say.
	BootID BootID
	// Observed is where the Ping was seen to come from; zero over a relay.
	Observed netip.AddrPort
}

// CallMeMaybe names addresses at which the sender may be reached and which it
// pings from. It is sent over relays only.
type CallMeMaybe struct {
	TxID   TxID
	BootID BootID
	Addrs  []netip.AddrPort // at most MaxAddrs
	Homes  [][32]byte       // keys of the sender's home relays, at most MaxHomes (PATH-29)

	// What follows is left out of the packet while it is zero.

	Network Network // what the sender knows of its way out
	Punch   Punch   // what it does about a hard NAT (PATH-23)
	// TCP are addresses at which the sender takes TCP, at most MaxTCP (PATH-20).
	TCP []netip.AddrPort
}

// PathGone says that packets sent to Addr no longer reach the sender.
type PathGone struct {
	TxID   TxID
	BootID BootID
	// Addr is one of the sender's addresses; zero means all of them.
	Addr netip.AddrPort
}

// Hello makes the sender's key of this boot known; it travels in an
// introduction only, whose header names the key.
type Hello struct {
	TxID   TxID
	BootID BootID
}

// Stamp implements Message.
func (m Ping) Stamp() (TxID, BootID) { return m.TxID, m.BootID }

// Stamp implements Message.
func (m Pong) Stamp() (TxID, BootID) { return m.TxID, m.BootID }

// Stamp implements Message.
func (m CallMeMaybe) Stamp() (TxID, BootID) { return m.TxID, m.BootID }

// Stamp implements Message.
func (m PathGone) Stamp() (TxID, BootID) { return m.TxID, m.BootID }

// Stamp implements Message.
func (m Hello) Stamp() (TxID, BootID) { return m.TxID, m.BootID }

func (m Ping) append(dst []byte) ([]byte, error) {
	if m.Padding < 0 || m.Padding > MaxPacket {
		return dst, fmt.Errorf("ping with padding %d: %w", m.Padding, ErrMalformed)
	}
	return append(appendStamp(dst, typePing, m.TxID, m.BootID), make([]byte, m.Padding)...), nil
}

func (m Pong) append(dst []byte) ([]byte, error) {
	return appendOptionalAddr(appendStamp(dst, typePong, m.TxID, m.BootID), m.Observed)
}

func (m CallMeMaybe) append(dst []byte) ([]byte, error) {
	if len(m.Addrs) > MaxAddrs || len(m.Homes) > MaxHomes {
		return dst, fmt.Errorf("call-me-maybe with %d addresses, %d homes: %w", len(m.Addrs), len(m.Homes), ErrMalformed)
	}
	dst = append(appendStamp(dst, typeCallMeMaybe, m.TxID, m.BootID), byte(len(m.Addrs)))
	var err error
	for _, a := range m.Addrs {
		if dst, err = appendAddr(dst, a); err != nil {
			return dst, err
		}
	}
	dst = append(dst, byte(len(m.Homes)))
	for _, key := range m.Homes {
		dst = append(dst, key[:]...)
	}
	return m.appendExtensions(dst)
}

func (m PathGone) append(dst []byte) ([]byte, error) {
	return appendOptionalAddr(appendStamp(dst, typePathGone, m.TxID, m.BootID), m.Addr)
}

func (m Hello) append(dst []byte) ([]byte, error) {
	return appendStamp(dst, typeHello, m.TxID, m.BootID), nil
}

// appendStamp appends what every message begins with.
func appendStamp(dst []byte, typ byte, tx TxID, boot BootID) []byte {
	return append(append(append(dst, typ), tx[:]...), boot[:]...)
}

// AppendMessage appends the plain form of the message, as it is sealed.
func AppendMessage(dst []byte, m Message) ([]byte, error) { return m.append(dst) }

// ParseMessage reads the plain form of a message. It takes exactly what
// AppendMessage makes, but for extensions of a CallMeMaybe that it does not
// know: those it skips.
func ParseMessage(b []byte) (Message, error) {
	r := reader{rest: b}
	t := r.byte()
	var tx TxID
	copy(tx[:], r.take(len(tx)))
	var boot BootID
	copy(boot[:], r.take(len(boot)))
	var m Message
	switch t {
	case typePing:
		m = Ping{TxID: tx, BootID: boot, Padding: r.zeros()}
	case typePong:
		m = Pong{TxID: tx, BootID: boot, Observed: r.optionalAddr()}
	case typeCallMeMaybe:
		m = r.callMeMaybe(tx, boot)
	case typePathGone:
		m = PathGone{TxID: tx, BootID: boot, Addr: r.optionalAddr()}
	case typeHello:
		m = Hello{TxID: tx, BootID: boot}
	default:
		return nil, fmt.Errorf("message type %d: %w", t, ErrMalformed)
	}
	if r.bad || len(r.rest) > 0 {
		return nil, fmt.Errorf("message type %d of %d bytes: %w", b[0], len(b), ErrMalformed)
	}
	return m, nil
}

// reader takes a message apart; after the first fault all it returns is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.rest) < n {
		r.bad = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// zeros takes the rest, which must be zero bytes.
func (r *reader) zeros() int {
	n := len(r.rest)
	for _, b := range r.take(n) {
		r.bad = r.bad || b != 0
	}
	return n
}

func (r *reader) callMeMaybe(tx TxID, boot BootID) CallMeMaybe {
	m := CallMeMaybe{TxID: tx, BootID: boot}
	n := int(r.byte())
	r.bad = r.bad || n > MaxAddrs
	for range n {
		if r.bad {
			return m
		}
		m.Addrs = append(m.Addrs, r.addr())
	}
	n = int(r.byte())
	r.bad = r.bad || n > MaxHomes
	for range n {
		if r.bad {
			return m
		}
		var key [32]byte
		copy(key[:], r.take(len(key)))
		m.Homes = append(m.Homes, key)
	}
	r.extensions(&m)
	return m
}

func (r *reader) optionalAddr() netip.AddrPort {
	if len(r.rest) >= addrSize && bytes.Equal(r.rest[:addrSize], make([]byte, addrSize)) {
		r.take(addrSize)
		return netip.AddrPort{}
	}
	return r.addr()
}

// addr takes a 16-byte IP and a port. IPv4 stands in its mapped form.
func (r *reader) addr() netip.AddrPort {
	b := r.take(addrSize)
	if b == nil {
		return netip.AddrPort{}
	}
	a := netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:]))
	if !sendable(a) {
		r.bad = true
		return netip.AddrPort{}
	}
	return a
}

func appendOptionalAddr(dst []byte, a netip.AddrPort) ([]byte, error) {
	if a == (netip.AddrPort{}) {
		return append(dst, make([]byte, addrSize)...), nil
	}
	return appendAddr(dst, a)
}

func appendAddr(dst []byte, a netip.AddrPort) ([]byte, error) {
	if !sendable(a) {
		return dst, fmt.Errorf("address %s: %w", a, ErrMalformed)
	}
	ip := a.Addr().As16()
	return binary.BigEndian.AppendUint16(append(dst, ip[:]...), a.Port()), nil
}

// sendable says whether one peer's socket can be at the address: no port zero,
// no unspecified, multicast or broadcast address (PATH-14), no zone.
func sendable(a netip.AddrPort) bool {
	ip := a.Addr().Unmap()
	return ip.IsValid() && a.Port() != 0 && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsMulticast() &&
		ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
