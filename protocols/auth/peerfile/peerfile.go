// Package peerfile keeps the registry of peers in a file, peers.json in the
// node's home: the JSON form of [auth.Config].
//
// A file that is not valid is refused whole, with an error that names the
// file, the line and the field. [Update] edits it under a lock shared by all
// processes and replaces it at once, so a reader never sees half a file and
// two writers never lose each other's change. [Watch] hands every change, of
// whichever process, to a running [auth.Peers].
package peerfile

import (
	"context"
	"errors"
	"fmt"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/internal/lockfile"
)

const (
	// Name is the file's name in the node's home.
	Name = "peers.json"

	maxBytes = 16 << 20
)

// ErrInvalid is matched by the errors of a file that is not a valid registry,
// and of an Update that would make it one.
var ErrInvalid = errors.New("not a valid registry of peers")

// invalid adds ErrInvalid to what errors.Is finds, not to the text.
type invalid struct{ error }

func (e invalid) Unwrap() []error { return []error{ErrInvalid, e.error} }

// Load reads the file. One that does not exist is an empty registry; one that
// is not valid is an error that matches ErrInvalid, as in `peers.json:7:5: auth.peers[0].scopes[1]
// (worker-a): is empty`, through which errors.As finds the *auth.FieldError.
func Load(path string) (*auth.Config, error) {
	text, err := lockfile.Read(path, maxBytes)
	switch {
	case errors.Is(err, lockfile.ErrTooLarge):
		return nil, invalid{err}
	case err != nil:
		return nil, fmt.Errorf("read peers: %w", err)
	case text == nil:
		return new(auth.Config), nil
	}
	cfg, err := auth.ParseConfig(text)
	if field, ok := errors.AsType[*auth.FieldError](err); ok {
		return nil, invalid{fmt.Errorf("%s:%d:%d: %w", path, field.Line, field.Column, err)}
	}
	return cfg, err
}

// Update lets edit change the registry and writes it back, mode 0600. It waits
// for other writers until ctx ends. If edit fails or leaves a registry that is
// not valid, the file stays as it was.
func Update(ctx context.Context, path string, edit func(*auth.Config) error) error {
	err := lockfile.Update(ctx, path, maxBytes, func() ([]byte, error) {
		cfg, err := Load(path)
		if err != nil {
			return nil, err
		}
		if err := edit(cfg); err != nil {
			return nil, err
		}
		if err := cfg.Validate(); err != nil {
			return nil, invalid{fmt.Errorf("peers not changed: %w", err)}
		}
		return cfg.Append(nil)
	})
	if errors.Is(err, lockfile.ErrTooLarge) && !errors.Is(err, ErrInvalid) {
		return invalid{fmt.Errorf("peers not changed: %w", err)}
	}
	return err
}

// Reload reads the file into peers. If it is not valid peers stays as it was.
func Reload(path string, peers *auth.Peers) error {
	cfg, err := Load(path)
	if err != nil {
		return err
	}
	return peers.Reload(cfg)
}

// Watcher reloads peers when their file changes. It owns one goroutine.
type Watcher struct{ w *lockfile.Watcher }

// Watch reads the file into peers and does so again whenever it changes,
// until Close. An error of the first reading is returned; what became of each
// later one is passed to after, from the Watcher's goroutine: nil when peers
// has the new registry, else why the old one stays. after may be nil; it must
// not call Close.
func Watch(path string, peers *auth.Peers, after func(error)) (*Watcher, error) {
	if after == nil {
		after = func(error) {}
	}
	w, err := lockfile.Watch(path, func() error { return Reload(path, peers) }, after)
	if err != nil {
		return nil, err
	}
	return &Watcher{w}, nil
}

// Close ends the watching and returns after its goroutine has ended. It may
// be called twice.
func (w *Watcher) Close() { w.w.Close() }
