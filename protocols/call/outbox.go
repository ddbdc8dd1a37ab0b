package call

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
)

const (
	// chunkSize is how much is gathered into one write.
	chunkSize = 32 << 10
	// largeFrame is the size from which a frame is a chunk of its own.
	largeFrame = 16 << 10
	// highWater is how much may be queued before senders of values wait.
	highWater = 256 << 10
	// maxUrgent bounds what is queued without waiting: answers and credit for
	// a peer that sends but does not read.
	maxUrgent = 4 << 20
)

var (
	// errWriteClosed: nothing of the frame was written and nothing will be.
	errWriteClosed = errors.New("write half closed")
	errNoRoom      = errors.New("no room")
	errFlooded     = errors.New("the peer sends but does not read")
)

// outbox is the writing half of a stream: one goroutine writes what others
// append, whole frames, many to a write (CALL-7). Gathering is what makes small
// calls fast: the writer yields once before it takes what is there, so that
// everyone who is about to send gets on board.
type outbox struct {
	w       io.Writer
	buffers *sync.Pool

	mu     sync.Mutex
	queue  [][]byte
	tail   []byte        // the chunk that small frames are appended to
	size   int           // bytes queued or in writing
	urgent int           // bytes queued without waiting
	awake  bool          // the writer will look again without being woken
	wake   chan struct{} // capacity 1
	room   chan struct{} // closed when size falls below highWater; nil when nobody waits
	closed bool          // no more frames; the writer ends after the last
	err    error         // the stream is gone
}

func newOutbox(w io.Writer, buffers *sync.Pool) *outbox {
	return &outbox{w: w, buffers: buffers, wake: make(chan struct{}, 1)}
}

// encoder appends one frame.
type encoder func(dst []byte) ([]byte, error)

// put appends a frame without waiting: for what bounds itself, one terminal
// event a request or credit. It fails with errFlooded when too much of that
// has gathered, errWriteClosed, or the encoder's error.
func (o *outbox) put(enc encoder) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.append(enc)
	if err != nil {
		return err
	}
	if o.urgent += n; o.urgent > maxUrgent {
		return errFlooded
	}
	return nil
}

// offer appends a frame of about size bytes when there is room, else fails
// with errNoRoom.
func (o *outbox) offer(size int, enc encoder) error {
	var own []byte
	if size > largeFrame {
		var err error
		if own, err = enc(make([]byte, 0, size+256)); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.size >= highWater && !o.closed && o.err == nil {
		return errNoRoom
	}
	if own == nil {
		_, err := o.append(enc)
		return err
	}
	if o.closed || o.err != nil {
		return errWriteClosed
	}
	o.seal()
	o.queue = append(o.queue, own)
	o.added(len(own))
	return nil
}

// wait returns when there is room, the outbox is closed, or ctx ends.
func (o *outbox) wait(ctx context.Context) error {
	for {
		o.mu.Lock()
		if open := !o.closed && o.err == nil; !open || o.size < highWater {
			o.mu.Unlock()
			return nil
		}
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// append encodes a frame onto the tail; o.mu is held.
func (o *outbox) append(enc encoder) (int, error) {
	if o.closed || o.err != nil {
		return 0, errWriteClosed
	}
	if o.tail == nil {
		o.tail = o.buffer()
	}
	before := len(o.tail)
	tail, err := enc(o.tail)
	o.tail = tail
	if err != nil {
		return 0, err
	}
	n := len(tail) - before
	if len(tail) >= chunkSize {
		o.seal()
	}
	o.added(n)
	return n, nil
}

// seal moves the tail into the queue.
func (o *outbox) seal() {
	if len(o.tail) > 0 {
		o.queue = append(o.queue, o.tail)
		o.tail = nil
	}
}

func (o *outbox) added(n int) {
	o.size += n
	o.signal()
}

func (o *outbox) signal() {
	if !o.awake {
		o.awake = true
		o.wake <- struct{}{}
	}
}

// finish lets the writer end once everything queued is written.
func (o *outbox) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.signal()
	o.release()
}

// fail makes the writer end and drops what is queued. The caller ends a write
// that blocks.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	o.queue, o.tail = nil, nil
	o.signal()
	o.release()
}

// release wakes all who wait for room.
func (o *outbox) release() {
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}

// run writes until finish, after which it returns nil, or until a write or
// fail gives an error.
func (o *outbox) run() error {
	var batch [][]byte
	for range o.wake {
		runtime.Gosched()
		for {
			var err error
			var more bool
			if batch, more, err = o.take(batch); err != nil {
				return err
			}
			if len(batch) == 0 {
				if !more {
					return nil
				}
				break
			}
			for i, chunk := range batch {
				if _, err := o.w.Write(chunk); err != nil {
					return err
				}
				o.written(chunk)
				batch[i] = nil
			}
			batch = batch[:0]
		}
	}
	return nil
}

// take empties the queue into batch; more is false after the last frame of a
// finished outbox.
func (o *outbox) take(batch [][]byte) (_ [][]byte, more bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, false, o.err
	}
	o.seal()
	batch, o.queue = o.queue, batch[:0]
	o.urgent = 0
	if len(batch) == 0 {
		o.awake = false
	}
	return batch, !o.closed, nil
}

func (o *outbox) written(chunk []byte) {
	n := len(chunk)
	if cap(chunk) <= 2*chunkSize {
		chunk = chunk[:0]
		o.buffers.Put(&chunk)
	}
	o.mu.Lock()
	o.size -= n
	if o.size < highWater {
		o.release()
	}
	o.mu.Unlock()
}

// buffer returns an empty chunk; idle streams hold none.
func (o *outbox) buffer() []byte {
	if b, ok := o.buffers.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 0, 1<<10)
}
