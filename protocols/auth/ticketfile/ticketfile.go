// Package ticketfile keeps the tickets a node has issued in a file,
// tickets.json in its home: the JSON form of [ticket.Ledger].
//
// A [File] is a ticket.Store. Every change is on the disk before it has an
// effect, is made under a lock that all processes share, and starts from the
// newest file: a ticket good for one use is used once, whoever else writes at
// that moment. A file that is not valid is refused whole and voids nothing.
package ticketfile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/alkdev/alknet-p2p/protocols/auth/internal/lockfile"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
)

const (
	// Name is the file's name in the node's home.
	Name = "tickets.json"

	maxBytes = 16 << 20
)

// ErrInvalid is matched by the errors of a file that is not a valid ledger.
var ErrInvalid = errors.New("not a valid ledger of tickets")

// File is the ledger in a file. It owns no goroutine; all methods may be
// called concurrently.
type File struct {
	path string
	mu   sync.Mutex // held by Reload, so that what is read last stays
	now  atomic.Pointer[ticket.Snapshot]
}

var _ ticket.Store = (*File)(nil)

// Open reads the file. One that does not exist is an empty ledger.
func Open(path string) (*File, error) {
	f := &File{path: path}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Snapshot implements ticket.Store.
func (f *File) Snapshot() *ticket.Snapshot { return f.now.Load() }

// Reload reads the file again. If it is not valid the old ledger stays.
func (f *File) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, err := f.load()
	if err != nil {
		return err
	}
	f.now.Store(ticket.NewSnapshot(l))
	return nil
}

// Update implements ticket.Store. The file has mode 0600.
func (f *File) Update(ctx context.Context, edit func(*ticket.Ledger) error) error {
	err := lockfile.Update(ctx, f.path, maxBytes, func() ([]byte, error) {
		l, err := f.load()
		if err != nil {
			return nil, err
		}
		if err := edit(l); err != nil {
			return nil, err
		}
		return l.Append(nil)
	})
	if err != nil {
		return err
	}
	return f.Reload()
}

func (f *File) load() (*ticket.Ledger, error) {
	text, err := lockfile.Read(f.path, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("read tickets: %w", err)
	}
	if text == nil {
		return new(ticket.Ledger), nil
	}
	l, err := ticket.ParseLedger(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", f.path, ErrInvalid, err)
	}
	return l, nil
}

// Watcher reads the file again when it changes. It owns one goroutine.
type Watcher struct{ w *lockfile.Watcher }

// Watch reads the file now and whenever it changes, until Close. An error of
// the first reading is returned; what became of each later one is passed to
// after, from the Watcher's goroutine. Whoever calls it lets the open sessions
// be checked again. after may be nil; it must not call Close.
func (f *File) Watch(after func(error)) (*Watcher, error) {
	if after == nil {
		after = func(error) {}
	}
	w, err := lockfile.Watch(f.path, f.Reload, after)
	if err != nil {
		return nil, err
	}
	return &Watcher{w}, nil
}

// Close ends the watching and returns after its goroutine has ended. It may
// be called twice.
func (w *Watcher) Close() { w.w.Close() }
