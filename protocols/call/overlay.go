package call

import (
	"errors"
	"fmt"
)

// Overlay is an immutable set of operations made ready to run: those of an
// agent session (CALL-71). A changed set is a new Overlay.
type Overlay struct{ byName map[string]*entry }

// OverlaySource gives the operations of the agent session a request belongs
// to; nil when it belongs to none. It is asked once for each request off the
// wire, by the goroutine that then runs the handler.
type OverlaySource interface {
	OverlayFor(r *Request) *Overlay
}

// NewOverlay makes ready operations of the provenance SessionMade. Their
// authority and scoped env may hold nothing that those of the creator, the
// request whose handler makes them, do not; operations may call those made
// beside them. A nil creator is assembly itself, which is not limited.
func NewOverlay(creator *Request, ops ...Operation) (*Overlay, error) {
	o, err := newOverlay(ops, func(op *Operation) error {
		if op.Provenance != SessionMade {
			return errors.New("not made for an agent session")
		}
		return nil
	})
	if err != nil || creator == nil {
		return o, err
	}
	for name, e := range o.byName {
		if !e.Authority.within(creator.Authority) || !e.ScopedEnv.within(creator.ScopedEnv, o.byName) {
			return nil, fmt.Errorf("operation %q: holds more than its creator", name)
		}
	}
	return o, nil
}

// newOverlay makes all of ops ready or none.
func newOverlay(ops []Operation, fits func(*Operation) error) (*Overlay, error) {
	o := &Overlay{byName: make(map[string]*entry, len(ops))}
	for _, op := range ops {
		err := fits(&op)
		var e *entry
		if err == nil {
			e, err = prepare(op)
		}
		if err == nil && o.byName[e.Spec.Name] != nil {
			err = errNameTaken
		}
		if err != nil {
			return nil, fmt.Errorf("operation %q: %w", op.Spec.Name, err)
		}
		o.byName[e.Spec.Name] = e
	}
	return o, nil
}

// find looks an operation up; nil overlays have none.
func (o *Overlay) find(name string) *entry {
	if o == nil {
		return nil
	}
	return o.byName[name]
}
