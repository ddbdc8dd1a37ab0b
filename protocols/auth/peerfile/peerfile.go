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
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	// Name is the file's name in the node's home.
	Name = "peers.json"

	maxBytes  = 16 << 20
	fileMode  = 0o600
	lockRetry = 20 * time.Millisecond
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
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return new(auth.Config), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read peers: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read peers: %w", err)
	}
	if len(text) > maxBytes {
		return nil, invalid{fmt.Errorf("%s: larger than %d bytes", path, maxBytes)}
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
	// The lock is a file of its own: the other is replaced by each write.
	lock := flock.New(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock"), flock.SetPermissions(fileMode))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return fmt.Errorf("lock peers: %w", err)
	}
	defer func() { _ = lock.Close() }()

	cfg, err := Load(path)
	if err != nil {
		return err
	}
	if err := edit(cfg); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return invalid{fmt.Errorf("peers not changed: %w", err)}
	}
	text, err := cfg.Append(nil)
	if err != nil {
		return err
	}
	if len(text) > maxBytes {
		return invalid{fmt.Errorf("peers not changed: larger than %d bytes", maxBytes)}
	}
	if err := replace(path, text); err != nil {
		return fmt.Errorf("write peers: %w", err)
	}
	return nil
}

// Reload reads the file into peers. If it is not valid peers stays as it was.
func Reload(path string, peers *auth.Peers) error {
	cfg, err := Load(path)
	if err != nil {
		return err
	}
	return peers.Reload(cfg)
}
