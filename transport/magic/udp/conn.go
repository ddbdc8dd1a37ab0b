// Package udp is the data plane of one UDP socket: datagrams in and out, with
// their ECN marks, as many per system call as the kernel takes.
//
// On Linux, several datagrams to one address leave in one call (GSO), and
// what comes is read in batches, datagrams of one sender joined (GRO); in
// steady state nothing is allocated. Elsewhere every datagram is a call of
// its own, behind the same API (PATH-7). The package knows nothing of peers.
package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// socketBuffer is what is asked of the kernel for either direction, in bytes:
// enough for bursts at 1 Gbit/s while the reader waits for a processor.
const socketBuffer = 7 << 20

// maxTransient is how many errors that say nothing about the socket itself
// are passed over in a row before a read fails.
const maxTransient = 16

// ErrUnreachable is wrapped by errors of Write that say that these datagrams
// did not leave, though the next may: no route, interface down, queue full,
// forbidden by a firewall. To whoever expects UDP they are lost packets. The
// system's own error is wrapped too.
var ErrUnreachable = errors.New("datagram cannot leave now")

// Message is where ReadBatch puts what came: one datagram, or several of one
// sender.
type Message struct {
	// Buf is the caller's. It should hold 64 KiB where Caps says GRO. A
	// datagram that does not fit is dropped.
	Buf []byte
	// N is how many bytes of Buf were filled. It is 0 for an empty datagram,
	// and may be for one that was dropped.
	N int
	// From is the sender; an IPv4 address is never in its IPv6-mapped form.
	From netip.AddrPort
	// ECN is the mark (RFC 3168, section 5), 0 to 3; 0 where Caps has no ECN.
	ECN byte
	// Segment is the size of each datagram in Buf[:N], of which the last may
	// be shorter; 0 if there is only one.
	Segment int
}

// Caps says what the system does in a Conn.
type Caps struct {
	GSO   bool // several datagrams are sent by one call
	GRO   bool // a Message may hold several datagrams
	ECN   bool // ECN marks are sent and received
	Batch bool // ReadBatch may fill more than one Message
}

// Conn is a UDP socket of one family. All methods may be called concurrently;
// reads take turns, and so do writes.
type Conn struct {
	udp    *net.UDPConn
	local  netip.AddrPort
	driver driver
}

// driver moves datagrams. write gets an address of the socket's family and
// two ECN bits.
type driver interface {
	read(ms []Message) (int, error)
	write(b []byte, to netip.AddrPort, segment int, ecn byte) error
	caps() Caps
}

// Listen opens a socket. The network is "udp4" or "udp6", the latter without
// IPv4. The zero Addr means all addresses of the family, port 0 any port. On
// Linux, macOS and Windows, what is sent is never fragmented. The caller closes
// the Conn.
func Listen(network string, addr netip.AddrPort) (*Conn, error) {
	return listen(network, addr, newDriver)
}

func listen(network string, addr netip.AddrPort, with func(*net.UDPConn, bool) (driver, error)) (*Conn, error) {
	var all netip.Addr
	switch network {
	case "udp4":
		all = netip.IPv4Unspecified()
	case "udp6":
		all = netip.IPv6Unspecified()
	default:
		return nil, fmt.Errorf("listen: network %q: want udp4 or udp6", network)
	}
	if !addr.Addr().IsValid() {
		addr = netip.AddrPortFrom(all, addr.Port())
	}
	if addr.Addr().Is4() != all.Is4() || addr.Addr().Is4In6() {
		return nil, fmt.Errorf("listen on %v: no %s address", addr, network)
	}

	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err // names address and action
	}
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	d, err := with(conn, all.Is6())
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %v: %w", local, err)
	}
	return &Conn{udp: conn, local: netip.AddrPortFrom(local.Addr().Unmap(), local.Port()), driver: d}, nil
}

// LocalAddr returns the address the socket is bound to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// Caps returns what the system does here at present: GSO may turn out not to
// work with the first packets.
func (c *Conn) Caps() Caps { return c.driver.caps() }

// SyscallConn gives access to the socket's options.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.udp.SyscallConn() }

// Close closes the socket. It wakes blocked calls, which fail with
// net.ErrClosed, as all later ones do.
func (c *Conn) Close() error { return c.udp.Close() }

// ReadBatch waits until something comes, fills messages from the front and
// returns how many. It fails only when the socket is of no further use.
func (c *Conn) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	return c.driver.read(ms)
}

// Write sends b to an address of the socket's family. With a segment, b is
// several datagrams of that size, the last of which may be shorter; without,
// if it is 0, b is one. ecn are the two ECN bits. After an error the rest of
// b was not sent. [TooLarge] knows the error of a datagram larger than the
// interface carries, and errors that only concern these datagrams wrap
// [ErrUnreachable].
func (c *Conn) Write(b []byte, to netip.AddrPort, segment int, ecn byte) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if !to.IsValid() || to.Addr().Is4() != c.local.Addr().Is4() {
		return fmt.Errorf("send from %v to %v: no address of this family", c.local, to)
	}
	err := c.driver.write(b, to, segment, ecn&0b11)
	if err != nil && unreachable(err) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}
