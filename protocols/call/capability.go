package call

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
)

const (
	apiKeyMark    = "api_key:"
	httpTokenMark = "http_token:"
)

var errRedacted = errors.New("capabilities are not serialised")

// Capabilities are the outbound secrets lent to a handler, by the service they
// are for (CALL-67). Assembly fills them, from nothing a peer sent. A value
// never changes and redacts itself wherever it is printed; the zero value holds
// nothing. All methods may be called concurrently.
type Capabilities struct {
	// Behind a func, so that printers that walk values by reflection do not find
	// the secrets.
	held func() map[string]*secret
}

// secret is one secret, shared by all values that hold it.
type secret struct {
	mu   sync.Mutex
	text []byte // nil once wiped
}

// WithAPIKey returns c with an API key for a service besides. The key is
// copied.
func (c Capabilities) WithAPIKey(service string, key []byte) Capabilities {
	return c.with(apiKeyMark+service, key)
}

// WithHTTPToken returns c with a bearer token for a service besides. The token
// is copied.
func (c Capabilities) WithHTTPToken(service string, token []byte) Capabilities {
	return c.with(httpTokenMark+service, token)
}

// Get returns a copy of the secret for a service, its API key before its token;
// the caller clears it after use. It is false for a service c has nothing for,
// and after Close.
func (c Capabilities) Get(service string) ([]byte, bool) {
	held := c.secrets()
	for _, mark := range []string{apiKeyMark, httpTokenMark} {
		if s := held[mark+service]; s != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			return bytes.Clone(s.text), s.text != nil
		}
	}
	return nil, false
}

// Close wipes the secrets of c, also for the values that were made of it. It
// may be called again, and its result is always nil.
func (c Capabilities) Close() error {
	for _, s := range c.secrets() {
		s.mu.Lock()
		clear(s.text)
		s.text = nil
		s.mu.Unlock()
	}
	return nil
}

// String tells how many secrets there are and nothing else.
func (c Capabilities) String() string { return fmt.Sprintf("[%d redacted]", len(c.secrets())) }

// Format implements fmt.Formatter: every verb prints what String does.
func (c Capabilities) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue implements slog.LogValuer.
func (c Capabilities) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON refuses.
func (c Capabilities) MarshalJSON() ([]byte, error) { return nil, errRedacted }

// MarshalText refuses.
func (c Capabilities) MarshalText() ([]byte, error) { return nil, errRedacted }

// MarshalBinary refuses.
func (c Capabilities) MarshalBinary() ([]byte, error) { return nil, errRedacted }

func (c Capabilities) secrets() map[string]*secret {
	if c.held == nil {
		return nil
	}
	return c.held()
}

func (c Capabilities) with(name string, text []byte) Capabilities {
	held := maps.Clone(c.secrets())
	if held == nil {
		held = map[string]*secret{}
	}
	held[name] = &secret{text: append([]byte{}, text...)}
	return Capabilities{func() map[string]*secret { return held }}
}

// filledBy is c with what it lacks taken from parent (CALL-68): a service that
// c has a secret for keeps it, of whichever kind.
func (c Capabilities) filledBy(parent Capabilities) Capabilities {
	theirs := parent.secrets()
	if len(theirs) == 0 {
		return c
	}
	own := c.secrets()
	if len(own) == 0 {
		return parent
	}
	held := maps.Clone(own)
	for name, s := range theirs {
		_, service, _ := strings.Cut(name, ":")
		if own[apiKeyMark+service] == nil && own[httpTokenMark+service] == nil {
			held[name] = s
		}
	}
	return Capabilities{func() map[string]*secret { return held }}
}
