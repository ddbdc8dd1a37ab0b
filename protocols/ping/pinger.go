package ping

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/protocols"
)

// maxWaiting is how many pings one Pinger may have under way.
const maxWaiting = 64

// errTooMany: more pings are under way than a Pinger takes.
var errTooMany = fmt.Errorf("more than %d pings under way", maxWaiting)

// Pinger measures round trips over one stream. Ping may be called
// concurrently and again after a ping was lost. It owns two goroutines; Close
// ends them.
type Pinger struct {
	stream protocols.Stream
	send   chan uint64 // to the writer
	ended  chan struct{}
	done   sync.WaitGroup

	mu      sync.Mutex
	seq     uint64
	waiting map[uint64]*waiter
	err     error // why the Pinger has ended
}

// waiter is a ping under way.
type waiter struct {
	sent  time.Time
	reply chan time.Duration
}

// NewPinger opens a stream on the session. That the peer does not serve the
// protocol shows on the first Ping, as protocols.ErrProtocolNotSupported.
func NewPinger(ctx context.Context, conn protocols.Connection) (*Pinger, error) {
	st, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("open ping stream: %w", err)
	}
	p := &Pinger{
		stream:  st,
		send:    make(chan uint64, maxWaiting),
		ended:   make(chan struct{}),
		waiting: make(map[uint64]*waiter),
	}
	p.done.Go(p.read)
	p.done.Go(p.write)
	return p, nil
}

// Ping sends one ping and returns how long its answer took. When ctx ends
// first the error matches ctx's; the answer may still come and is dropped.
// Every other error is final: the stream is gone, and a new Pinger is needed.
func (p *Pinger) Ping(ctx context.Context) (time.Duration, error) {
	w := &waiter{reply: make(chan time.Duration, 1)}
	seq, err := p.begin(w)
	if err != nil {
		return 0, err
	}
	defer p.forget(seq)
	select {
	case rtt := <-w.reply:
		return rtt, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("ping: %w", ctx.Err())
	case <-p.ended:
		p.mu.Lock()
		defer p.mu.Unlock()
		return 0, p.err
	}
}

// Close ends the stream and the Pinger's goroutines; pings under way fail. It
// may be called twice.
func (p *Pinger) Close() {
	p.end(fmt.Errorf("pinger: %w", protocols.ErrStreamClosed))
	_ = p.stream.Close()
	p.done.Wait()
}

func (p *Pinger) begin(w *waiter) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return 0, p.err
	case len(p.waiting) == maxWaiting:
		return 0, errTooMany
	}
	w.sent = time.Now()
	select {
	case p.send <- p.seq:
	default:
		// The writer hangs with as many pings given up.
		return 0, errTooMany
	}
	seq := p.seq
	p.seq++
	p.waiting[seq] = w
	return seq, nil
}

func (p *Pinger) forget(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, seq)
}

// end makes the Pinger useless; the first reason stays.
func (p *Pinger) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		close(p.ended)
	}
}

// write sends the pings, so that a stream that takes no more bytes does not
// hold up Ping beyond its ctx.
func (p *Pinger) write() {
	frame := make([]byte, 0, frameSize)
	for {
		select {
		case seq := <-p.send:
			if _, err := p.stream.Write(appendFrame(frame, kindPing, seq)); err != nil {
				p.end(fmt.Errorf("send ping: %w", err))
				_ = p.stream.Reset(protocols.CodeAborted)
				return
			}
		case <-p.ended:
			return
		}
	}
}

// read takes the answers. It reads all the time, and without a deadline: one
// that passes during the negotiation beneath would spoil the stream.
func (p *Pinger) read() {
	frame := make([]byte, frameSize)
	for {
		if _, err := io.ReadFull(p.stream, frame); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w by the peer", protocols.ErrStreamClosed)
			}
			p.end(fmt.Errorf("read pong: %w", err))
			_ = p.stream.Close()
			return
		}
		now := time.Now()
		seq, err := parseFrame(frame, kindPong)
		if err != nil {
			p.end(err)
			_ = p.stream.Reset(protocols.CodeProtocolViolation)
			return
		}
		p.mu.Lock()
		if w, ok := p.waiting[seq]; ok {
			delete(p.waiting, seq)
			w.reply <- now.Sub(w.sent)
		}
		p.mu.Unlock()
	}
}
