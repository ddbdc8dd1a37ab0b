// Package tcp carries packets between two nodes over one TCP connection, for
// networks that let no UDP through (PATH-20).
//
// Both nodes dial each other at once from the port by which the other knows
// them, and listen on it. NATs that keep port numbers then let both through,
// and what comes of it is one connection, whoever is said to have made it
// (simultaneous open, RFC 9293, section 3.5). The bytes are in SPEC.md. The
// package knows nothing of peers or keys.
package tcp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/libp2p/go-reuseport"
)

const (
	// MaxPacket is the size of the largest packet a connection carries, in bytes.
	MaxPacket = 1600

	version      = 1
	lengthSize   = 2
	readBuffer   = 32 << 10
	writeChunk   = 32 << 10
	maxWaiting   = 256                   // packets in the queue; the oldest yield (PATH-26)
	maxWait      = 50 * time.Millisecond // of a packet in the queue
	writeTimeout = 10 * time.Second      // for the kernel to take some of what waits
)

// ErrMalformed says that what came is not the format of this package.
var ErrMalformed = errors.New("malformed packet stream")

// Listener takes connections at one port, beside those dialled from it.
type Listener struct{ tcp *net.TCPListener }

// Listen opens the port for connections; others of this user may bind it as
// well. The caller closes the Listener.
func Listen(ctx context.Context, local netip.AddrPort) (*Listener, error) {
	lc := net.ListenConfig{Control: reuseport.Control, KeepAlive: -1}
	lc.SetMultipathTCP(false) // it does not share a port with dials
	l, err := lc.Listen(ctx, family(local), local.String())
	if err != nil {
		return nil, err // names address and action
	}
	return &Listener{l.(*net.TCPListener)}, nil
}

// Accept waits for a connection. It fails with net.ErrClosed once the Listener
// is closed; after any other error the caller may try again, later.
func (l *Listener) Accept() (*Conn, error) {
	c, err := l.tcp.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

// Close ends the Listener and wakes Accept; connections stay.
func (l *Listener) Close() error { return l.tcp.Close() }

// finishWithin is how long a connection that the other end has answered may
// take beyond its time: both ends are about to have it.
const finishWithin = time.Second

// Dial connects from the local port, which others may have bound as well, and
// gives up when ctx ends: the kernel's own repetitions come too late for a NAT
// that has just opened. If that is by its deadline and the other end has answered
// by then, the connection has a second more, where the system tells (Linux): to
// give up in the middle of it would take it from the other end.
func Dial(ctx context.Context, local, to netip.AddrPort) (*Conn, error) {
	var made atomic.Pointer[syscall.RawConn]
	d := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(local), KeepAlive: -1,
		Control: func(network, address string, raw syscall.RawConn) error {
			made.Store(&raw)
			return errors.Join(reuseport.Control(network, address, raw), prepare(raw))
		},
	}
	inner, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		defer giveUp()
		select {
		case <-over:
			return
		case <-ctx.Done():
		}
		raw := made.Load()
		if raw == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) || !answered(*raw) {
			return
		}
		timer := time.NewTimer(finishWithin)
		defer timer.Stop()
		select {
		case <-over:
		case <-timer.C:
		}
	})
	c, err := d.DialContext(inner, family(local), to.String())
	close(over)
	watch.Wait()
	if err != nil {
		return nil, err // names addresses and action
	}
	return newConn(c.(*net.TCPConn)), nil
}

func family(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// Carrier is what packets are carried over: a TCP connection, or what lies on one.
// Close ends it at once and waits for nothing; it may be called while Read and
// Write run, which then fail.
type Carrier interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// Conn carries packets over one connection, in both directions. All methods
// may be called concurrently; Serve is called once.
type Conn struct {
	stream  Carrier
	remote  netip.AddrPort
	queue   queue
	closing sync.Once
	done    chan struct{}
}

func newConn(c *net.TCPConn) *Conn {
	return Carry(plain{c}, c.RemoteAddr().(*net.TCPAddr).AddrPort())
}

// Carry makes a Conn of a stream, which the Conn closes; remote is the address at
// the other end.
func Carry(s Carrier, remote netip.AddrPort) *Conn {
	if c, ok := s.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			MakePrompt(raw)
		}
	}
	return &Conn{
		stream: s, remote: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()),
		queue: queue{wake: make(chan struct{}, 1)}, done: make(chan struct{}),
	}
}

// plain is a TCP connection as a Carrier.
type plain struct{ *net.TCPConn }

// Close implements Carrier.
func (c plain) Close() error {
	// A reset, so that the port is free for the next try at once; and before it
	// a FIN, since NATs that see a reset alone take a new connection between the
	// same ports for a part of the old one for ten seconds.
	_ = c.CloseWrite()
	_ = c.SetLinger(0)
	return c.TCPConn.Close()
}

// Remote is the address at the other end; an IPv4 address is never in its
// IPv6-mapped form.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// Dropped counts the packets that were queued and not sent: more than 256
// waited, or one waited longer than 50 ms.
func (c *Conn) Dropped() uint64 { return c.queue.dropped.Load() }

// Send queues a copy of the packet. It never blocks: as on any network, packets
// are dropped where they come faster than they leave, the oldest first
// (PATH-26). One that is empty or larger than MaxPacket is dropped.
func (c *Conn) Send(packet []byte) {
	if len(packet) == 0 || len(packet) > MaxPacket {
		c.queue.dropped.Add(1)
		return
	}
	c.queue.put(packet, time.Now())
}

// Close ends the connection at once. It may be called more than once.
func (c *Conn) Close() error {
	var err error
	c.closing.Do(func() {
		close(c.done)
		err = c.stream.Close()
	})
	return err
}

// Serve carries packets until the connection ends or is closed, and returns why,
// never nil. receive gets what comes, one after another, and must not block; a
// packet is valid during the call only. The connection is closed when Serve
// returns, and its goroutines have ended.
func (c *Conn) Serve(receive func(packet []byte)) error {
	wrote := make(chan error, 1)
	go func() {
		err := c.write()
		_ = c.Close()
		wrote <- err
	}()
	err := fmt.Errorf("read from %s: %w", c.remote, read(c.stream, receive))
	_ = c.Close()
	if werr := <-wrote; werr != nil && errors.Is(err, net.ErrClosed) {
		err = werr // reading ended for that reason
	}
	return err
}

// read hands on the packets of a stream until it ends.
func read(stream io.Reader, receive func([]byte)) error {
	r := bufio.NewReaderSize(stream, readBuffer)
	if v, err := r.ReadByte(); err != nil {
		return err
	} else if v != version {
		return fmt.Errorf("version %d: %w", v, ErrMalformed)
	}
	var buf [MaxPacket]byte
	for {
		packet, err := readPacket(r, &buf)
		if err != nil {
			return err
		}
		receive(packet)
	}
}

// readPacket reads one packet behind its length into buf.
func readPacket(r io.Reader, buf *[MaxPacket]byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:lengthSize]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf[:lengthSize]))
	if n == 0 || n > MaxPacket {
		return nil, fmt.Errorf("packet of %d bytes: %w", n, ErrMalformed)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return nil, fmt.Errorf("rest of a packet: %w", noEOF(err))
	}
	return buf[:n], nil
}

// noEOF keeps an end in the midst of a packet apart from one between two.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendPacket appends a packet in its wire form.
func appendPacket(dst, packet []byte) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(packet))), packet...)
}

func (c *Conn) write() error {
	chunk := append(make([]byte, 0, writeChunk+lengthSize+MaxPacket), version)
	for {
		for len(chunk) > 0 {
			if err := c.stream.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return fmt.Errorf("write to %s: %w", c.remote, err)
			}
			if _, err := c.stream.Write(chunk); err != nil {
				return fmt.Errorf("write to %s: %w", c.remote, err)
			}
			chunk = c.queue.take(chunk[:0], time.Now())
		}
		select {
		case <-c.queue.wake:
		case <-c.done:
			return nil
		}
		runtime.Gosched() // so that the packets of a burst share a write
		chunk = c.queue.take(chunk[:0], time.Now())
	}
}

// queue holds the packets that wait to be written.
type queue struct {
	wake    chan struct{} // has a token whenever there may be something to take
	dropped atomic.Uint64

	mu      sync.Mutex
	waiting [maxWaiting]waiting
	first   int
	count   int
}

type waiting struct {
	buf *[MaxPacket]byte
	n   int
	at  time.Time
}

// buffers recycles the memory of waiting packets. A pool has no state that
// anybody could observe.
var buffers = sync.Pool{New: func() any { return new([MaxPacket]byte) }}

func (q *queue) put(packet []byte, now time.Time) {
	w := waiting{buf: buffers.Get().(*[MaxPacket]byte), at: now}
	w.n = copy(w.buf[:], packet)
	q.mu.Lock()
	if q.count == maxWaiting {
		buffers.Put(q.pop().buf)
		q.dropped.Add(1)
	}
	q.waiting[(q.first+q.count)%maxWaiting] = w
	q.count++
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take appends what waits to dst, up to writeChunk bytes or a packet more.
func (q *queue) take(dst []byte, now time.Time) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.count > 0 && len(dst) < writeChunk {
		w := q.pop()
		if now.Sub(w.at) > maxWait {
			q.dropped.Add(1)
		} else {
			dst = appendPacket(dst, w.buf[:w.n])
		}
		buffers.Put(w.buf)
	}
	return dst
}

func (q *queue) pop() waiting {
	w := q.waiting[q.first]
	q.waiting[q.first] = waiting{}
	q.first = (q.first + 1) % maxWaiting
	q.count--
	return w
}
