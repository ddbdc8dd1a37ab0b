package natlab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// An end that waits for an event to finish, which replaces it, does not run.
func TestReplacedTimerDoesNotRun(t *testing.T) {
	l := &Lab{undo: make(map[string]*timer)}
	first, second := false, false
	l.mu.Lock()
	l.arm("dark", 1, func() error { first = true; return nil })
	time.Sleep(20 * time.Millisecond) // the first one is due and waits for l.mu
	l.arm("dark", time.Hour, func() error { second = true; return nil })
	l.mu.Unlock()
	l.mu.Lock()
	l.disarm("dark")
	l.mu.Unlock()
	l.timers.Wait()
	assert.False(t, first)
	assert.False(t, second)
}
