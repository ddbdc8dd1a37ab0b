package peerfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// settle is how long the folder must be quiet before the file is read: an
// editor makes several changes for one.
const settle = 50 * time.Millisecond

// Watcher reloads peers when their file changes. It owns one goroutine.
type Watcher struct {
	events *fsnotify.Watcher
	stop   chan struct{}
	once   sync.Once
	done   sync.WaitGroup
}

// Watch reads the file into peers and does so again whenever it changes,
// until Close. An error of the first reading is returned; what became of each
// later one is passed to after, from the Watcher's goroutine: nil when peers
// has the new registry, else why the old one stays. after may be nil; it must
// not call Close.
func Watch(path string, peers *auth.Peers, after func(error)) (*Watcher, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("watch peers: %w", err)
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch peers: %w", err)
	}
	// The folder, for the file itself is replaced by each write.
	if err := events.Add(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("watch peers: %w", err), events.Close())
	}
	if err := Reload(path, peers); err != nil {
		return nil, errors.Join(err, events.Close())
	}
	if after == nil {
		after = func(error) {}
	}
	w := &Watcher{events: events, stop: make(chan struct{})}
	w.done.Go(func() { w.run(path, peers, after) })
	return w, nil
}

// Close ends the watching and returns after its goroutine has ended. It may
// be called twice.
func (w *Watcher) Close() {
	w.once.Do(func() { close(w.stop) })
	w.done.Wait()
}

func (w *Watcher) run(path string, peers *auth.Peers, after func(error)) {
	defer func() { _ = w.events.Close() }()
	quiet := time.NewTimer(0)
	quiet.Stop()
	for {
		select {
		case <-w.stop:
			return
		case e, ok := <-w.events.Events:
			if !ok {
				return
			}
			if e.Name == path {
				quiet.Reset(settle)
			}
		case err, ok := <-w.events.Errors:
			if !ok {
				return
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				after(fmt.Errorf("watch peers: %w", err))
			}
			quiet.Reset(settle) // events may be lost: look
		case <-quiet.C:
			after(Reload(path, peers))
		}
	}
}
