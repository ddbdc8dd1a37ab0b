package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

// The audit log, audit.log in the home: one JSON object a line for each use of
// the vault and each change of what somebody may do. Lines are appended only,
// and hold no secret. It is the owner's record of what happened, not a control:
// whoever owns the home can change it.

// auditEntry is one line.
type auditEntry struct {
	Time    time.Time `json:"time"`
	Action  string    `json:"action"`            // such as "vault.open" or "peer.allow"
	Subject string    `json:"subject,omitempty"` // what it was done to
	By      string    `json:"by"`                // who: a process, or a changed file
	OK      bool      `json:"ok"`
	Detail  string    `json:"detail,omitempty"`
}

// auditLog appends to one home's log. It is safe for concurrent use, and
// lines of several processes do not mix.
type auditLog struct {
	path string
	mu   sync.Mutex
}

func newAuditLog(h home) *auditLog { return &auditLog{path: h.audit()} }

func (h home) audit() string { return filepath.Join(string(h), "audit.log") }

// add appends an entry and returns once it is on the disk. Time and By are set
// when they are not.
func (l *auditLog) add(e auditEntry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	if e.By == "" {
		e.By = fmt.Sprintf("uid %d pid %d", os.Geteuid(), os.Getpid())
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := openAppend(l.path)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

// audit records what a command did. When that fails the person is told and the
// command goes on: what it did has happened.
func (a *app) audit(h home, action, subject string, outcome error) {
	if _, err := os.Stat(string(h)); err != nil {
		return // nothing was done to a home that is not there
	}
	if err := newAuditLog(h).add(auditEntry{Action: action, Subject: subject, OK: outcome == nil}); err != nil {
		a.tellf("Warning: %s", oneLine(err.Error()))
	}
}
