package vault

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	freeAttempts    = 3
	maxAttemptDelay = time.Minute
)

// Attempts opens vaults for somebody who types the passphrase: after three
// wrong ones in a row each further try waits, one second at first, then twice as
// long each time, at most a minute. It counts for the process that owns it.
// Nothing is kept on disk: who may start another process as this user may copy
// the file, too, and is slowed down by the file's work factor alone. The zero
// value is ready; it is safe for concurrent use, one try at a time.
type Attempts struct {
	mu     sync.Mutex
	failed int
	last   time.Time
}

// Open is the package's Open, after the delay that earlier failures have earned.
// When ctx ends in the meantime its error is returned, and no try counted.
func (a *Attempts) Open(ctx context.Context, home string, passphrase, bip39Passphrase []byte) (*Vault, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if left := time.Until(a.last.Add(a.delay())); left > 0 {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	v, err := Open(home, passphrase, bip39Passphrase)
	switch {
	case err == nil:
		a.failed = 0
	case errors.Is(err, ErrWrongPassphrase), errors.Is(err, ErrWrongIdentity):
		a.failed, a.last = a.failed+1, time.Now()
	}
	return v, err
}

// Delay is how long the next try will wait, zero for none.
func (a *Attempts) Delay() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(0, time.Until(a.last.Add(a.delay())))
}

func (a *Attempts) delay() time.Duration {
	if a.failed < freeAttempts {
		return 0
	}
	doublings := min(a.failed-freeAttempts, 10)
	return min(time.Second<<doublings, maxAttemptDelay)
}
