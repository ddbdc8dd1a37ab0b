package protocols

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	ownPrefix = "alknet/"
	maxALPN   = 255 // a TLS protocol name is no longer (RFC 7301)
)

// HandlerRegistry is the set of ALPNs a node serves. It is filled before the
// node starts and frozen by the Router's Start (NODE-3). The zero value is
// ready; all methods may be called concurrently.
type HandlerRegistry struct {
	mu       sync.RWMutex
	handlers map[string]ProtocolHandler
	frozen   bool
}

// Register adds a handler. It fails on a malformed ALPN, one that is not for
// handlers (alknet/relay, alknet/admit, alknet/addr, alknet/hand-over), one that
// is registered already, and after Freeze.
func (r *HandlerRegistry) Register(h ProtocolHandler) error {
	alpn := h.ALPN()
	if err := checkALPN(alpn); err != nil {
		return fmt.Errorf("register ALPN %q: %w", alpn, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.frozen {
		return fmt.Errorf("register ALPN %q: the node has started", alpn)
	}
	if _, dup := r.handlers[alpn]; dup {
		return fmt.Errorf("register ALPN %q: registered already", alpn)
	}
	if r.handlers == nil {
		r.handlers = make(map[string]ProtocolHandler)
	}
	r.handlers[alpn] = h
	return nil
}

// Get returns the handler of an ALPN.
func (r *HandlerRegistry) Get(alpn string) (ProtocolHandler, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h, ok := r.handlers[alpn]
	return h, ok
}

// ALPNs returns the registered ALPNs in order.
func (r *HandlerRegistry) ALPNs() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	names := make([]string, 0, len(r.handlers))
	for alpn := range r.handlers {
		names = append(names, alpn)
	}
	slices.Sort(names)
	return names
}

// Freeze ends registration; it may be called twice.
func (r *HandlerRegistry) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = true
}

// ProtocolID is the libp2p protocol of an ALPN: "/" and the ALPN, matched
// exactly (NODE-42).
func ProtocolID(alpn string) protocol.ID { return protocol.ID("/" + alpn) }

// checkALPN accepts segments of visible ASCII joined by slashes; in our own
// name space, alknet/…, of lower-case letters, digits and hyphens (NODE-1).
func checkALPN(alpn string) error {
	switch {
	case alpn == "":
		return errors.New("it is empty")
	case len(alpn) > maxALPN:
		return fmt.Errorf("it is longer than %d bytes", maxALPN)
	case slices.Contains(strings.Split(alpn, "/"), ""):
		return errors.New("it has an empty segment")
	case strings.ContainsFunc(alpn, func(c rune) bool { return c <= ' ' || c > '~' }):
		return errors.New("it holds other characters than visible ASCII")
	}
	name, own := strings.CutPrefix(alpn, ownPrefix)
	switch {
	case !own && alpn+"/" == ownPrefix:
		return errors.New("it names no service")
	case own && strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '/'
	}):
		return errors.New("names under alknet/ are of a-z, 0-9 and hyphens")
	case own && slices.Contains([]string{"relay", "admit", "addr", "hand-over"}, name):
		return errors.New("it is not for handlers")
	}
	return nil
}
