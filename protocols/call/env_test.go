package call_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// named is a peer of the registry.
func named(name string, scopes ...string) auth.Context {
	return auth.Context{
		Identity: &auth.Identity{ID: name, Scopes: scopes, Resources: map[string][]string{}},
		PeerName: auth.PeerName(name), ALPN: call.ALPN,
	}
}

// hub is a node that composes, and its ends of sessions with others.
type hub struct {
	t *testing.T
	*call.Protocol
}

func newHub(t *testing.T, cfg call.Config, ops ...call.Operation) *hub {
	h := &hub{t, call.New(cfg)}
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	require.NoError(t, h.Register(ops...))
	h.Freeze()
	return h
}

// link is a session between a hub and somebody else: both ends.
type link struct {
	hub, peer *side
	imports   *call.Session // the hub's session
	calls     *call.Session // the other's
}

// join connects somebody who serves ops, and whom the hub knows as peer.
func (h *hub) join(peer auth.Context, ops ...call.Operation) *link {
	h.t.Helper()
	other := call.New(call.Config{})
	require.NoError(h.t, other.Register(ops...))
	return h.connect(peer, other)
}

func (h *hub) connect(peer auth.Context, other *call.Protocol) *link {
	h.t.Helper()
	a, b := protocols.Pipe(call.ALPN)
	l := &link{hub: serve(h.t, a, h.Protocol, peer), peer: serve(h.t, b, other, named("hub", "hub"))}
	l.imports, l.calls = l.hub.session(h.t), l.peer.session(h.t)
	return l
}

// runner is join with the names imported: queries, or subscriptions where they
// end in "stream".
func (h *hub) runner(peer auth.Context, ops ...call.Operation) *link {
	h.t.Helper()
	l := h.join(peer, ops...)
	l.imported(h.t, ops...)
	return l
}

func (l *link) imported(t *testing.T, ops ...call.Operation) {
	t.Helper()
	var leaves []call.Operation
	for _, op := range ops {
		leaves = append(leaves, leaf(l.imports, op.Spec))
	}
	require.NoError(t, l.imports.RegisterImported(leaves...))
}

// leaf forwards to the peer of s.
func leaf(s *call.Session, spec call.Spec) call.Operation {
	op := call.Operation{Spec: spec, Provenance: call.FromCall}
	if spec.Type == call.OpSubscription {
		op.Stream = call.StreamHandlerFunc(func(ctx context.Context, r *call.Request, emit func(any) error) error {
			sub, err := s.Subscribe(ctx, spec.Name, r.Input, call.Forward(r))
			if err != nil {
				return err
			}
			for v, err := range sub.All(ctx) {
				if err == nil {
					err = emit(v)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		return op
	}
	op.Handler = call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
		return s.Call(ctx, spec.Name, r.Input, call.Forward(r))
	})
	return op
}

// says is a query that answers with a text.
func says(name, text string) call.Operation {
	return query(name, func(context.Context, *call.Request) (any, error) { return text, nil })
}

// composing is an operation that may reach those of env, as somebody with
// scopes.
func composing(name string, env *call.ScopedEnv, f call.HandlerFunc, scopes ...string) call.Operation {
	op := query(name, f)
	op.Authority = &call.CompositionAuthority{Label: name, Scopes: scopes}
	op.ScopedEnv = env
	return op
}

// as is the session of a user with the hub.
func (h *hub) as(user auth.Context) *call.Session { return h.join(user).calls }

func text(t *testing.T, output json.RawMessage, err error) string {
	t.Helper()
	require.NoError(t, err)
	var s string
	require.NoError(t, json.Unmarshal(output, &s))
	return s
}

// CALL-101, CALL-69, CALL-70, CALL-20: what a composed request is made of, field
// by field, against that of its parent.
func TestCALL101BothWaysToMakeARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var parent, child, grandchild call.Request
		last := composing("test/last", nil, func(_ context.Context, r *call.Request) (any, error) {
			grandchild = *r
			return nil, nil
		})
		inner := composing("test/inner", &call.ScopedEnv{AllowedOps: []string{"test/last"}},
			func(ctx context.Context, r *call.Request) (any, error) {
				child = *r
				r.Metadata["secret"] = "never"
				return r.Env.Invoke(ctx, "test/last", nil)
			}, "inner")
		inner.Capabilities = call.Capabilities{}.WithAPIKey("inner", []byte("k"))
		outer := composing("test/outer", &call.ScopedEnv{AllowedOps: []string{"test/inner"}},
			func(ctx context.Context, r *call.Request) (any, error) {
				parent = *r
				r.Metadata["secret"] = "never"
				return r.Env.Invoke(ctx, "test/inner", map[string]int{"n": 1}, call.WithAbortPolicy(call.ContinueRunning))
			}, "outer")
		outer.Capabilities = call.Capabilities{}.WithHTTPToken("outer", []byte("t"))
		h := newHub(t, call.Config{}, outer, inner, last)
		claim := auth.Identity{ID: "behind", Scopes: []string{}, Resources: map[string][]string{}}
		_, err := h.as(named("user", "u")).Call(t.Context(), "test/outer", nil,
			call.WithForwardedFor(claim), call.WithRequestID("r1"), call.WithTimeout(time.Minute))
		require.NoError(t, err)

		// Off the wire.
		require.Equal(t, "r1", parent.ID)
		require.Empty(t, parent.ParentID)
		require.Equal(t, "user", parent.Identity.ID)
		require.Equal(t, "test/outer", parent.Authority.Label)
		require.Equal(t, &claim, parent.ForwardedFor)
		require.Equal(t, "user", parent.Origin.ID)
		require.Equal(t, "[1 redacted]", parent.Capabilities.String())
		require.Equal(t, []string{"test/inner"}, parent.ScopedEnv.AllowedOps)
		require.Equal(t, call.AbortDependents, parent.AbortPolicy)
		require.Equal(t, time.Now().Add(time.Minute), parent.Deadline)
		require.False(t, parent.Internal())

		// Composed.
		id, err := uuid.Parse(child.ID)
		require.NoError(t, err)
		require.EqualValues(t, 4, id.Version())
		require.Equal(t, "r1", child.ParentID)
		require.JSONEq(t, `{"n":1}`, string(child.Input))
		require.Equal(t, "test/outer", child.Identity.ID) // the parent's authority
		require.Equal(t, []string{"outer"}, child.Identity.Scopes)
		require.Equal(t, "test/inner", child.Authority.Label)
		require.Nil(t, child.ForwardedFor)
		require.Equal(t, "user", child.Origin.ID)
		require.Equal(t, "[2 redacted]", child.Capabilities.String()) // CALL-68
		require.Equal(t, map[string]any{"secret": "never"}, child.Metadata, "its own only")
		require.Equal(t, []string{"test/last"}, child.ScopedEnv.AllowedOps)
		require.Equal(t, call.ContinueRunning, child.AbortPolicy)
		require.Equal(t, parent.Deadline, child.Deadline) // CALL-41
		require.True(t, child.Internal())
		require.Zero(t, child.Peer)

		require.Equal(t, child.ID, grandchild.ParentID)
		require.Equal(t, "user", grandchild.Origin.ID)
		require.Empty(t, grandchild.Metadata)
		require.Nil(t, grandchild.ScopedEnv)
		require.Equal(t, call.ContinueRunning, grandchild.AbortPolicy, "inherited")
		require.Equal(t, parent.Deadline, grandchild.Deadline)
	})
}

// CALL-61: composed calls are checked against the parent's authority, neither
// the user's identity nor the child's own; without authority, against nobody.
func TestCALL61TheParentsAuthorityIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := &call.ScopedEnv{AllowedOps: []string{"test/guarded", "test/own"}, PeerPinned: []string{"r/peer/guarded"}}
		invoke := func(name string) call.HandlerFunc {
			return func(ctx context.Context, r *call.Request) (any, error) { return r.Env.Invoke(ctx, name, nil) }
		}
		guarded := says("test/guarded", "in")
		guarded.Spec.Access.RequiredScopes = []string{"needed"}
		own := says("test/own", "in") // holds itself what it asks for
		own.Spec.Access.RequiredScopes = []string{"needed"}
		own.Authority = &call.CompositionAuthority{Label: "own", Scopes: []string{"needed"}}
		nobody := query("test/nobody", invoke("test/guarded"))
		nobody.ScopedEnv = env
		remote := says("peer/guarded", "in")
		remote.Spec.Access.RequiredScopes = []string{"needed"}
		atPeer := func(ctx context.Context, r *call.Request) (any, error) {
			return r.Env.InvokePeer(ctx, call.PeerSpecific("r"), "peer/guarded", nil)
		}
		h := newHub(t, call.Config{},
			guarded, own, nobody,
			composing("test/holder", env, invoke("test/guarded"), "needed"),
			composing("test/poor", env, invoke("test/guarded"), "other"),
			composing("test/poorer", env, invoke("test/own"), "other"),
			composing("test/holder.peer", env, atPeer, "needed"),
			composing("test/poor.peer", env, atPeer, "other"),
		)
		l := h.join(named("r"), says("peer/guarded", "in"))
		require.NoError(t, l.imports.RegisterImported(leaf(l.imports, remote.Spec)))

		rich, poor := h.as(named("rich", "needed")), h.as(named("poor"))
		for _, name := range []string{"test/holder", "test/holder.peer"} {
			out, err := poor.Call(t.Context(), name, nil)
			require.Equal(t, "in", text(t, out, err)) // the user's scopes do not limit
		}
		for _, name := range []string{"test/poor", "test/poorer", "test/poor.peer"} {
			_, err := rich.Call(t.Context(), name, nil)
			require.ErrorIs(t, err, call.ErrForbidden, name) // nor do they help
			require.ErrorContains(t, err, "missing required scope: needed")
		}
		_, err := rich.Call(t.Context(), "test/nobody", nil)
		require.ErrorContains(t, err, "authentication required")
	})
}

// CALL-66: the scoped env is looked at before anything else; what is pinned is
// reached at that peer only.
func TestCALL66ScopedEnv(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := &call.ScopedEnv{AllowedOps: []string{"any/op", "no/such"}, PeerPinned: []string{"r1/pin/op"}}
		type route struct {
			peer *call.PeerRef
			name string
		}
		at := func(ref call.PeerRef, name string) route { return route{&ref, name} }
		reached := map[string]string{}
		do := composing("test/do", env, func(ctx context.Context, r *call.Request) (any, error) {
			for label, to := range map[string]route{
				"any":          {nil, "any/op"},
				"any at any":   at(call.PeerAny(), "any/op"),
				"any at r2":    at(call.PeerSpecific("r2"), "any/op"),
				"pin at r1":    at(call.PeerSpecific("r1"), "pin/op"),
				"pin at r2":    at(call.PeerSpecific("r2"), "pin/op"),
				"pin at any":   at(call.PeerAny(), "pin/op"),
				"pin":          {nil, "pin/op"},
				"outside":      {nil, "test/outside"},
				"with a slash": {nil, "/any/op"},
				"unknown":      {nil, "no/such"},
			} {
				var out json.RawMessage
				var err error
				var there bool
				if to.peer == nil {
					out, err = r.Env.Invoke(ctx, to.name, nil)
					there = r.Env.Contains(to.name)
				} else {
					out, err = r.Env.InvokePeer(ctx, *to.peer, to.name, nil)
					there = r.Env.PeerContains(*to.peer, to.name)
				}
				if there != (err == nil) {
					return nil, fmt.Errorf("%s: contains %v, invoked %w", label, there, err)
				}
				reached[label] = string(out)
				if err != nil {
					reached[label] = err.Error()
				}
			}
			list := r.Env.Operations()
			if len(list) != 1 || list[0].Name != "any/op" {
				return nil, fmt.Errorf("operations: %v", list)
			}
			return nil, nil
		})
		h := newHub(t, call.Config{}, do, says("test/outside", "out"))
		h.runner(named("r1"), says("any/op", "any at r1"), says("pin/op", "pin at r1"))
		h.runner(named("r2"), says("any/op", "any at r2"), says("pin/op", "pin at r2"))
		_, err := h.as(named("user")).Call(t.Context(), "test/do", nil)
		require.NoError(t, err)
		require.Equal(t, map[string]string{
			"any": `"any at r1"`, "any at any": `"any at r1"`, "any at r2": `"any at r2"`, "pin at r1": `"pin at r1"`,
			"pin at r2": "NOT_FOUND: operation not found: pin/op", "pin at any": "NOT_FOUND: operation not found: pin/op",
			"pin": "NOT_FOUND: operation not found: pin/op", "outside": "NOT_FOUND: operation not found: test/outside",
			"with a slash": "NOT_FOUND: operation not found: /any/op", "unknown": "NOT_FOUND: operation not found: no/such",
		}, reached)
	})
}

// CALL-72: composition is request and response; input is checked as for any
// call, kinds are told apart, and errors are those of CALL-54.
func TestCALL72EnvIsRequestAndResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"test/ticks", "test/typed", "test/broken", "test/panics", "test/domain", "test/alone", "test/loop"}
		typed := says("test/typed", "ok")
		typed.Spec.InputSchema = json.RawMessage(`{"type":"integer"}`)
		domain := query("test/domain", func(_ context.Context, r *call.Request) (any, error) {
			return nil, &call.Error{Code: call.Code(strings.Trim(string(r.Input), `"`)), Message: "told", Details: json.RawMessage(`1`)}
		})
		domain.Spec.Errors = []call.ErrorSpec{{Code: "DECLARED"}}
		alone := call.Operation{Spec: call.Spec{Name: "test/alone"}, Provenance: call.FromJSONSchema}
		var answer func(ctx context.Context, e call.Env) error
		h := newHub(t, call.Config{}, typed, domain, alone,
			stream("test/ticks", func(context.Context, *call.Request, func(any) error) error { return nil }),
			query("test/broken", func(context.Context, *call.Request) (any, error) { return nil, errors.New("a secret") }),
			query("test/panics", func(context.Context, *call.Request) (any, error) { panic("boom") }),
			composing("test/loop", &call.ScopedEnv{AllowedOps: []string{"test/loop"}}, func(ctx context.Context, r *call.Request) (any, error) {
				return r.Env.Invoke(ctx, "test/loop", nil)
			}),
			composing("test/do", &call.ScopedEnv{AllowedOps: names}, func(ctx context.Context, r *call.Request) (any, error) {
				return nil, answer(ctx, r.Env)
			}))
		user := h.as(named("user"))
		for _, c := range []struct {
			name  string
			input any
			want  error
			text  string
		}{
			{"test/ticks", nil, call.ErrInvalidOperationType, "test/ticks is a subscription"},
			{"test/typed", "x", call.ErrInvalidInput, "does not match"},
			{"test/typed", make(chan int), call.ErrInvalidInput, "encode input"},
			{"test/broken", nil, call.ErrInternal, "INTERNAL: internal error"},
			{"test/panics", nil, call.ErrInternal, "INTERNAL: internal error"},
			{"test/domain", "DECLARED", &call.Error{Code: "DECLARED"}, "told"},
			{"test/domain", "UNDECLARED", call.ErrInternal, "told"},
			{"test/alone", nil, call.ErrNotFound, "operation not found: test/alone"}, // CALL-98
			{"test/loop", nil, call.ErrInternal, "more than 64 operations invoke each other"},
		} {
			var err error
			answer = func(ctx context.Context, e call.Env) error {
				_, err = e.Invoke(ctx, c.name, c.input)
				return nil
			}
			_, failed := user.Call(t.Context(), "test/do", nil)
			require.NoError(t, failed)
			require.ErrorAs(t, err, new(*call.Error)) // CALL-56
			require.ErrorIs(t, err, c.want, c.name)
			require.ErrorContains(t, err, c.text)
		}
		_, err := user.Call(t.Context(), "test/alone", nil)
		require.ErrorIs(t, err, call.ErrNotFound)
	})
}

// overlays gives every request the same agent session.
type overlays struct{ o *call.Overlay }

func (s *overlays) OverlayFor(*call.Request) *call.Overlay { return s.o }

// CALL-73, CALL-74: which layer a name is found in.
func TestCALL73OrderOfLayers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := func(name string) call.Operation {
			op := says(name, "session")
			op.Provenance = call.SessionMade
			return op
		}
		session, err := call.NewOverlay(nil, made("op/everywhere"), made("op/session"))
		require.NoError(t, err)
		names := []string{"op/everywhere", "op/session", "op/curated", "op/peers", "op/second", "op/mine", "op/own"}
		do := composing("test/do", &call.ScopedEnv{AllowedOps: names}, func(ctx context.Context, r *call.Request) (any, error) {
			var in struct{ Op, At string }
			if err := r.Decode(&in); err != nil {
				return nil, err
			}
			switch in.At {
			case "":
				return r.Env.Invoke(ctx, in.Op, nil)
			case "*":
				return r.Env.InvokePeer(ctx, call.PeerAny(), in.Op, nil)
			}
			return r.Env.InvokePeer(ctx, call.PeerSpecific(auth.PeerName(in.At)), in.Op, nil)
		})
		source := &overlays{session}
		h := newHub(t, call.Config{Overlays: source},
			do, says("op/everywhere", "curated"), says("op/curated", "curated"), says("op/own", "curated"))
		h.runner(named("r1"), says("op/everywhere", "r1"), says("op/curated", "r1"), says("op/peers", "r1"))
		h.runner(named("r2"), says("op/everywhere", "r2"), says("op/curated", "r2"), says("op/peers", "r2"), says("op/second", "r2"))
		user := h.as(named("user"))
		ask := func(op, at string) string {
			out, err := user.Call(t.Context(), "test/do", map[string]string{"Op": op, "At": at})
			if err != nil {
				require.ErrorIs(t, err, call.ErrNotFound)
				return "-"
			}
			return text(t, out, err)
		}
		for _, c := range []struct{ op, at, want string }{
			{"op/everywhere", "", "session"},
			{"op/session", "", "session"},
			{"op/curated", "", "curated"}, // no peer captures a name of ours
			{"op/peers", "", "r1"},
			{"op/second", "", "r2"},
			{"op/everywhere", "*", "session"}, // CALL-74
			{"op/curated", "*", "r1"},
			{"op/own", "*", "curated"},
			{"op/second", "*", "r2"},
			{"op/everywhere", "r1", "r1"},
			{"op/everywhere", "r2", "r2"},
			{"op/second", "r1", "-"}, // no fall-through
			{"op/own", "r1", "-"},
			{"op/session", "r1", "-"},
			{"op/peers", "r3", "-"},
		} {
			require.Equal(t, c.want, ask(c.op, c.at), "%s at %q", c.op, c.at)
		}
		source.o = nil // CALL-71: asked anew for each request
		require.Equal(t, "curated", ask("op/everywhere", ""))
		require.Equal(t, "-", ask("op/session", ""))
	})
}
