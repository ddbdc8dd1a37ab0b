package relay_test

import (
	"context"
	"net"
	"sync"
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
		frames: make(chan received, 4096),
		gone:   make(chan relay.Key, 64),
		states: make(chan relay.State, 64),
		away:   make(chan relay.GoAwayReason, 64),
		health: make(chan string, 64),
		hints:  make(chan uint64, 64),
	}
}

func (in *inbox) config() relay.LinkConfig {
	return relay.LinkConfig{
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

// get takes the next value or fails; under synctest the bound costs nothing.
func get[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
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

// world is a relay with clients over in-memory pipes.
type world struct {
	t      *testing.T
	server *relay.Server
	wg     sync.WaitGroup
}

func newWorld(t *testing.T, cfg relay.ServerConfig) *world {
	w := &world{t: t, server: relay.NewServer(cfg)}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	_ = w.server.Close()
	w.wg.Wait()
}

// stream returns the client's end of a new stream to the server.
func (w *world) stream(k relay.Key) net.Conn {
	client, server := net.Pipe()
	w.wg.Go(func() { _ = w.server.Serve(context.Background(), server, k, "192.0.2.1:7") })
	return client
}

// link connects a client; nil cfg callbacks gather in the inbox.
func (w *world) link(k relay.Key, change func(*relay.LinkConfig)) (*relay.Link, *inbox) {
	w.t.Helper()
	in := newInbox()
	cfg := in.config()
	cfg.BootID = boot(1)
	if change != nil {
		change(&cfg)
	}
	l, _, err := relay.NewLink(context.Background(), w.stream(k), cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = l.Close() })
	return l, in
}
