package relay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Timing of a link (PATH-28).
const (
	handshakeTimeout = 10 * time.Second
	pingIdle         = 5 * time.Second
	pingEarly        = 500 * time.Millisecond // data out, nothing back: ask before suspecting
	missAfter        = time.Second
	farewell         = 300 * time.Millisecond // for the last words to a relay
	measureEvery     = time.Minute            // a busy link, which needs no pings, still measures
)

// linkLimits bound what waits in a client for its relay (PATH-26).
var linkLimits = queueLimits{frames: 512, bytes: 768 << 10, age: 50 * time.Millisecond}

// ErrClosed says that the link, pool or server was closed on this side. It
// matches net.ErrClosed.
var ErrClosed = fmt.Errorf("relay link closed: %w", net.ErrClosed)

// ErrSilent says that the relay stopped answering.
var ErrSilent = errors.New("relay does not answer")

// State is what a link knows about its relay.
type State int32

// The states of a link.
const (
	StateUp      State = iota // the relay answers
	StateSuspect              // something was sent and nothing came back for a second
	StateDead                 // over; see Link.Err
)

// String names the state.
func (s State) String() string {
	switch s {
	case StateUp:
		return "up"
	case StateSuspect:
		return "suspect"
	default:
		return "dead"
	}
}

// LinkConfig configures a Link. Every callback may be nil, runs in a goroutine
// of the link, must not block and must not call Close. They run one after
// another, except that OnState may run beside the others.
type LinkConfig struct {
	// Relay is the key of the relay, for log lines.
	Relay Key
	// BootID names this run of the node.
	BootID BootID
	// Mode is what is asked of the relay; ModeHome when empty.
	Mode Mode
	// OnFrame gets every Data, Disco and Attest frame; the payload of the last
	// is an IP of 16 bytes. The payload is valid during the call only.
	OnFrame func(from Key, kind FrameType, ecn byte, payload []byte)
	// OnPeerGone hears that a key sent to is not connected to this relay.
	OnPeerGone func(peer Key)
	// OnHealth hears what is wrong with the relay; empty when nothing is.
	OnHealth func(problem string)
	// OnRateHint hears how many bytes per second the relay lets through; 0
	// when there is no limit.
	OnRateHint func(bytesPerSecond uint64)
	// OnGoAway hears that the relay wants the client elsewhere. After
	// GoAwayDraining the link lives on until the relay closes it.
	OnGoAway func(reason GoAwayReason)
	// OnState hears every change of the state.
	OnState func(State)
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Link is a client's link to one relay. It owns three goroutines: one reads,
// one writes, one watches that the relay answers (PATH-28). All methods may be
// called concurrently.
type Link struct {
	cfg    LinkConfig
	log    *slog.Logger
	stream Stream
	reader *frameReader
	queue  *queue
	start  time.Time // what the atomic times below count from

	waiting  atomic.Int64 // when the first thing was sent that nothing came back for; 0: none
	received atomic.Int64 // when something last came
	dozing   atomic.Bool  // watch waits for idleness and wants to hear of a send
	nudge    chan struct{}
	pingedAt atomic.Int64 // when the last ping was sent
	rtt      atomic.Int64
	leaving  atomic.Bool // the relay said it drains

	full, old atomic.Uint64

	pingMu sync.Mutex
	pingID [echoSize]byte
	pinged time.Time
	ponged bool // rtt comes from pongs

	tellMu sync.Mutex // held over a change of state and its callback, so that they are told in order
	state  atomic.Int32
	err    atomic.Pointer[error]

	left     chan struct{} // closed when the writer shall end, by Close or fail
	leftOnce sync.Once
	done     chan struct{}
	wg       sync.WaitGroup
}

// NewLink greets the relay at the other end of the stream and starts the link.
// ctx bounds the greeting only, which takes 10 s at most. The link owns the
// stream, and closes it when it fails. A refusal is a *GoAwayError. Frames may
// be delivered before NewLink returns.
func NewLink(ctx context.Context, stream Stream, cfg LinkConfig) (*Link, Welcome, error) {
	if cfg.Mode == "" {
		cfg.Mode = ModeHome
	}
	l := &Link{
		cfg:    cfg,
		log:    cfg.Logger,
		stream: stream,
		reader: newFrameReader(stream),
		start:  time.Now().Add(-1), // so that no time is zero
		nudge:  make(chan struct{}, 1),
		left:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.log = l.log.With("relay", cfg.Relay)
	l.queue = newQueue(linkLimits, &l.full, &l.old)

	welcome, err := l.greet(ctx)
	if err != nil {
		abort(stream)
		return nil, Welcome{}, err
	}
	l.received.Store(l.now())
	l.sendPing(time.Now())
	l.wg.Go(l.read)
	l.wg.Go(l.write)
	l.wg.Go(l.watch)
	return l, welcome, nil
}

// greet exchanges Hello and Welcome.
func (l *Link) greet(ctx context.Context) (Welcome, error) {
	sent := time.Now()
	if err := l.stream.SetDeadline(sent.Add(handshakeTimeout)); err != nil {
		return Welcome{}, fmt.Errorf("greet relay: %w", err)
	}
	// No goroutine is left behind: either stop succeeds, or ctx is over and
	// abort returns at once.
	stop := context.AfterFunc(ctx, func() { abort(l.stream) })
	welcome, err := l.exchange()
	if !stop() {
		return Welcome{}, fmt.Errorf("greet relay: %w", context.Cause(ctx))
	}
	if err != nil {
		return Welcome{}, err
	}
	if welcome.Refused != 0 {
		return Welcome{}, &GoAwayError{Reason: welcome.Refused}
	}
	l.rtt.Store(int64(time.Since(sent)))
	if err := l.stream.SetDeadline(time.Time{}); err != nil {
		return Welcome{}, fmt.Errorf("greet relay: %w", err)
	}
	return welcome, nil
}

func (l *Link) exchange() (Welcome, error) {
	raw, err := AppendHello(nil, Hello{Version: Version, BootID: l.cfg.BootID, Mode: l.cfg.Mode})
	if err != nil {
		return Welcome{}, err
	}
	if _, err := l.stream.Write(raw); err != nil {
		return Welcome{}, fmt.Errorf("send hello: %w", err)
	}
	raw, err = l.reader.greeting()
	if err != nil {
		return Welcome{}, handshakeError("read welcome", err)
	}
	return ParseWelcome(raw)
}

// Send queues a frame for the key and returns at once. The payload is copied;
// FrameAttest has none, and asks the relay to tell the key our IP (PATH-23).
// It fails when the link is over or the payload is longer than MaxPayload;
// success says nothing about arrival.
func (l *Link) Send(to Key, kind FrameType, ecn byte, payload []byte) error {
	if kind != FrameData && kind != FrameDisco && (kind != FrameAttest || len(payload) > 0) {
		return fmt.Errorf("send frame type %d: %w", kind, ErrFrame)
	}
	if len(payload) > MaxPayload {
		return fmt.Errorf("send %d bytes, limit %d: %w", len(payload), MaxPayload, ErrFrame)
	}
	select {
	case <-l.done:
		return l.Err()
	default:
	}
	now := time.Now()
	l.queue.put(to, Frame{Type: kind, Key: to, Flags: ecn & ECNMask, Payload: payload}, now)
	l.expect(now)
	return nil
}

// RTT is the smoothed round trip to the relay; at first that of the greeting.
func (l *Link) RTT() time.Duration { return time.Duration(l.rtt.Load()) }

// State says whether the relay answers.
func (l *Link) State() State { return State(l.state.Load()) }

// Mode is what the link asked of the relay.
func (l *Link) Mode() Mode { return l.cfg.Mode }

// Draining says that the relay announced its end: the client should move.
func (l *Link) Draining() bool { return l.leaving.Load() }

// Dropped counts frames that this side dropped, for want of room or by age.
func (l *Link) Dropped() uint64 { return l.full.Load() + l.old.Load() }

// Probe asks the relay for an answer now, so that a link which died with a
// change of network is found dead in two seconds.
func (l *Link) Probe() { l.sendPing(time.Now()) }

// Done is closed when the link is over.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err says why the link is over: ErrClosed, ErrSilent, a *GoAwayError, or what
// the stream said. It is nil while the link lives.
func (l *Link) Err() error {
	if err := l.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Close sends what is queued, such as the ends of the connections above, waits
// a moment for the relay to have read it, ends the link and returns after its
// last goroutine. It may be called more than once, but not from a callback.
func (l *Link) Close() error {
	patience := time.AfterFunc(farewell, func() { l.fail(ErrClosed) })
	defer patience.Stop()
	l.leave()
	l.wg.Wait()
	return nil
}

func (l *Link) leave() { l.leftOnce.Do(func() { close(l.left) }) }

// reason is why the stream ended, as far as the link's user is concerned.
func (l *Link) reason(err error) error {
	select {
	case <-l.left:
		return ErrClosed
	default:
		return err
	}
}

// fail ends the link; the first reason stays.
func (l *Link) fail(err error) {
	if !l.err.CompareAndSwap(nil, &err) {
		return
	}
	l.setState(StateDead)
	close(l.done)
	l.leave()
	abort(l.stream)
}

// setState changes the state unless the link is over, and tells it.
func (l *Link) setState(s State) {
	l.tellMu.Lock()
	defer l.tellMu.Unlock()
	if old := l.State(); old == s || old == StateDead {
		return
	}
	l.state.Store(int32(s))
	if l.cfg.OnState != nil {
		l.cfg.OnState(s)
	}
}

func (l *Link) now() int64 { return int64(time.Since(l.start)) }

func (l *Link) write() {
	_, err := l.queue.drainTo(l.stream, l.left, 0, nil)
	if err == nil && l.Err() == nil { // Close: the last words
		l.queue.lift()
		_, err = l.queue.drainBurst(l.stream, farewell, nil)
		if err == nil && closeWrite(l.stream) {
			return // the relay answers with its own end
		}
	}
	if err == nil {
		err = ErrClosed
	}
	l.fail(l.reason(fmt.Errorf("write to relay: %w", err)))
}

func (l *Link) read() {
	for {
		f, err := l.reader.next()
		if l.Draining() && errors.Is(err, io.EOF) {
			l.fail(&GoAwayError{Reason: GoAwayDraining})
			return
		}
		if err != nil {
			l.fail(l.reason(fmt.Errorf("read from relay: %w", err)))
			return
		}
		l.received.Store(l.now())
		l.waiting.Store(0)
		if l.State() == StateSuspect {
			l.setState(StateUp)
		}
		if err := l.handle(f); err != nil {
			l.fail(err)
			return
		}
	}
}

func (l *Link) handle(f Frame) error {
	switch f.Type {
	case FrameAttest:
		if len(f.Payload) != ipSize {
			return fmt.Errorf("attestation of %d bytes: %w", len(f.Payload), ErrFrame)
		}
		fallthrough
	case FrameData, FrameDisco:
		if l.cfg.OnFrame != nil {
			l.cfg.OnFrame(f.Key, f.Type, f.Flags&ECNMask, f.Payload)
		}
	case FramePeerGone:
		if l.cfg.OnPeerGone != nil {
			l.cfg.OnPeerGone(f.Key)
		}
	case FramePing:
		if len(f.Payload) != echoSize {
			return fmt.Errorf("ping of %d bytes: %w", len(f.Payload), ErrFrame)
		}
		l.queue.putControl(Frame{Type: FramePong, Payload: f.Payload})
	case FramePong:
		if now := time.Now(); !l.queue.answered(f.Payload, now) {
			l.pong(f.Payload, now)
		}
	case FrameHealth:
		if l.cfg.OnHealth != nil {
			l.cfg.OnHealth(string(f.Payload[:min(len(f.Payload), maxHealth)]))
		}
	case FrameGoAway:
		if len(f.Payload) < 1 {
			return fmt.Errorf("empty go away: %w", ErrFrame)
		}
		return l.goAway(GoAwayReason(f.Payload[0]))
	case FrameRateHint:
		if len(f.Payload) != hintSize {
			return fmt.Errorf("rate hint of %d bytes: %w", len(f.Payload), ErrFrame)
		}
		if l.cfg.OnRateHint != nil {
			l.cfg.OnRateHint(binary.BigEndian.Uint64(f.Payload))
		}
	}
	return nil
}

func (l *Link) goAway(reason GoAwayReason) error {
	l.log.Debug("relay says go away", "err", reason)
	if reason == GoAwayDraining {
		l.leaving.Store(true)
	}
	if l.cfg.OnGoAway != nil {
		l.cfg.OnGoAway(reason)
	}
	if reason == GoAwayDraining {
		return nil
	}
	return &GoAwayError{Reason: reason}
}

// watch pings an idle relay and ends the link to a silent one (PATH-28). Once
// something was sent and nothing came back, it asks after half a second,
// suspects and asks again after one, and gives up a second later.
func (l *Link) watch() {
	var (
		since     int64 // the wait that is being watched, as in l.waiting
		asked     bool
		suspected int64 // when this wait became suspicious
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-timer.C:
		case <-l.nudge:
		}
		now, waiting := l.now(), l.waiting.Load()
		if waiting != since {
			since, asked, suspected = waiting, false, 0
		}
		var next int64
		switch {
		case waiting == 0 && now >= l.received.Load()+int64(pingIdle):
			l.sendPing(time.Now())
		case waiting == 0:
			if now >= l.pingedAt.Load()+int64(measureEvery) {
				l.sendPing(time.Now())
				break
			}
			l.dozing.Store(true)
			if l.waiting.Load() == 0 {
				next = l.received.Load() + int64(pingIdle)
			}
		case suspected != 0:
			// Counted from when the ping was sent, not from when it was due:
			// a process that was stopped meanwhile gives the relay its second.
			if next = suspected + int64(missAfter); now >= next {
				l.fail(ErrSilent)
				return
			}
		case now >= waiting+int64(missAfter):
			suspected, next = now, now+int64(missAfter)
			l.setState(StateSuspect)
			l.sendPing(time.Now())
		case now >= waiting+int64(pingEarly):
			if !asked && l.pingedAt.Load() < waiting {
				l.sendPing(time.Now())
			}
			asked, next = true, waiting+int64(missAfter)
		default:
			next = waiting + int64(pingEarly)
		}
		timer.Reset(time.Duration(next - l.now())) // at once when next is past
	}
}

// expect notes that something was sent which the relay should answer.
func (l *Link) expect(now time.Time) {
	if l.waiting.CompareAndSwap(0, int64(now.Sub(l.start))) && l.dozing.Swap(false) {
		select {
		case l.nudge <- struct{}{}:
		default:
		}
	}
}

func (l *Link) sendPing(now time.Time) {
	l.pingMu.Lock()
	_, _ = rand.Read(l.pingID[:]) // never fails
	l.pinged = now
	id := l.pingID
	l.pingMu.Unlock()
	l.pingedAt.Store(int64(now.Sub(l.start)))
	l.queue.putControl(Frame{Type: FramePing, Payload: id[:]})
	l.expect(now)
}

// pong measures the round trip, smoothed as in RFC 6298. A pong to an older
// ping, or to none, shows life and nothing more.
func (l *Link) pong(id []byte, now time.Time) {
	l.pingMu.Lock()
	defer l.pingMu.Unlock()
	if l.pinged.IsZero() || string(id) != string(l.pingID[:]) {
		return
	}
	rtt := now.Sub(l.pinged)
	l.pinged = time.Time{}
	if l.ponged {
		rtt = (7*l.RTT() + rtt) / 8
	}
	l.ponged = true
	l.rtt.Store(int64(rtt))
}
