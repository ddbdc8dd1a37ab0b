package ticket

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	maxLedgerBytes = 16 << 20
	maxEntries     = 10_000
	maxNote        = 256
	// keepFor is how long an entry stays after its ticket has expired, for those
	// who look back.
	keepFor = 30 * 24 * time.Hour
)

// Ledger is the tickets a node has issued and what became of them. Its JSON
// form is the file tickets.json. It holds no ticket, only their ids: nobody
// who reads it can use one. The zero value is empty.
type Ledger struct {
	Tickets []Entry `json:"tickets"`
}

// Entry is one ticket on record. The terms are for those who read the ledger:
// what a ticket grants is what its signature covers.
type Entry struct {
	// ID is 32 hex digits.
	ID string `json:"id"`
	// Scopes, Only, Once and Bearer are the ticket's terms.
	Scopes []string `json:"scopes"`
	Only   []string `json:"only"`
	Once   bool     `json:"once,omitzero"`
	Bearer bool     `json:"bearer,omitzero"`
	// CreatedAt and ExpiresAt are in Unix seconds.
	CreatedAt int64 `json:"created_at"`
	ExpiresAt int64 `json:"expires_at"`
	// Note is for people.
	Note string `json:"note,omitempty"`
	// BoundTo is the key that brought it first, "ed25519:<64 hex>"; "" while
	// there is none, and for a bearer ticket.
	BoundTo string `json:"bound_to,omitempty"`
	// UsedAt is when one that is good for one use was used, in Unix seconds; 0
	// = not yet.
	UsedAt int64 `json:"used_at,omitzero"`
	// Revoked: it was taken back.
	Revoked bool `json:"revoked,omitzero"`
}

// ParseLedger reads the JSON form, strictly.
func ParseLedger(text []byte) (*Ledger, error) {
	if len(text) > maxLedgerBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxLedgerBytes)
	}
	var l Ledger
	if err := json.Unmarshal(text, &l, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	if err := l.validate(); err != nil {
		return nil, err
	}
	return &l, nil
}

// Append writes the JSON form, indented and ending in a newline.
func (l *Ledger) Append(b []byte) ([]byte, error) {
	if err := l.validate(); err != nil {
		return b, err
	}
	out, err := json.Marshal(l, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return b, fmt.Errorf("encode tickets: %w", err)
	}
	return append(append(b, out...), '\n'), nil
}

// Clone returns a deep copy.
func (l *Ledger) Clone() *Ledger {
	out := &Ledger{Tickets: slices.Clone(l.Tickets)}
	for i := range out.Tickets {
		e := &out.Tickets[i]
		e.Scopes, e.Only = slices.Clone(e.Scopes), slices.Clone(e.Only)
	}
	return out
}

// Record puts a ticket on record, which makes it good. Entries of tickets that
// have expired a month ago are dropped.
func (l *Ledger) Record(t *Ticket, note string) error {
	now := time.Now()
	l.Tickets = slices.DeleteFunc(l.Tickets, func(e Entry) bool {
		return time.Unix(e.ExpiresAt, 0).Add(keepFor).Before(now)
	})
	l.Tickets = append(l.Tickets, Entry{
		ID: t.ID.String(), Scopes: slices.Clone(t.Scopes), Only: slices.Clone(t.Only), Once: t.Once, Bearer: t.Bearer,
		CreatedAt: now.Unix(), ExpiresAt: t.Expires.Unix(), Note: note,
	})
	return l.validate()
}

// Revoke takes the ticket of that id back; one that is not on record is
// ErrUnknown.
func (l *Ledger) Revoke(id string) error {
	e := l.find(id)
	if e == nil {
		return ErrUnknown
	}
	e.Revoked = true
	return nil
}

func (l *Ledger) find(id string) *Entry {
	for i := range l.Tickets {
		if l.Tickets[i].ID == id {
			return &l.Tickets[i]
		}
	}
	return nil
}

// Void says why the ticket of this entry is good for nobody any more at that
// time: ErrRevoked, ErrExpired or ErrUsed; nil while it is good for somebody.
func (e *Entry) Void(now time.Time) error {
	switch {
	case e.Revoked:
		return ErrRevoked
	case now.Unix() >= e.ExpiresAt:
		return ErrExpired
	case e.Once && e.UsedAt != 0:
		return ErrUsed
	}
	return nil
}

func (l *Ledger) validate() error {
	if len(l.Tickets) > maxEntries {
		return fmt.Errorf("more than %d tickets", maxEntries)
	}
	seen := make(map[string]bool, len(l.Tickets))
	for i := range l.Tickets {
		e := &l.Tickets[i]
		if err := e.validate(); err != nil {
			return fmt.Errorf("tickets[%d]: %w", i, err)
		}
		if seen[e.ID] {
			return fmt.Errorf("tickets[%d].id: the ticket stands twice", i)
		}
		seen[e.ID] = true
	}
	return nil
}

func (e *Entry) validate() error {
	if _, err := ParseID(e.ID); err != nil {
		return fmt.Errorf("id: %w", err)
	}
	if e.BoundTo != "" {
		if _, err := auth.PeerFromFingerprint(e.BoundTo); err != nil {
			return fmt.Errorf("bound_to: %w", err)
		}
	}
	if len(e.Note) > maxNote || strings.ContainsFunc(e.Note, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("note: longer than %d bytes, or with characters that do not print", maxNote)
	}
	if e.ExpiresAt <= 0 || e.CreatedAt < 0 || e.UsedAt < 0 {
		return errors.New("a time is missing or negative")
	}
	return nil
}

// Snapshot is a ledger at one moment, made to look things up in; it never
// changes.
type Snapshot struct {
	byID    map[string]*Entry
	byKey   map[string][]*Entry // by the key they are bound to
	tickets []Entry
}

// NewSnapshot copies the ledger.
func NewSnapshot(l *Ledger) *Snapshot {
	s := &Snapshot{tickets: l.Clone().Tickets, byID: make(map[string]*Entry, len(l.Tickets)), byKey: map[string][]*Entry{}}
	for i := range s.tickets {
		e := &s.tickets[i]
		s.byID[e.ID] = e
		if e.BoundTo != "" {
			s.byKey[e.BoundTo] = append(s.byKey[e.BoundTo], e)
		}
	}
	return s
}

// Ledger returns a copy of the whole.
func (s *Snapshot) Ledger() *Ledger { return (&Ledger{Tickets: s.tickets}).Clone() }
