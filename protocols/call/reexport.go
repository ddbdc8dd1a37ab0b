package call

import (
	"context"
	"encoding/json"
)

// ReExport returns an operation of this node that stands for a peer's: without
// one, what is imported cannot be called from the wire (CALL-32, CALL-78).
//
// spec is what callers see: its access is what they need here, and its errors
// are those of the peer's that they may learn of. operation is the name under
// which the peer's is imported, authority as whom it is called, against the
// access the peer's spec asks for; nil is as nobody. Values, completion, aborts
// and back-pressure of a subscription go through from end to end.
func ReExport(spec Spec, ref PeerRef, operation string, authority *CompositionAuthority) Operation {
	op := Operation{Spec: spec, Authority: authority, ScopedEnv: &ScopedEnv{}}
	if ref.name == "" {
		op.ScopedEnv.AllowedOps = []string{operation}
	} else {
		op.ScopedEnv.PeerPinned = []string{string(ref.name) + "/" + operation}
	}
	forward := func(ctx context.Context, r *Request, emit func(any) error) (json.RawMessage, error) {
		x := r.execution
		o := x.options(nil)
		found := x.reach(ref, operation, o.routing)
		if found == x.op { // no peer has it, and its own name is the next
			found = nil
		}
		output, err := x.compose(ctx, found, operation, r.Input, o, emit)
		if err != nil {
			return nil, err
		}
		return output, nil
	}
	if spec.Type == OpSubscription {
		op.Stream = StreamHandlerFunc(func(ctx context.Context, r *Request, emit func(any) error) error {
			_, err := forward(ctx, r, emit)
			return err
		})
		return op
	}
	op.Handler = HandlerFunc(func(ctx context.Context, r *Request) (any, error) { return forward(ctx, r, nil) })
	return op
}
