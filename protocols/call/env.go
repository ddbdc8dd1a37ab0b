package call

import (
	"context"
	"encoding/json"
	"iter"
	"slices"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// Env is what a handler composes other operations with (CALL-72): it finds them
// in the session's overlay, among the node's own and at peers, and runs them
// under the handler's authority, within its scoped env.
//
// Every failure is an *Error; NOT_FOUND is also what lies outside the scoped
// env. All methods may be called concurrently, until the handler returns.
type Env interface {
	// Invoke calls the operation that name finds first: in the session's
	// overlay, among the node's own, at the peers in the order in which they
	// attached (CALL-73). input is encoded as JSON, as for Session.Call.
	//
	// It returns when the answer is there, the request's deadline has passed,
	// or the request or ctx ends; the operation is then aborted, as
	// WithAbortPolicy says.
	Invoke(ctx context.Context, name string, input any, opts ...InvokeOption) (json.RawMessage, error)
	// InvokePeer is Invoke at the peers that ref means (CALL-74).
	InvokePeer(ctx context.Context, ref PeerRef, name string, input any, opts ...InvokeOption) (json.RawMessage, error)
	// Contains reports whether Invoke would find name.
	Contains(name string) bool
	// PeerContains reports whether InvokePeer would find name.
	PeerContains(ref PeerRef, name string) bool
	// PeerNames lists the attached peers, in the order in which they first
	// attached; strangers are left out.
	PeerNames() []auth.PeerName
	// Operations lists what Invoke may be used for, subscriptions too, sorted by
	// name.
	Operations() []OperationInfo
}

// PeerRef says at which peer an operation is to be found.
type PeerRef struct{ name auth.PeerName }

// PeerSpecific means that peer only: a name of the registry, or the UUID of a
// stranger's session, for as long as that lasts (CALL-75).
func PeerSpecific(name auth.PeerName) PeerRef { return PeerRef{name} }

// PeerAny means the session's overlay, then the peers that have the operation,
// one of which Config.Routing or WithRouting chooses, then the node's own
// operations.
func PeerAny() PeerRef { return PeerRef{} }

// AbortPolicy is what becomes of an invoked operation when the request that
// invoked it is aborted. The handler that invokes decides (CALL-83).
type AbortPolicy uint8

// The policies.
const (
	// AbortDependents aborts it, whether it has started or not (CALL-81).
	AbortDependents AbortPolicy = iota
	// ContinueRunning lets it run to its end once it has started, its result
	// discarded; nothing new starts below the aborted request (CALL-82).
	ContinueRunning
)

// InvokeOption changes one Invoke.
type InvokeOption func(*invokeOptions)

type invokeOptions struct {
	policy  AbortPolicy
	routing Routing
}

// WithAbortPolicy sets the policy of this operation and, unless they set
// another, of all it invokes; the default is the policy of the request itself.
func WithAbortPolicy(p AbortPolicy) InvokeOption { return func(o *invokeOptions) { o.policy = p } }

// WithRouting chooses how PeerAny routes, in place of Config.Routing.
func WithRouting(r Routing) InvokeOption { return func(o *invokeOptions) { o.routing = r } }

// layers are the operations that a request and all it invokes can reach: a
// snapshot, taken when the request comes in (CALL-71, CALL-77).
type layers struct {
	session *Overlay
	own     *imported // by the requesting session: counts for its peer
	peers   *peerTable
}

// byName finds what a name alone means. A peer's operation never stands in for
// one of ours (CALL-73).
func (l *layers) byName(own *Registry, name string) *entry {
	if op := l.session.find(name); op != nil {
		return op
	}
	if op := own.lookup(name); op != nil {
		return op
	}
	for im := range l.attached() {
		if op := im.ops.find(name); op != nil {
			return op
		}
	}
	return nil
}

// atPeer finds a name at the peers that ref means (CALL-74).
func (l *layers) atPeer(p *Protocol, ref PeerRef, name string, by Routing) *entry {
	if ref.name != "" {
		if im := l.peer(ref.name); im != nil {
			return im.ops.find(name)
		}
		return nil
	}
	if op := l.session.find(name); op != nil {
		return op
	}
	var candidates []*imported
	for im := range l.attached() {
		if im.ops.find(name) != nil {
			candidates = append(candidates, im)
		}
	}
	if len(candidates) > 0 {
		return p.choose(by, name, candidates).ops.find(name)
	}
	return p.registry.lookup(name)
}

// peer is what is imported from one peer; nil when nothing is.
func (l *layers) peer(name auth.PeerName) *imported {
	if l.own != nil && l.own.session.peer.PeerName == name {
		return l.own
	}
	if layer := l.peers.byName[name]; layer != nil {
		return layer.current()
	}
	return l.peers.strangers[name]
}

// attached yields what is imported from the peers with a name, in their order.
func (l *layers) attached() iter.Seq[*imported] {
	return func(yield func(*imported) bool) {
		for _, layer := range l.peers.order {
			if !yield(l.peer(layer.name)) {
				return
			}
		}
	}
}

// Invoke implements Env.
func (x *execution) Invoke(ctx context.Context, name string, input any, opts ...InvokeOption) (json.RawMessage, error) {
	o := x.options(opts)
	var op *entry
	if x.req.ScopedEnv.allows(PeerRef{}, name) {
		op = x.layers.byName(x.p.registry, name)
	}
	return x.answer(ctx, op, name, input, o)
}

// InvokePeer implements Env.
func (x *execution) InvokePeer(ctx context.Context, ref PeerRef, name string, input any, opts ...InvokeOption) (json.RawMessage, error) {
	o := x.options(opts)
	return x.answer(ctx, x.reach(ref, name, o.routing), name, input, o)
}

// reach finds a name at the peers that ref means, within the scoped env.
func (x *execution) reach(ref PeerRef, name string, by Routing) *entry {
	if !x.req.ScopedEnv.allows(ref, name) {
		return nil
	}
	return x.layers.atPeer(x.p, ref, name, by)
}

// answer composes a query or mutation.
func (x *execution) answer(ctx context.Context, op *entry, name string, input any, o invokeOptions) (json.RawMessage, error) {
	output, err := x.compose(ctx, op, name, input, o, nil)
	if err != nil {
		return nil, err
	}
	return output, nil
}

func (x *execution) options(opts []InvokeOption) invokeOptions {
	o := invokeOptions{policy: x.req.AbortPolicy, routing: x.p.cfg.Routing}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// Contains implements Env.
func (x *execution) Contains(name string) bool {
	return x.req.ScopedEnv.allows(PeerRef{}, name) && x.layers.byName(x.p.registry, name).runs()
}

// PeerContains implements Env.
func (x *execution) PeerContains(ref PeerRef, name string) bool {
	return x.req.ScopedEnv.allows(ref, name) && x.layers.atPeer(x.p, ref, name, RouteFirst).runs()
}

// PeerNames implements Env.
func (x *execution) PeerNames() []auth.PeerName {
	names := make([]auth.PeerName, 0, len(x.layers.peers.order))
	for _, layer := range x.layers.peers.order {
		names = append(names, layer.name)
	}
	return names
}

// Operations implements Env.
func (x *execution) Operations() []OperationInfo {
	list := []OperationInfo{}
	if x.req.ScopedEnv == nil {
		return list
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(x.req.ScopedEnv.AllowedOps))) {
		if op := x.layers.byName(x.p.registry, name); op.runs() {
			list = append(list, op.info())
		}
	}
	return list
}
