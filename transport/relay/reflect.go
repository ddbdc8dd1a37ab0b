package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/udp"
)

// First bytes of reflection packets: version 1 of two kinds that disco does
// not use, so that one socket can carry both and QUIC.
const (
	reflectRequest = 0b00_001_100
	reflectReply   = 0b00_001_101
)

// Sizes of reflection packets, in bytes. A request is padded to the size of
// its reply, so that nobody gains by asking in another's name.
const (
	reflectTxSize   = 12
	reflectAddrSize = 16 + 2
	reflectSize     = 1 + reflectTxSize + reflectAddrSize
)

// Limits of one Reflector (PATH-14).
const (
	reflectPerSource = 100    // replies per second to an IPv4 address or IPv6 /64
	reflectInAll     = 10_000 // replies per second
	reflectBurst     = 2      // seconds' worth at once, to one source
	reflectBuckets   = 1 << 13
	reflectBuffer    = 2048 // several joined requests; more of one sender are lost
	reflectBatch     = 8
)

// ErrReflect says that a packet is no reflection packet of this version.
var ErrReflect = errors.New("malformed reflection packet")

// reflectFromOther is the flag of a request for [ReflectWish.FromOther].
const reflectFromOther = 1

// ReflectWish asks for a reply that goes another way than back, which shows what
// the asker's NAT lets in and how long it keeps a mapping (RFC 5780, sections
// 4.4 and 4.6). The zero value is the usual reply.
type ReflectWish struct {
	// FromOther asks for a reply from the relay's other port, at the same address.
	FromOther bool
	// ToPort is the port of the asker's address to reply to; 0: where he asks from.
	ToPort uint16
}

// AppendReflectRequest appends the question "where do you see me?" (PATH-31).
// tx ties the reply to it and must be random.
func AppendReflectRequest(dst []byte, tx [12]byte) []byte {
	return AppendReflectWish(dst, tx, ReflectWish{})
}

// AppendReflectWish appends the same question, with a wish. Relays that do not
// say that they know wishes drop it.
func AppendReflectWish(dst []byte, tx [12]byte, wish ReflectWish) []byte {
	var rest [reflectAddrSize]byte
	if wish.FromOther {
		rest[0] = reflectFromOther
	}
	binary.BigEndian.PutUint16(rest[1:], wish.ToPort)
	dst = append(dst, reflectRequest)
	dst = append(dst, tx[:]...)
	return append(dst, rest[:]...)
}

// ParseReflectRequest reads a request. It fails with [ErrReflect].
func ParseReflectRequest(b []byte) (tx [12]byte, wish ReflectWish, err error) {
	rest, err := cutReflect(b, reflectRequest, &tx)
	if err == nil && (rest[0]&^reflectFromOther != 0 || [reflectAddrSize - 3]byte(rest[3:]) != [reflectAddrSize - 3]byte{}) {
		err = fmt.Errorf("padding is not zero: %w", ErrReflect)
	}
	if err != nil {
		return tx, ReflectWish{}, err
	}
	return tx, ReflectWish{FromOther: rest[0] == reflectFromOther, ToPort: binary.BigEndian.Uint16(rest[1:])}, nil
}

// AppendReflectReply appends the answer to the request with this tx, which
// came from the address.
func AppendReflectReply(dst []byte, tx [12]byte, from netip.AddrPort) []byte {
	var addr [reflectAddrSize]byte
	ip := from.Addr().As16()
	copy(addr[:], ip[:])
	binary.BigEndian.PutUint16(addr[len(ip):], from.Port())
	mask(&addr, tx)
	dst = append(dst, reflectReply)
	dst = append(dst, tx[:]...)
	return append(dst, addr[:]...)
}

// ParseReflectReply reads a reply: which request it answers and the address
// from which that came. Whoever takes it must compare tx with what he asked,
// and the sender with whom. It fails with [ErrReflect].
func ParseReflectReply(b []byte) (tx [12]byte, from netip.AddrPort, err error) {
	addr, err := cutReflect(b, reflectReply, &tx)
	if err != nil {
		return tx, netip.AddrPort{}, err
	}
	mask(&addr, tx)
	ip := netip.AddrFrom16([16]byte(addr[:16])).Unmap()
	from = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(addr[16:]))
	if from.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return tx, netip.AddrPort{}, fmt.Errorf("nobody sends from %v: %w", from, ErrReflect)
	}
	return tx, from, nil
}

// cutReflect takes a packet with the given first byte apart.
func cutReflect(b []byte, first byte, tx *[reflectTxSize]byte) (rest [reflectAddrSize]byte, err error) {
	if len(b) != reflectSize || b[0] != first {
		return rest, fmt.Errorf("packet of %d bytes: %w", len(b), ErrReflect)
	}
	copy(tx[:], b[1:])
	copy(rest[:], b[1+reflectTxSize:])
	return rest, nil
}

// mask makes the address unreadable to routers that rewrite addresses they
// find in packets; twice gives it back.
func mask(addr *[reflectAddrSize]byte, tx [reflectTxSize]byte) {
	for i := range addr {
		addr[i] ^= tx[i%len(tx)]
	}
}

// ReflectStats are a Reflector's counters since its start.
type ReflectStats struct {
	Answered  uint64 `json:"answered"`  // replies sent
	Malformed uint64 `json:"malformed"` // packets that were no requests
	Limited   uint64 `json:"limited"`   // requests over a limit
	NoOther   uint64 `json:"no_other"`  // wishes for another port where there is none
}

// Reflector tells whoever asks by UDP from which address it is seen (PATH-31).
// It keeps nothing about anybody but the use of its limits, in a table of
// fixed size. All methods may be called concurrently.
type Reflector struct {
	conn   *udp.Conn
	other  *udp.Conn // for replies from the other port; may be nil, or closed before
	limits *reflectLimits
	done   chan struct{}
	stats  struct{ answered, malformed, limited, noOther atomic.Uint64 }
}

// NewReflector answers on the socket, which it owns, until Close; from other,
// which it does not own, when a request wishes that. other may be nil. It starts
// one goroutine.
func NewReflector(c, other *udp.Conn) *Reflector {
	r := &Reflector{conn: c, other: other, limits: newReflectLimits(), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.serve()
	}()
	return r
}

// Stats returns the counters.
func (r *Reflector) Stats() ReflectStats {
	return ReflectStats{
		Answered:  r.stats.answered.Load(),
		Malformed: r.stats.malformed.Load(),
		Limited:   r.stats.limited.Load(),
		NoOther:   r.stats.noOther.Load(),
	}
}

// Close closes the socket and returns after the last goroutine. It may be
// called twice.
func (r *Reflector) Close() error {
	err := r.conn.Close()
	<-r.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (r *Reflector) serve() {
	ms := make([]udp.Message, reflectBatch)
	for i := range ms {
		ms[i].Buf = make([]byte, reflectBuffer)
	}
	reply := make([]byte, 0, reflectSize)
	start := time.Now()
	for {
		n, err := r.conn.ReadBatch(ms)
		if err != nil {
			return // closed
		}
		now := time.Since(start)
		for i := range ms[:n] {
			m := &ms[i]
			size := m.Segment
			if size == 0 {
				size = m.N
			}
			for b := m.Buf[:m.N]; len(b) > 0; b = b[min(size, len(b)):] {
				tx, wish, err := ParseReflectRequest(b[:min(size, len(b))])
				from, to := r.conn, m.From
				if wish.FromOther {
					from = r.other
				}
				if wish.ToPort != 0 {
					to = netip.AddrPortFrom(to.Addr(), wish.ToPort)
				}
				switch {
				case err != nil:
					r.stats.malformed.Add(1)
				case !r.limits.allow(m.From.Addr(), now):
					r.stats.limited.Add(1)
				case from == nil:
					r.stats.noOther.Add(1)
				default:
					reply = AppendReflectReply(reply[:0], tx, m.From)
					if from.Write(reply, to, 0, 0) == nil { // else lost, and asked for again
						r.stats.answered.Add(1)
					}
				}
			}
		}
	}
}

// reflectLimits limit replies by source and in all. Sources share buckets by a
// hash that strangers cannot foresee, so the table neither grows nor is searched.
// It is not for concurrent use.
type reflectLimits struct {
	seed    maphash.Seed
	sources [reflectBuckets]bucket
	all     bucket
}

func newReflectLimits() *reflectLimits { return &reflectLimits{seed: maphash.MakeSeed()} }

// allow takes one reply to ip from the limits. now is the time since any
// moment that stays the same.
func (l *reflectLimits) allow(ip netip.Addr, now time.Duration) bool {
	key := ip.As16()
	size := len(key)
	if ip.Is6() {
		size = 8 // one network has all of them
	}
	source := &l.sources[maphash.Bytes(l.seed, key[:size])%reflectBuckets]
	return source.take(now, time.Second/reflectPerSource, reflectBurst*time.Second) &&
		l.all.take(now, time.Second/reflectInAll, time.Second/10)
}

// bucket is a token bucket: the time at which it will be full again.
type bucket time.Duration

// take takes a token, of which one comes every interval and burst's worth at
// most are kept.
func (b *bucket) take(now, interval, burst time.Duration) bool {
	full := max(time.Duration(*b), now) + interval
	if full > now+burst {
		return false
	}
	*b = bucket(full)
	return true
}
