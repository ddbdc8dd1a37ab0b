package relay_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/stretchr/testify/require"
)

func key(b byte) relay.Key { return relay.Key{b} }

func boot(ms byte) relay.BootID { return relay.BootID{7: ms} }

// received is a frame as a client got it.
type received struct {
	from    relay.Key
	kind    relay.FrameType
	ecn     byte
	payload string
}

// inbox gathers what the callbacks of a link tell. Its channels are deep
// enough for every test, so that callbacks do not block.
type inbox struct {
	frames chan received
	gone   chan relay.Key
	states chan relay.State
	away   chan relay.GoAwayReason
	health chan string
	hints  chan uint64
}

func newInbox() *inbox {
	return &inbox{
		frames: make(chan received, 8192),
		gone:   make(chan relay.Key, 64),
		states: make(chan relay.State, 64),
		away:   make(chan relay.GoAwayReason, 64),
		health: make(chan string, 64),
		hints:  make(chan uint64, 64),
	}
}

func (in *inbox) config() relay.LinkConfig {
	return relay.LinkConfig{
		BootID: boot(1),
		OnFrame: func(from relay.Key, kind relay.FrameType, ecn byte, payload []byte) {
			in.frames <- received{from, kind, ecn, string(payload)}
		},
		OnPeerGone: func(k relay.Key) { in.gone <- k },
		OnState:    func(s relay.State) { in.states <- s },
		OnGoAway:   func(r relay.GoAwayReason) { in.away <- r },
		OnHealth:   func(s string) { in.health <- s },
		OnRateHint: func(n uint64) { in.hints <- n },
	}
}

// get takes the next value or fails. Under synctest the bound costs nothing.
func get[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func none[T any](t *testing.T, ch <-chan T) {
	t.Helper()
	select {
	case v := <-ch:
		t.Fatalf("came unexpectedly: %v", v)
	default:
	}
}

// world is one relay, with clients over in-memory streams.
type world struct {
	t      *testing.T
	server *relay.Server
	served chan error // results of Serve
	wg     sync.WaitGroup
}

func newWorld(t *testing.T, cfg relay.ServerConfig) *world {
	w := &world{t: t, server: relay.NewServer(cfg), served: make(chan error, 1024)}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	_ = w.server.Close()
	w.wg.Wait()
}

// stream returns the client's end of a new stream to the relay.
func (w *world) stream(k relay.Key) net.Conn {
	client, server := net.Pipe()
	w.serve(server, k)
	return client
}

func (w *world) serve(server relay.Stream, k relay.Key) {
	w.wg.Go(func() { w.served <- w.server.Serve(context.Background(), server, k, "192.0.2.1:7") })
}

// wire returns the client's end of a stream that takes time, and its middle.
func (w *world) wire(k relay.Key, delay time.Duration) (net.Conn, *wire) {
	client, server, m := newWire(&w.wg, delay)
	w.serve(server, k)
	return client, m
}

// link connects a client; what it hears goes into the inbox.
func (w *world) link(k relay.Key, changes ...func(*relay.LinkConfig)) (*relay.Link, *inbox) {
	w.t.Helper()
	return w.linkOn(w.stream(k), changes...)
}

func (w *world) linkOn(s relay.Stream, changes ...func(*relay.LinkConfig)) (*relay.Link, *inbox) {
	w.t.Helper()
	in := newInbox()
	cfg := in.config()
	for _, change := range changes {
		change(&cfg)
	}
	l, _, err := relay.NewLink(context.Background(), s, cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = l.Close() })
	return l, in
}

// refused tries to connect a client and returns why it could not.
func (w *world) refused(k relay.Key, changes ...func(*relay.LinkConfig)) relay.GoAwayReason {
	w.t.Helper()
	cfg := newInbox().config()
	for _, change := range changes {
		change(&cfg)
	}
	_, _, err := relay.NewLink(context.Background(), w.stream(k), cfg)
	var away *relay.GoAwayError
	require.ErrorAs(w.t, err, &away)
	return away.Reason
}

func withBoot(b relay.BootID) func(*relay.LinkConfig) {
	return func(cfg *relay.LinkConfig) { cfg.BootID = b }
}

func connecting(cfg *relay.LinkConfig) { cfg.Mode = relay.ModeConnect }

// raw greets the relay by hand and returns the open stream.
func (w *world) raw(k relay.Key, h relay.Hello) net.Conn {
	w.t.Helper()
	s := w.stream(k)
	w.t.Cleanup(func() { _ = s.Close() })
	greet, err := relay.AppendHello(nil, h)
	require.NoError(w.t, err)
	_, err = s.Write(greet)
	require.NoError(w.t, err)
	welcome, err := relay.ParseWelcome(readGreeting(w.t, s))
	require.NoError(w.t, err)
	require.Zero(w.t, welcome.Refused)
	return s
}

func hello() relay.Hello {
	return relay.Hello{Version: relay.Version, BootID: boot(1), Mode: relay.ModeHome}
}

func readGreeting(t *testing.T, r io.Reader) []byte {
	t.Helper()
	var head [2]byte
	_, err := io.ReadFull(r, head[:])
	require.NoError(t, err)
	raw := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err = io.ReadFull(r, raw)
	require.NoError(t, err)
	return raw
}

// readFrame reads one frame by hand.
func readFrame(t *testing.T, r io.Reader) relay.Frame {
	t.Helper()
	raw := make([]byte, 2, 2+1<<16)
	_, err := io.ReadFull(r, raw)
	require.NoError(t, err)
	raw = raw[:2+int(binary.BigEndian.Uint16(raw))]
	_, err = io.ReadFull(r, raw[2:])
	require.NoError(t, err)
	f, n, err := relay.ParseFrame(raw)
	require.NoError(t, err)
	require.Len(t, raw, n)
	return f
}

func frame(t testing.TB, f relay.Frame) []byte {
	raw, err := relay.AppendFrame(nil, f)
	require.NoError(t, err)
	return raw
}

// wire is a stream between two ends that takes time and can swallow what is
// sent.
type wire struct {
	delay atomic.Int64 // nanoseconds, each way
	hole  atomic.Bool  // swallow everything from now on
	ends  [4]net.Conn
}

// newWire returns the two ends of a wire. Its goroutines belong to wg and end
// with it.
func newWire(wg *sync.WaitGroup, delay time.Duration) (a, b net.Conn, w *wire) {
	a, inA := net.Pipe()
	b, inB := net.Pipe()
	w = &wire{ends: [4]net.Conn{a, inA, b, inB}}
	w.delay.Store(int64(delay))
	w.carry(wg, inA, inB)
	w.carry(wg, inB, inA)
	return a, b, w
}

// cut ends the stream at both ends.
func (w *wire) cut() {
	for _, c := range w.ends {
		_ = c.Close()
	}
}

func (w *wire) carry(wg *sync.WaitGroup, from, to net.Conn) {
	type chunk struct {
		b  []byte
		at time.Time
	}
	ch := make(chan chunk, 4096)
	wg.Go(func() {
		defer close(ch)
		for {
			b := make([]byte, 64<<10)
			n, err := from.Read(b)
			if err != nil {
				return
			}
			if !w.hole.Load() {
				ch <- chunk{b[:n], time.Now()}
			}
		}
	})
	wg.Go(func() {
		for c := range ch {
			time.Sleep(time.Until(c.at.Add(time.Duration(w.delay.Load()))))
			_, _ = to.Write(c.b) // a closed end shows on the next read
		}
		if w.hole.Load() {
			return // not even the end gets through; the test cuts the wire
		}
		_ = to.Close()
	})
}
