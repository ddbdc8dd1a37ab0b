package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofrs/flock"
)

// state is what a node remembers that is neither secret nor configured, in
// state.json in the home.
type state struct {
	// HandOvers are the sealed hand-overs by which this node's key followed its
	// earlier ones, by rising generation.
	HandOvers [][]byte `json:"hand_overs,omitempty"`
	// Offered are the sealed hand-overs of peers that wait for a person to take
	// them up, by the peer's name.
	Offered map[string][]byte `json:"offered,omitempty"`
}

const maxState = 1 << 20

func (h home) state() string { return filepath.Join(string(h), "state.json") }

// readState reads the state; a home without any has an empty one.
func (h home) readState() (*state, error) {
	info, err := os.Stat(h.state())
	if errors.Is(err, fs.ErrNotExist) {
		return new(state), nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState {
		return nil, failf(exitFailed, codeFailed, "%s is larger than %d bytes", h.state(), maxState)
	}
	text, err := os.ReadFile(h.state())
	if err != nil {
		return nil, err
	}
	s := new(state)
	if err := json.Unmarshal(text, s, json.RejectUnknownMembers(true)); err != nil {
		return nil, failf(exitFailed, codeFailed, "%s is not valid: %s", h.state(), oneLine(err.Error()))
	}
	return s, nil
}

// editState changes the state whole, under a lock shared by all processes.
func (h home) editState(ctx context.Context, edit func(*state)) error {
	lock := flock.New(filepath.Join(string(h), ".state.json.lock"), flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("lock %s: %w", h.state(), err)
	}
	defer func() { _ = lock.Close() }()
	s, err := h.readState()
	if err != nil {
		return err
	}
	edit(s)
	text, err := json.Marshal(s, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	return replaceFile(h.state(), append(text, '\n'))
}
