package call

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call/internal/wire"
)

const (
	// overrun and overrunTime bound what a peer that does not wait for credit
	// may have in our buffer beyond the window (CALL-29).
	overrun     = 1 << 20
	overrunTime = 5 * time.Second
	// maxBuffered bounds the buffer within the window; a single value may be
	// larger.
	maxBuffered = 64 << 20
)

// Subscription is a subscription of ours, open until Next has returned an
// error or Close is called. Next and All are for one goroutine at a time; the
// other methods may be called concurrently.
type Subscription struct {
	s      *Session
	p      *pending
	window int
	stop   func() // releases the context and the timer; set before it is used

	mu     sync.Mutex
	items  []json.RawMessage
	size   int           // bytes in items
	taken  int           // items since credit was last given
	err    error         // how it ended, io.EOF when complete
	ready  chan struct{} // capacity 1: items or err may have changed
	overAt time.Time     // since when items hold more than the window
}

// Subscribe subscribes to an operation of the peer. ctx bounds the whole
// subscription, not only its beginning: when it ends, so does the
// subscription, and the peer is told to abort.
//
// Subscribe returns once the request is on its way; whether the peer accepts
// it shows at the first Next. Called on a query or mutation it yields the
// answer and then ErrStreamClosed.
func (s *Session) Subscribe(ctx context.Context, name string, input any, opts ...CallOption) (*Subscription, error) {
	req, o, failure := s.prepare(name, input, opts)
	if failure != nil {
		return nil, failure
	}
	if o.window <= 0 {
		o.window = defaultWindow
	}
	req.Window = int64(o.window)
	sub := &Subscription{s: s, window: o.window, ready: make(chan struct{}, 1)}
	p := &pending{id: o.id, sub: sub}
	sub.p = p
	// A deadline of ctx is kept on this side: told to the peer, it would be
	// capped there.
	var timer *time.Timer
	if o.timeout > 0 {
		p.deadline = time.Now().Add(o.timeout)
		req.TimeoutMS = milliseconds(o.timeout)
		timer = time.AfterFunc(o.timeout, func() { s.abandon(p, timedOut(context.DeadlineExceeded)) })
	}
	release := context.AfterFunc(ctx, func() { s.abandon(p, contextError(ctx)) })
	sub.stop = func() {
		release()
		if timer != nil {
			timer.Stop()
		}
	}
	err := s.intercepted(ctx, o.id, req, func(ctx context.Context) *Error { return s.send(ctx, p, req) })
	if err != nil {
		sub.stop()
		return nil, err
	}
	o.forwards.begin()
	// Either may have fired before p was in the table.
	if ctx.Err() != nil {
		s.abandon(p, contextError(ctx))
	} else if timer != nil && !time.Now().Before(p.deadline) {
		s.abandon(p, timedOut(context.DeadlineExceeded))
	}
	return sub, nil
}

// ID is the request's id.
func (sub *Subscription) ID() string { return sub.p.id }

// Next waits for the next value. After the last one it returns io.EOF when the
// subscription was completed by its handler, otherwise an *Error; ends of the
// stream or session are never taken for completion (CALL-44).
//
// The end of ctx ends this wait only, not the subscription.
func (sub *Subscription) Next(ctx context.Context) (json.RawMessage, error) {
	for {
		item, credit, err, ok := sub.take()
		if credit > 0 {
			sub.give(credit)
		}
		if ok {
			return item, err
		}
		select {
		case <-sub.ready:
		case <-ctx.Done():
			return nil, contextError(ctx)
		}
	}
}

// All yields the values until the subscription ends. Its failure, also that of
// ctx, is yielded last; completion is not. Leaving the loop closes the
// subscription.
func (sub *Subscription) All(ctx context.Context) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		defer sub.Close()
		for {
			item, err := sub.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
}

// Close aborts the subscription unless it has ended; Next then returns
// ErrAborted. Values not taken are dropped. It may be called again, and its
// result is always nil.
func (sub *Subscription) Close() error {
	sub.s.abandon(sub.p, wrap(ErrAborted, nil))
	sub.mu.Lock()
	sub.items, sub.size = nil, 0
	sub.mu.Unlock()
	sub.stop()
	return nil
}

// take returns what Next has to return now, if there is anything, and how much
// credit is due for it.
func (sub *Subscription) take() (item json.RawMessage, credit int, err error, ok bool) { //nolint:revive // not an error result
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if len(sub.items) == 0 {
		return nil, 0, sub.err, sub.err != nil
	}
	item = sub.items[0]
	sub.items[0] = nil
	sub.items = sub.items[1:]
	sub.size -= len(item)
	if len(sub.items) <= sub.window {
		sub.overAt = time.Time{}
	}
	if sub.taken++; 2*sub.taken >= sub.window && sub.err == nil {
		credit, sub.taken = sub.taken, 0
	}
	return item, credit, nil, true
}

// give lets the peer send more (CALL-28).
func (sub *Subscription) give(credit int) {
	home := sub.p.home
	err := home.put(func(dst []byte) ([]byte, error) { return wire.AppendCredit(dst, sub.p.id, int64(credit)), nil })
	if err != nil {
		home.kill(protocols.CodeOverloaded, err)
	}
}

// push adds a value that arrived. An error ends the subscription (CALL-29).
func (sub *Subscription) push(item json.RawMessage) *Error {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if sub.err != nil {
		return nil
	}
	sub.items = append(sub.items, item)
	sub.size += len(item)
	sub.signal()
	over := len(sub.items) > sub.window
	switch {
	case !over && (sub.size <= maxBuffered || len(sub.items) == 1):
		return nil
	case !over, sub.size > overrun:
		return wrap(ErrSubscriptionOverflow, nil)
	case sub.overAt.IsZero():
		since := time.Now()
		sub.overAt = since
		time.AfterFunc(overrunTime, func() { sub.overdue(since) })
	}
	return nil
}

// overdue ends the subscription when it has been over its window since.
func (sub *Subscription) overdue(since time.Time) {
	sub.mu.Lock()
	over := sub.overAt.Equal(since)
	sub.mu.Unlock()
	if over {
		sub.s.abandon(sub.p, wrap(ErrSubscriptionOverflow, nil))
	}
}

// end records how the subscription ended; values that are there can still be
// taken, unless it was this side that ended it.
func (sub *Subscription) end(err error) {
	sub.mu.Lock()
	if e, ok := asError(err); ok && !e.remote && (errors.Is(e, ErrAborted) || e.Code == CodeTimeout) {
		sub.items, sub.size = nil, 0
	}
	sub.err = err
	sub.signal()
	sub.mu.Unlock()
	sub.stop()
}

func (sub *Subscription) signal() {
	select {
	case sub.ready <- struct{}{}:
	default:
	}
}
