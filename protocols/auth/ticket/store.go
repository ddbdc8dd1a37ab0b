package ticket

import (
	"context"
	"sync"
	"sync/atomic"
)

// Store keeps the ledger. It is safe for concurrent use.
type Store interface {
	// Snapshot is the ledger as it stands; it does no I/O and does not block.
	Snapshot() *Snapshot
	// Update lets edit change a copy of the newest ledger and keeps the result,
	// durably, before it returns; other changes wait meanwhile. When edit fails
	// nothing is changed.
	Update(ctx context.Context, edit func(*Ledger) error) error
}

// Memory is a Store that ends with the process, and all tickets with it. The
// zero value is empty and ready.
type Memory struct {
	mu  sync.Mutex
	now atomic.Pointer[Snapshot]
}

var _ Store = (*Memory)(nil)

// Snapshot implements Store.
func (m *Memory) Snapshot() *Snapshot {
	if s := m.now.Load(); s != nil {
		return s
	}
	return NewSnapshot(new(Ledger))
}

// Update implements Store.
func (m *Memory) Update(ctx context.Context, edit func(*Ledger) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	l := m.Snapshot().Ledger()
	if err := edit(l); err != nil {
		return err
	}
	if err := l.validate(); err != nil {
		return err
	}
	m.now.Store(NewSnapshot(l))
	return nil
}
