//go:build linux

package acceptance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// The program that roams: a node with a protocol of its own, run by the test
// as a process in a host of the lab. It is this test binary, started with
// -roam.node.

const (
	roamALPN  = "acceptance/roam"
	echoEvery = 10 * time.Millisecond
	// noteGap is from when on a pause is reported.
	noteGap = 50 * time.Millisecond

	kindEcho = 'e' // what comes goes back
	kindBulk = 'b' // what comes is counted, and its sum told at its end
)

// roamConfig is what the test tells the program.
type roamConfig struct {
	Relay  bool
	Join   []string
	Log    string        // file for the log
	Target string        // key of the peer to talk to; empty: serve
	HideIP bool          // nobody but the relays learns where this node is
	Option string        // be a go-libp2p program with our option, and talk to the peer of this ticket
	Trips  bool          // report every echo
	Seed   []byte        // of the node key; random when empty
	Known  string        // key of a peer in the registry; empty: no registry
	Load   time.Duration // how often to tell what the process holds; 0: never
	Dial   bool          // start, dial Target once, say what it took, and end
	PeerID string        // of Target, for Dial and Idle
	Idle   int           // be so many hosts, each with an idle session to PeerID
	Cache  string        // folder of the node's cache; empty: none
	Stock  string        // be one of the stock go-libp2p programs of stock_test.go
	Forget bool          // be a relay that loses the frames of the peers whose IDs stand on standard input
	Rate   int           // bits per second of the transfer, 0 for no transfer
	Bytes  int64         // the transfer's least size; it ends when standard input does
	Quiet  time.Duration // for which the echo is alone, before the transfer begins
	Calls  string        // talk by calls in place of streams, as callroam_test.go says

	Hub []auth.PeerEntry // be the hub of hub_test.go, with these peers
}

// roamLine is a line of its standard output; one field is set.
type roamLine struct {
	Ready   *roamReady  `json:",omitempty"`
	Path    *roamPath   `json:",omitempty"`
	Report  *roamReport `json:",omitempty"`
	Load    *holding    `json:",omitempty"`
	Dialled *dialled    `json:",omitempty"`
}

// lines writes them, one at a time.
type lines struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func newLines() *lines { return &lines{enc: json.NewEncoder(os.Stdout)} }

func (l *lines) tell(line roamLine) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.enc.Encode(line)
}

type roamReady struct{ Key, PeerID, Ticket string }

// roamPath is the path from At on.
type roamPath struct {
	At         time.Time
	Kind, Addr string
}

// roamReport is what came of it.
type roamReport struct {
	Errors  []string // of streams
	Echoes  int
	Bytes   int64
	SumOK   bool
	Took    time.Duration // the transfer
	Gaps    []span        // between echoes
	Stalls  []span        // in which this process did not run
	Started time.Time     // of the first echo
	Trips   []trip
}

// trip is the way of one echo there and back.
type trip struct {
	At   time.Time // when it was sent
	Took time.Duration
}

type span struct{ From, To time.Time }

// pauses notes when something that happens often did not.
type pauses struct {
	last time.Time
	long []span
}

func (p *pauses) beat(now time.Time) {
	if !p.last.IsZero() && now.Sub(p.last) > noteGap {
		p.long = append(p.long, span{p.last, now})
	}
	p.last = now
}

// roamNetwork is the name of the network these programs are in.
const roamNetwork = "roam"

// roam runs the program until standard input ends.
func roam(text string) error {
	var cfg roamConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	file, err := os.Create(cfg.Log)
	if err != nil {
		return err
	}
	defer file.Close()
	log := slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug}))
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if len(cfg.Seed) > 0 {
		key = ed25519.NewKeyFromSeed(cfg.Seed)
	}
	switch {
	case cfg.Forget:
		return forget(key, cfg, log)
	case cfg.Option != "":
		return optional(key, cfg, log)
	case cfg.Stock != "":
		return stock(cfg)
	case cfg.Idle > 0:
		return idlers(cfg, log)
	case len(cfg.Hub) > 0:
		return hub(key, cfg, log)
	}
	ncfg := node.Config{Key: key, Network: roamNetwork, Join: cfg.Join, NoMDNS: true, HideIP: cfg.HideIP, CacheDir: cfg.Cache, Logger: log}
	if cfg.Known != "" {
		friend := auth.PeerEntry{PeerName: "friend", Fingerprints: []string{cfg.Known}, Enabled: true}
		if ncfg.Peers, err = auth.NewPeers(&auth.Config{Auth: auth.Policy{Peers: []auth.PeerEntry{friend}}}); err != nil {
			return err
		}
	}
	if cfg.Relay {
		ncfg.Relay = &node.RelayConfig{Rate: -1}
	}
	n, err := node.New(ncfg)
	if err != nil {
		return err
	}
	if err := errors.Join(n.Handle(roamHandler{}), n.Calls().Register(roamOperations()...)); err != nil {
		return err
	}
	defer n.Close()
	if cfg.Dial {
		return dialRun(n, cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := n.Start(ctx); err != nil {
		return err
	}
	online, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := n.Online(online); err != nil {
		return err
	}
	out := newLines()
	ended := inputEnds()
	if err := out.tell(roamLine{Ready: &roamReady{n.Key(), n.ID().String(), n.Ticket()}}); err != nil {
		return err
	}
	if cfg.Calls != "" {
		return callNode(ctx, n, cfg, ended, out)
	}
	if cfg.Load > 0 {
		go tellHolding(cfg.Load, ended, out)
	}
	if cfg.Target == "" {
		<-ended
		return nil
	}
	dial, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	conn, err := n.Open(dial, cfg.Target, roamALPN)
	if err != nil {
		return err
	}
	look := func() (kind, addr string) {
		for _, s := range n.Status().Sessions {
			if s.ALPN == roamALPN {
				return s.Path, s.Addr
			}
		}
		return "", ""
	}
	open := func(ctx context.Context) (duplex, error) { return conn.OpenStream(ctx) }
	report := drive(ctx, cfg, open, look, ended, out)
	if err := conn.Close(0, ""); err != nil {
		return err
	}
	return out.tell(roamLine{Report: report})
}

// holding is what a process holds.
type holding struct {
	Goroutines int
	Heap       uint64 // bytes, after a garbage collection
}

func tellHolding(every time.Duration, ended <-chan struct{}, out *lines) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ended:
			return
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		_ = out.tell(roamLine{Load: &holding{runtime.NumGoroutine(), m.HeapAlloc}})
	}
}

// inputEnds returns a channel that is closed with standard input, or when this
// process is asked to end.
func inputEnds() <-chan struct{} {
	ended := make(chan struct{})
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	go func() {
		<-asked.Done()
		close(ended)
	}()
	return ended
}

// duplex is what sessions and libp2p alike open as a stream.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

type opener func(context.Context) (duplex, error)

// drive talks over streams until ended is closed, and tells when the path is
// another.
func drive(ctx context.Context, cfg roamConfig, open opener, look func() (kind, addr string), ended <-chan struct{}, out *lines) *roamReport {
	var (
		wg, watch sync.WaitGroup
		mu        sync.Mutex
		r         = &roamReport{Started: time.Now()}
		over      = make(chan struct{})
	)
	fail := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		r.Errors = append(r.Errors, fmt.Sprintf("%s %s: %v", time.Now().Format(time.StampMilli), what, err))
	}
	watch.Go(func() {
		watchPath(look, over, func(p roamPath) { _ = out.tell(roamLine{Path: &p}) })
	})
	watch.Go(func() {
		var p pauses
		tick := time.NewTicker(echoEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.beat(time.Now())
			case <-over:
				r.Stalls = p.long
				return
			}
		}
	})
	if cfg.Rate > 0 {
		wg.Go(func() {
			select {
			case <-time.After(cfg.Quiet):
			case <-ended:
			}
			if err := r.transfer(ctx, open, cfg, ended); err != nil {
				fail("transfer", err)
			}
		})
	}
	wg.Go(func() {
		if err := r.echo(ctx, cfg, open, ended); err != nil {
			fail("echo", err)
		}
	})
	wg.Wait()
	close(over)
	watch.Wait()
	return r
}

func watchPath(look func() (kind, addr string), over <-chan struct{}, tell func(roamPath)) {
	var last roamPath
	tick := time.NewTicker(2 * echoEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-over:
			return
		}
		if kind, addr := look(); kind != "" && (kind != last.Kind || addr != last.Addr) {
			last = roamPath{time.Now(), kind, addr}
			tell(last)
		}
	}
}

// echo sends a number every 10 ms and takes note of when each comes back.
func (r *roamReport) echo(ctx context.Context, cfg roamConfig, open opener, ended <-chan struct{}) error {
	st, err := openKind(ctx, open, kindEcho)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	times := make(chan time.Time, 1<<16)
	go func() {
		n := 0
		tick := time.NewTicker(echoEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ended:
				sent <- st.CloseWrite()
				return
			}
			times <- time.Now()
			if _, err := fmt.Fprintf(st, "%08d", n); err != nil {
				sent <- fmt.Errorf("write: %w", err)
				return
			}
			n++
		}
	}()
	var p pauses
	var buf [8]byte
	for n := 0; ; n++ {
		_, err := io.ReadFull(st, buf[:])
		if err != nil {
			r.Gaps, r.Echoes = p.long, n
			if !errors.Is(err, io.EOF) {
				return fmt.Errorf("read: %w", err)
			}
			return <-sent
		}
		now, at := time.Now(), <-times
		p.beat(now)
		if cfg.Trips {
			r.Trips = append(r.Trips, trip{at, now.Sub(at)})
		}
		if want := fmt.Sprintf("%08d", n); string(buf[:]) != want {
			return fmt.Errorf("echo %s came as %q", want, buf)
		}
	}
}

// transfer sends random bytes at the rate, and compares sums at the end.
func (r *roamReport) transfer(ctx context.Context, open opener, cfg roamConfig, ended <-chan struct{}) error {
	st, err := openKind(ctx, open, kindBulk)
	if err != nil {
		return err
	}
	begin := time.Now()
	var seed [32]byte
	rand.Read(seed[:])
	source, sum := mrand.NewChaCha8(seed), sha256.New()
	buf := make([]byte, 16<<10)
	limit := rate.NewLimiter(rate.Limit(cfg.Rate/8), 4*len(buf))
	for stop := false; !stop || r.Bytes < cfg.Bytes; {
		select {
		case <-ended:
			stop = true
		default:
		}
		if err := limit.WaitN(ctx, len(buf)); err != nil {
			return err
		}
		_, _ = source.Read(buf)
		sum.Write(buf)
		if _, err := st.Write(buf); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		r.Bytes += int64(len(buf))
	}
	if err := st.CloseWrite(); err != nil {
		return err
	}
	theirs, err := io.ReadAll(st)
	if err != nil {
		return fmt.Errorf("read sum: %w", err)
	}
	r.Took = time.Since(begin)
	r.SumOK = string(theirs) == tally(sum, r.Bytes)
	return nil
}

func tally(sum hash.Hash, n int64) string { return fmt.Sprintf("%x %d", sum.Sum(nil), n) }

func openKind(ctx context.Context, open opener, kind byte) (duplex, error) {
	st, err := open(ctx)
	if err != nil {
		return nil, err
	}
	_, err = st.Write([]byte{kind})
	return st, err
}

// roamHandler is the other end.
type roamHandler struct{}

func (roamHandler) ALPN() string { return roamALPN }

func (roamHandler) Handle(ctx context.Context, conn protocols.Connection, _ auth.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		st, err := conn.AcceptStream(ctx)
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer st.Close()
			var kind [1]byte
			if _, err := io.ReadFull(st, kind[:]); err != nil {
				return
			}
			if kind[0] == kindEcho {
				_, _ = io.Copy(writerOnly{st}, readerOnly{st})
				return
			}
			sum := sha256.New()
			if n, err := io.Copy(sum, readerOnly{st}); err == nil {
				_, _ = io.WriteString(st, tally(sum, n))
			}
		})
	}
}

type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)
