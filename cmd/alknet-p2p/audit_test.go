package main

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Lines of several writers at once stay whole, and none is lost.
func TestAuditLogIsAppended(t *testing.T) {
	h := home(t.TempDir())
	var writers sync.WaitGroup
	for range 8 {
		l := newAuditLog(h) // as another process has
		writers.Go(func() {
			for range 25 {
				if err := l.add(auditEntry{Action: "test", Subject: strings.Repeat("x", 200), OK: true}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	a := &app{err: new(strings.Builder)}
	a.audit(h, "vault.open", "github", errors.New("denied"))
	require.Empty(t, a.err.(*strings.Builder).String())

	text, err := os.ReadFile(h.audit())
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	require.Len(t, lines, 201)
	var last auditEntry
	for _, line := range lines {
		last = auditEntry{}
		require.NoError(t, json.Unmarshal([]byte(line), &last), line)
		require.WithinDuration(t, time.Now(), last.Time, time.Minute)
		require.Contains(t, last.By, "pid ")
	}
	require.Equal(t, "vault.open", last.Action)
	require.Equal(t, "github", last.Subject)
	require.False(t, last.OK)
}
