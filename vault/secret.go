package vault

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const redaction = "[REDACTED]"

var (
	errNotSerialisable = errors.New("secrets are not serialised")
	errRedacted        = errors.New("a redacted secret cannot be read back")
)

// secret keeps bytes behind function values. fmt, slog and reflecting printers
// ignore the methods of unexported fields and print what they find there; of a
// function they find only its address. Copies share the bytes. It is safe for
// concurrent use; the zero secret is a wiped one.
type secret struct {
	with  func(func([]byte)) error
	erase func()
}

// newSecret takes b over.
func newSecret(b []byte) secret {
	held := &heldBytes{b: b}
	return secret{with: held.with, erase: held.erase}
}

// newLockedSecret takes b over, and tells whether it keeps the bytes in locked
// memory: b is wiped if so.
func newLockedSecret(b []byte) (secret, bool) {
	pages, free, locked := lockedMemory(len(b))
	if pages == nil {
		return newSecret(b), false
	}
	copy(pages, b)
	wipe.Bytes(b)
	held := &heldBytes{b: pages, free: free}
	return secret{with: held.with, erase: held.erase}, locked
}

// use calls f with the bytes, which f must not keep. f must not use or wipe
// the same secret.
func (s secret) use(f func([]byte)) error {
	if s.with == nil {
		return ErrWiped
	}
	return s.with(f)
}

// wipe overwrites the bytes; it waits for running uses and may be called
// again.
func (s secret) wipe() {
	if s.erase != nil {
		s.erase()
	}
}

type heldBytes struct {
	mu   sync.RWMutex
	b    []byte // nil once wiped
	free func() // nil for the heap, which the runtime frees
}

func (h *heldBytes) with(f func([]byte)) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.b == nil {
		return ErrWiped
	}
	f(h.b)
	return nil
}

func (h *heldBytes) erase() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.b == nil {
		return
	}
	wipe.Bytes(h.b)
	h.b = nil
	if h.free != nil {
		h.free()
	}
}

// redacted is embedded by types of which nothing may show. Its methods are on
// values, so that they hold for pointers and values alike.
type redacted struct{}

// Format prints the redaction for every verb.
func (redacted) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redaction) }

// LogValue is the redaction.
func (redacted) LogValue() slog.Value { return slog.StringValue(redaction) }

// MarshalJSON returns the redaction.
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + redaction + `"`), nil }

// MarshalText returns the redaction.
func (redacted) MarshalText() ([]byte, error) { return []byte(redaction), nil }

// MarshalBinary fails.
func (redacted) MarshalBinary() ([]byte, error) { return nil, errNotSerialisable }

// GobEncode fails.
func (redacted) GobEncode() ([]byte, error) { return nil, errNotSerialisable }

// MarshalCBOR fails.
func (redacted) MarshalCBOR() ([]byte, error) { return nil, errNotSerialisable }

// UnmarshalJSON fails.
func (*redacted) UnmarshalJSON([]byte) error { return errRedacted }

// UnmarshalText fails.
func (*redacted) UnmarshalText([]byte) error { return errRedacted }

// UnmarshalBinary fails.
func (*redacted) UnmarshalBinary([]byte) error { return errNotSerialisable }

// GobDecode fails.
func (*redacted) GobDecode([]byte) error { return errNotSerialisable }

// UnmarshalCBOR fails.
func (*redacted) UnmarshalCBOR([]byte) error { return errNotSerialisable }
