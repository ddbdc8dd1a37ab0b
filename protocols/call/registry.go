package call

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// ErrFrozen: an operation was registered after Freeze.
var ErrFrozen = errors.New("call: the registry is frozen")

var errNameTaken = errors.New("the name is taken")

// Registry is the set of a node's own operations. It is safe for concurrent
// use; looking up takes no lock.
type Registry struct {
	mu     sync.Mutex // held by writers
	frozen bool
	byName atomic.Pointer[map[string]*entry] // replaced, never changed
}

// entry is an operation made ready to run.
type entry struct {
	Operation
	input  *schema
	errors map[Code]*schema // of the declared codes
	// identity is the Authority as those it calls see it.
	identity *auth.Identity
}

// runs reports whether there is an operation, and one with a handler.
func (e *entry) runs() bool { return e != nil && (e.Handler != nil || e.Stream != nil) }

// info is the operation's row in lists.
func (e *entry) info() OperationInfo {
	return OperationInfo{Name: e.Spec.Name, Namespace: e.Spec.Namespace(), Type: e.Spec.Type}
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	r := &Registry{}
	r.byName.Store(&map[string]*entry{})
	return r
}

// Register adds all of ops or none (CALL-64). It compiles their schemas; the
// error names the operation and the rule it breaks.
func (r *Registry) Register(ops ...Operation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.frozen {
		return ErrFrozen
	}
	old := *r.byName.Load()
	merged := make(map[string]*entry, len(old)+len(ops))
	maps.Copy(merged, old)
	for _, op := range ops {
		e, err := prepare(op)
		if err != nil {
			return fmt.Errorf("register operation %q: %w", op.Spec.Name, err)
		}
		if merged[e.Spec.Name] != nil {
			return fmt.Errorf("register operation %q: %w", op.Spec.Name, errNameTaken)
		}
		merged[e.Spec.Name] = e
	}
	r.byName.Store(&merged)
	return nil
}

// Freeze makes every later Register fail with ErrFrozen.
func (r *Registry) Freeze() {
	r.mu.Lock()
	r.frozen = true
	r.mu.Unlock()
}

// Specs lists all operations, internal ones too, sorted by name. The slices in
// a Spec are shared and must not be changed.
func (r *Registry) Specs() []Spec {
	all := *r.byName.Load()
	specs := make([]Spec, 0, len(all))
	for _, e := range all {
		specs = append(specs, e.Spec)
	}
	slices.SortFunc(specs, func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs
}

// lookup finds an operation by its name without leading slash.
func (r *Registry) lookup(name string) *entry { return (*r.byName.Load())[name] }

// prepare checks an operation and compiles its schemas.
func prepare(op Operation) (*entry, error) {
	op.Spec.Errors = slices.Clone(op.Spec.Errors)
	if op.Spec.Visibility == "" && op.Provenance != Local {
		op.Spec.Visibility = Internal
	}
	op.Spec.defaults()
	s := &op.Spec
	if err := s.check(); err != nil {
		return nil, err
	}
	switch stream := s.Type == OpSubscription; {
	case op.Handler != nil && op.Stream != nil:
		return nil, errors.New("has both Handler and Stream")
	case op.Handler == nil && op.Stream == nil && op.Provenance == FromJSONSchema && s.Visibility == Internal:
	case stream && op.Stream == nil:
		return nil, errors.New("a subscription needs a Stream")
	case !stream && op.Handler == nil:
		return nil, fmt.Errorf("a %s needs a Handler", s.Type)
	case op.Timeout < 0:
		return nil, errors.New("negative timeout")
	}
	if err := op.checkPrivileges(); err != nil {
		return nil, err
	}
	e := &entry{Operation: op, errors: make(map[Code]*schema, len(s.Errors)), identity: op.Authority.identity()}
	var err error
	if e.input, err = compileSchema(s.InputSchema); err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	if _, err = compileSchema(s.OutputSchema); err != nil {
		return nil, fmt.Errorf("output schema: %w", err)
	}
	for _, d := range s.Errors {
		switch _, dup := e.errors[d.Code]; {
		case !d.Code.wellFormed():
			return nil, fmt.Errorf("error code %q is not upper snake case", d.Code)
		case d.Code.protocol():
			return nil, fmt.Errorf("error code %s belongs to the protocol", d.Code)
		case dup:
			return nil, fmt.Errorf("error code %s is declared twice", d.Code)
		}
		if e.errors[d.Code], err = compileSchema(d.Schema); err != nil {
			return nil, fmt.Errorf("schema of error %s: %w", d.Code, err)
		}
	}
	return e, nil
}
