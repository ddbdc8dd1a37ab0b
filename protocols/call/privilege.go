package call

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// Provenance is where an operation comes from, which decides whether it may
// compose others. The zero value of an Operation's Provenance is Local.
type Provenance uint8

// The provenances. All but the first two are leaves: what they do happens
// elsewhere, and they compose nothing.
const (
	// Local operations are code of this program.
	Local Provenance = iota
	// SessionMade ones were made while the node ran, for one agent session, and
	// are always internal.
	SessionMade
	// FromCall ones are a peer's.
	FromCall
	// FromOpenAPI ones stand for an HTTP service with an OpenAPI description.
	FromOpenAPI
	// FromMCP ones stand for a tool of an MCP server.
	FromMCP
	// FromJSONSchema ones stand for one HTTP request, or for nothing but their
	// schema.
	FromJSONSchema
)

// leaf reports whether operations of this provenance compose nothing.
func (p Provenance) leaf() bool { return p > SessionMade }

// CompositionAuthority is as whom an operation calls others (CALL-65). Assembly
// declares it; it is no peer and no provider resolves it.
type CompositionAuthority struct {
	// Label is the ID of the identity that the operations it calls see.
	Label string
	// Scopes and Resources are what it holds.
	Scopes    []string
	Resources map[string][]string
}

// identity is the authority as Access sees it; nil for none.
func (a *CompositionAuthority) identity() *auth.Identity {
	if a == nil {
		return nil
	}
	id := auth.Identity{ID: a.Label, Scopes: a.Scopes, Resources: a.Resources}.Clone()
	return &id
}

// within reports whether a grants nothing that outer does not.
func (a *CompositionAuthority) within(outer *CompositionAuthority) bool {
	if a == nil {
		return true
	}
	if outer == nil {
		outer = &CompositionAuthority{}
	}
	for typ, actions := range a.Resources {
		if !subset(actions, outer.Resources[typ]) {
			return false
		}
	}
	return subset(a.Scopes, outer.Scopes)
}

// ScopedEnv says which operations a handler may invoke (CALL-66); nil, like the
// zero value, allows none. Nothing else is looked at before it.
type ScopedEnv struct {
	// AllowedOps are names of operations that may be reached by any route.
	AllowedOps []string
	// PeerPinned are "<peer name>/<operation name>": operations that may be
	// reached at that peer only, by PeerSpecific.
	PeerPinned []string
}

// allows reports whether name may be invoked by the route.
func (e *ScopedEnv) allows(ref PeerRef, name string) bool {
	if e == nil {
		return false
	}
	if slices.Contains(e.AllowedOps, name) {
		return true
	}
	return ref.name != "" && slices.Contains(e.PeerPinned, string(ref.name)+"/"+name)
}

// within reports whether e reaches nothing that outer does not, apart from the
// operations in made.
func (e *ScopedEnv) within(outer *ScopedEnv, made map[string]*entry) bool {
	if e == nil {
		return true
	}
	for _, name := range e.AllowedOps {
		if made[name] == nil && !outer.allows(PeerRef{}, name) {
			return false
		}
	}
	for _, pinned := range e.PeerPinned {
		peer, name, _ := strings.Cut(pinned, "/")
		if !outer.allows(PeerSpecific(auth.PeerName(peer)), name) {
			return false
		}
	}
	return true
}

func (e *ScopedEnv) check() error {
	if e == nil {
		return nil
	}
	for _, name := range e.AllowedOps {
		if err := checkName(name); err != nil {
			return fmt.Errorf("scoped env: %w", err)
		}
	}
	for _, pinned := range e.PeerPinned {
		peer, name, found := strings.Cut(pinned, "/")
		if !found || peer == "" {
			return fmt.Errorf("scoped env: %q is not <peer name>/<operation name>", pinned)
		}
		if err := checkName(name); err != nil {
			return fmt.Errorf("scoped env: %w", err)
		}
	}
	return nil
}

// checkPrivileges reports what of an operation's provenance and privileges
// breaks a rule (CALL-64).
func (op *Operation) checkPrivileges() error {
	switch {
	case op.Provenance > FromJSONSchema:
		return errors.New("unknown provenance")
	case op.Provenance.leaf() && (op.Authority != nil || op.ScopedEnv != nil):
		return errors.New("a leaf has neither authority nor scoped env")
	case op.Provenance == FromCall && len(op.Capabilities.secrets()) > 0:
		return errors.New("a peer's operation gets no capabilities")
	case op.Provenance == SessionMade && op.Spec.Visibility != Internal:
		return errors.New("an operation of an agent session is internal")
	case op.Authority != nil && op.Authority.Label == "":
		return errors.New("an authority needs a label")
	}
	return op.ScopedEnv.check()
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}
