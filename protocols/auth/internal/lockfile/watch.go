package lockfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the folder must be quiet before the file is read: an
// editor makes several changes for one.
const settle = 50 * time.Millisecond

// longest is how long a file that keeps changing goes unread.
const longest = 500 * time.Millisecond

// Watcher notices changes of a file. It owns one goroutine.
type Watcher struct {
	events *fsnotify.Watcher
	stop   chan struct{}
	once   sync.Once
	done   sync.WaitGroup
}

// Watch calls read, and again whenever the file changes, until Close. An error
// of the first reading is returned; what became of each later one is passed to
// after, from the Watcher's goroutine. after must not call Close.
func Watch(path string, read func() error, after func(error)) (*Watcher, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	// The folder, for the file itself is replaced by each write.
	if err := events.Add(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("watch: %w", err), events.Close())
	}
	if err := read(); err != nil {
		return nil, errors.Join(err, events.Close())
	}
	w := &Watcher{events: events, stop: make(chan struct{})}
	w.done.Go(func() { w.run(path, read, after) })
	return w, nil
}

// Close ends the watching and returns after its goroutine has ended. It may
// be called twice.
func (w *Watcher) Close() {
	w.once.Do(func() { close(w.stop) })
	w.done.Wait()
}

func (w *Watcher) run(path string, read func() error, after func(error)) {
	defer func() { _ = w.events.Close() }()
	var (
		quiet  = time.NewTimer(0)
		unread time.Time // when the first change came that was not read; zero = none
	)
	quiet.Stop()
	changed := func() {
		if unread.IsZero() {
			unread = time.Now()
		}
		quiet.Reset(min(settle, max(0, longest-time.Since(unread))))
	}
	for {
		select {
		case <-w.stop:
			return
		case e, ok := <-w.events.Events:
			if !ok {
				return
			}
			if e.Name == path {
				changed()
			}
		case err, ok := <-w.events.Errors:
			if !ok {
				return
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				after(fmt.Errorf("watch: %w", err))
			}
			changed() // events may be lost: look
		case <-quiet.C:
			unread = time.Time{}
			after(read())
		}
	}
}
