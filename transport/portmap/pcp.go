package portmap

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// The Port Control Protocol, RFC 6887: as much of it as one UDP mapping takes.
const (
	pcpPort    = 5351
	pcpVersion = 2
	pcpMap     = 1 // opcode
	pcpAnswer  = 0x80
	pcpUDP     = 17
	pcpMapSize = 60

	// pcpFirst is the wait for the first answer, doubled with each of pcpTries:
	// a router is next door, so less than RFC 6887 §8.1.1 waits for any.
	pcpFirst = 250 * time.Millisecond
	pcpTries = 4
)

// ErrRefused: the router speaks the protocol, and gives no port.
var ErrRefused = errors.New("the router refuses to give a port")

var errPCP = errors.New("not an answer of PCP")

// mapRequest asks for a public UDP port.
type mapRequest struct {
	lifetime time.Duration // 0 gives it back
	client   netip.Addr
	nonce    [12]byte
	port     uint16
	external netip.AddrPort // wished for; the zero value for any
}

// mapAnswer is what the router gives.
type mapAnswer struct {
	result   uint8
	lifetime time.Duration
	nonce    [12]byte
	port     uint16
	external netip.AddrPort
}

func (r mapRequest) append(b []byte) []byte {
	b = append(b, pcpVersion, pcpMap, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(r.lifetime/time.Second))
	b = appendIP(b, r.client)
	b = append(b, r.nonce[:]...)
	b = append(b, pcpUDP, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, r.port)
	b = binary.BigEndian.AppendUint16(b, r.external.Port())
	wish := r.external.Addr()
	if !wish.IsValid() {
		wish = netip.IPv4Unspecified()
	}
	return appendIP(b, wish)
}

func appendIP(b []byte, ip netip.Addr) []byte {
	raw := ip.As16()
	return append(b, raw[:]...)
}

// parseMapAnswer reads the answer to a mapRequest. Options may follow.
func parseMapAnswer(b []byte) (a mapAnswer, err error) {
	s := cryptobyte.String(b)
	var (
		version, opcode, reserved, protocol uint8
		lifetime                            uint32
		port                                uint16
		ip                                  [16]byte
	)
	if !s.ReadUint8(&version) || version != pcpVersion || !s.ReadUint8(&opcode) || opcode != pcpMap|pcpAnswer ||
		!s.ReadUint8(&reserved) || !s.ReadUint8(&a.result) || !s.ReadUint32(&lifetime) || !s.Skip(16) ||
		!s.CopyBytes(a.nonce[:]) || !s.ReadUint8(&protocol) || protocol != pcpUDP || !s.Skip(3) ||
		!s.ReadUint16(&a.port) || !s.ReadUint16(&port) || !s.CopyBytes(ip[:]) {
		return mapAnswer{}, errPCP
	}
	a.lifetime = time.Duration(lifetime) * time.Second
	a.external = netip.AddrPortFrom(netip.AddrFrom16(ip).Unmap(), port)
	return a, nil
}

// pcp is a mapping by PCP.
type pcp struct {
	gateway, local netip.Addr
	port           uint16
	nonce          [12]byte
	external       netip.AddrPort
}

func newPCP(gateway, local netip.Addr, port uint16) *pcp {
	p := &pcp{gateway: gateway, local: local, port: port}
	_, _ = rand.Read(p.nonce[:]) // never fails
	return p
}

// acquire makes the mapping or renews it, and says for how long it holds.
func (p *pcp) acquire(ctx context.Context) (netip.AddrPort, time.Duration, error) {
	a, err := p.ask(ctx, lifetime)
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	if a.lifetime == 0 || a.external.Port() == 0 {
		return netip.AddrPort{}, 0, errPCP
	}
	p.external = a.external
	return a.external, a.lifetime, nil
}

// release gives the mapping back.
func (p *pcp) release(ctx context.Context) error {
	_, err := p.ask(ctx, 0)
	return err
}

func (p *pcp) ask(ctx context.Context, life time.Duration) (mapAnswer, error) {
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.local, 0))}
	conn, err := dialer.DialContext(ctx, "udp", netip.AddrPortFrom(p.gateway, pcpPort).String())
	if err != nil {
		return mapAnswer{}, fmt.Errorf("ask router by PCP: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	request := mapRequest{lifetime: life, client: p.local, nonce: p.nonce, port: p.port, external: p.external}.append(nil)
	wait := pcpFirst
	for range pcpTries {
		if err := ctx.Err(); err != nil {
			return mapAnswer{}, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return mapAnswer{}, err
		}
		if _, err := conn.Write(request); err != nil {
			return mapAnswer{}, fmt.Errorf("ask router by PCP: %w", err)
		}
		a, err := p.read(conn)
		if err == nil || errors.Is(err, ErrRefused) {
			return a, err
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return mapAnswer{}, fmt.Errorf("%w: PCP: %w", ErrNoRouter, err)
		}
		wait *= 2
	}
	return mapAnswer{}, fmt.Errorf("%w: no answer to PCP", ErrNoRouter)
}

// read waits for the answer with our nonce; only the router's packets come here,
// the socket being connected.
func (p *pcp) read(conn net.Conn) (mapAnswer, error) {
	var buf [1100]byte // RFC 6887 §7
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			return mapAnswer{}, err
		}
		if n >= 4 && n < pcpMapSize && buf[3] != 0 && buf[1]&pcpAnswer != 0 {
			return mapAnswer{}, fmt.Errorf("%w: PCP result %d", ErrRefused, buf[3]) // such as "unsupported version"
		}
		a, err := parseMapAnswer(buf[:n])
		if err != nil || a.nonce != p.nonce || a.port != p.port {
			continue
		}
		if a.result != 0 {
			return mapAnswer{}, fmt.Errorf("%w: PCP result %d", ErrRefused, a.result)
		}
		return a, nil
	}
}
