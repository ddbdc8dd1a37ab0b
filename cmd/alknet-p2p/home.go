package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/adrg/xdg"
	"github.com/gofrs/flock"
)

// home is the folder that holds everything of one node: the vault, the
// configuration, the peers, the cache and the control socket.
type home string

func (h home) config() string  { return filepath.Join(string(h), "config.toml") }
func (h home) peers() string   { return filepath.Join(string(h), "peers.json") }
func (h home) tickets() string { return filepath.Join(string(h), "tickets.json") }
func (h home) cache() string   { return filepath.Join(string(h), "cache") }

// home is the folder named by --home, or the one in the user's data folder. It
// is absolute and without symbolic links, so that every command of one home
// means the same socket.
func (a *app) home() (home, error) {
	dir := a.homeFlag
	if dir == "" {
		dir = filepath.Join(xdg.DataHome, "alknet-p2p")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return home(dir), nil
	}
	return home(resolved), err
}

// make makes the folder if it is not there, and refuses one that others can
// enter.
func (h home) make() error {
	if err := os.MkdirAll(string(h), 0o700); err != nil {
		return err
	}
	return checkPrivateDir(string(h))
}

// lock makes this process the one node of the home until unlock.
func (h home) lock() (unlock func(), err error) {
	lock := flock.New(filepath.Join(string(h), "up.lock"), flock.SetPermissions(0o600))
	switch locked, err := lock.TryLock(); {
	case err != nil:
		return nil, err
	case !locked:
		return nil, failf(exitFailed, codeRunning, "a node is running on %s already: use it, stop it, or choose another --home", h)
	}
	return func() { _ = lock.Close() }, nil
}
