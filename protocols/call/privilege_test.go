package call_test

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"

	gojson "github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// CALL-64, CALL-65, CALL-53: what is not registered, and why; nothing of it is.
func TestCALL64RefusedRegistrations(t *testing.T) {
	handler := call.HandlerFunc(func(context.Context, *call.Request) (any, error) { return nil, nil })
	streams := call.StreamHandlerFunc(func(context.Context, *call.Request, func(any) error) error { return nil })
	authority := &call.CompositionAuthority{Label: "a"}
	spec := call.Spec{Name: "a/b"}
	for want, op := range map[string]call.Operation{
		"a query needs a Handler":                      {Spec: spec, Stream: streams},
		"a subscription needs a Stream":                {Spec: call.Spec{Name: "a/b", Type: call.OpSubscription}, Handler: handler},
		"has both Handler and Stream":                  {Spec: spec, Handler: handler, Stream: streams},
		"bad operation name":                           {Spec: call.Spec{Name: "/a/b"}, Handler: handler},
		"neither an object nor a boolean":              {Spec: call.Spec{Name: "a/b", InputSchema: json.RawMessage(`[]`)}, Handler: handler},
		"error code TIMEOUT belongs to the protocol":   {Spec: call.Spec{Name: "a/b", Errors: []call.ErrorSpec{{Code: "TIMEOUT"}}}, Handler: handler},
		"is not upper snake case":                      {Spec: call.Spec{Name: "a/b", Errors: []call.ErrorSpec{{Code: "no"}}}, Handler: handler},
		"a leaf has neither authority nor scoped env":  {Spec: spec, Handler: handler, Provenance: call.FromJSONSchema, Authority: authority},
		"a leaf has neither authority nor scoped env ": {Spec: spec, Handler: handler, Provenance: call.FromMCP, ScopedEnv: &call.ScopedEnv{}},
		"a peer's operation gets no capabilities":      {Spec: spec, Handler: handler, Provenance: call.FromCall, Capabilities: call.Capabilities{}.WithAPIKey("s", []byte("k"))},
		"an operation of an agent session is internal": {Spec: call.Spec{Name: "a/b", Visibility: call.External}, Handler: handler, Provenance: call.SessionMade},
		"an authority needs a label":                   {Spec: spec, Handler: handler, Authority: &call.CompositionAuthority{}},
		"scoped env: bad operation name":               {Spec: spec, Handler: handler, ScopedEnv: &call.ScopedEnv{AllowedOps: []string{"/x"}}},
		`scoped env: "x" is not <peer name>`:           {Spec: spec, Handler: handler, ScopedEnv: &call.ScopedEnv{PeerPinned: []string{"x"}}},
		`scoped env: bad operation name `:              {Spec: spec, Handler: handler, ScopedEnv: &call.ScopedEnv{PeerPinned: []string{"x/"}}},
		"a query needs a Handler ":                     {Spec: call.Spec{Name: "a/b", Visibility: call.External}, Provenance: call.FromJSONSchema},
		"unknown provenance":                           {Spec: spec, Handler: handler, Provenance: 99},
		"the name is taken":                            {Spec: call.Spec{Name: "a/taken"}, Handler: handler},
	} {
		r := call.NewRegistry()
		require.NoError(t, r.Register(call.Operation{Spec: call.Spec{Name: "a/taken"}, Handler: handler}))
		good := call.Operation{Spec: call.Spec{Name: "a/good"}, Handler: handler}
		err := r.Register(good, op)
		require.ErrorContains(t, err, string(bytes.TrimSpace([]byte(want))))
		require.Len(t, r.Specs(), 1, "nothing half registered")
	}

	// Only local operations are external without being asked.
	r := call.NewRegistry()
	for i, p := range []call.Provenance{call.Local, call.SessionMade, call.FromCall, call.FromOpenAPI, call.FromMCP, call.FromJSONSchema} {
		require.NoError(t, r.Register(call.Operation{Spec: call.Spec{Name: fmt.Sprintf("p/%d", i)}, Handler: handler, Provenance: p}))
	}
	for i, spec := range r.Specs() {
		require.Equal(t, i == 0, spec.Visibility == call.External, spec.Name)
	}
}

// CALL-63 table of §9: what an agent session makes holds nothing that its
// creator does not.
func TestCALL64SessionMadeWithinItsCreator(t *testing.T) {
	made := func(authority *call.CompositionAuthority, env *call.ScopedEnv) call.Operation {
		op := says("made/op", "")
		op.Provenance, op.Authority, op.ScopedEnv = call.SessionMade, authority, env
		return op
	}
	as := func(resources map[string][]string, scopes ...string) *call.CompositionAuthority {
		return &call.CompositionAuthority{Label: "made", Scopes: scopes, Resources: resources}
	}
	creator := &call.Request{
		Authority: &call.CompositionAuthority{Label: "agent", Scopes: []string{"a", "b"}, Resources: map[string][]string{"disk": {"read"}}},
		ScopedEnv: &call.ScopedEnv{AllowedOps: []string{"x/y"}, PeerPinned: []string{"r1/p/q"}},
	}
	for _, c := range []struct {
		op   call.Operation
		want bool
	}{
		{made(nil, nil), true},
		{made(as(map[string][]string{"disk": {"read"}}, "a"), &call.ScopedEnv{AllowedOps: []string{"x/y", "made/op"}, PeerPinned: []string{"r1/p/q", "r2/x/y"}}), true},
		{made(as(nil, "c"), nil), false},
		{made(as(map[string][]string{"disk": {"write"}}), nil), false},
		{made(nil, &call.ScopedEnv{AllowedOps: []string{"p/q"}}), false},
		{made(nil, &call.ScopedEnv{PeerPinned: []string{"r2/p/q"}}), false},
	} {
		_, err := call.NewOverlay(creator, c.op)
		require.Equal(t, c.want, err == nil, "%v", err)
	}
	_, err := call.NewOverlay(&call.Request{}, made(as(nil, "a"), nil))
	require.ErrorContains(t, err, "holds more than its creator")
	_, err = call.NewOverlay(nil, says("local/op", ""))
	require.ErrorContains(t, err, "not made for an agent session")
	_, err = call.NewOverlay(nil, made(nil, nil), made(nil, nil))
	require.ErrorContains(t, err, "the name is taken")
}

// CALL-67, CALL-99: capabilities never show, in whatever way they are printed,
// and are gone once closed.
func TestCALL67CapabilitiesNeverShow(t *testing.T) {
	const secret, token = "sk-very-secret", "tok-very-secret"
	base := call.Capabilities{}.WithHTTPToken("mail", []byte(token))
	c := base.WithAPIKey("llm", []byte(secret)).WithAPIKey("mail", []byte("key"))
	got, ok := c.Get("llm")
	require.True(t, ok)
	require.Equal(t, secret, string(got))
	clear(got)
	got, _ = c.Get("llm")
	require.Equal(t, secret, string(got), "a copy")
	got, _ = c.Get("mail")
	require.Equal(t, "key", string(got), "the API key comes first")
	got, _ = base.Get("mail")
	require.Equal(t, token, string(got), "base has not changed")
	_, ok = c.Get("other")
	require.False(t, ok)
	_, ok = call.Capabilities{}.Get("llm")
	require.False(t, ok)

	type holder struct {
		C call.Capabilities
		c call.Capabilities
	}
	h := holder{c, c}
	op := says("a/b", "")
	op.Capabilities = c
	var log bytes.Buffer
	for _, l := range []*slog.Logger{slog.New(slog.NewTextHandler(&log, nil)), slog.New(slog.NewJSONHandler(&log, nil))} {
		l.Info("x", "c", c, "p", &c, "h", h, "op", op)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		log.WriteString(fmt.Sprintf(verb, c) + fmt.Sprintf(verb, &c) + fmt.Sprintf(verb, h) + fmt.Sprintf(verb, op))
	}
	require.NotContains(t, log.String(), "very-secret")
	require.NotContains(t, log.String(), fmt.Sprintf("%x", secret))
	require.Contains(t, log.String(), "[3 redacted]")

	_, err := json.Marshal(c)
	require.Error(t, err)
	_, err = gojson.Marshal(h)
	require.Error(t, err)
	_, err = encoding.TextMarshaler(c).MarshalText()
	require.Error(t, err)
	_, err = encoding.BinaryMarshaler(c).MarshalBinary()
	require.Error(t, err)

	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	for _, service := range []string{"llm", "mail"} {
		_, ok = c.Get(service)
		require.False(t, ok)
	}
	_, ok = base.Get("mail")
	require.False(t, ok, "of one secret there is one copy")
}

// CALL-68: a composed call has its own operation's capabilities and, of services
// those lack, the parent's; an imported leaf none. Closing the node wipes them.
func TestCALL68CapabilitiesOfComposedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen map[string]string
		look := func(r *call.Request) {
			seen = map[string]string{}
			for _, service := range []string{"both", "mine", "theirs"} {
				if v, ok := r.Capabilities.Get(service); ok {
					seen[service] = string(v)
				}
			}
		}
		child := query("test/child", func(_ context.Context, r *call.Request) (any, error) {
			look(r)
			return nil, nil
		})
		child.Capabilities = call.Capabilities{}.WithHTTPToken("both", []byte("child")).WithAPIKey("mine", []byte("child"))
		bare := query("test/bare", func(_ context.Context, r *call.Request) (any, error) {
			look(r)
			return nil, nil
		})
		parent := composing("test/parent", &call.ScopedEnv{AllowedOps: []string{"test/child", "test/bare", "peer/op"}},
			func(ctx context.Context, r *call.Request) (any, error) {
				var name string
				if err := r.Decode(&name); err != nil {
					return nil, err
				}
				return r.Env.Invoke(ctx, name, nil)
			})
		parent.Capabilities = call.Capabilities{}.WithAPIKey("both", []byte("parent")).WithAPIKey("theirs", []byte("parent"))
		h := newHub(t, call.Config{}, parent, child, bare)
		l := h.join(named("r1"), says("peer/op", ""))
		imported := leaf(l.imports, call.Spec{Name: "peer/op"})
		forward := imported.Handler
		imported.Handler = call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
			look(r)
			return forward.Call(ctx, r)
		})
		require.NoError(t, l.imports.RegisterImported(imported))
		user := h.as(named("user"))
		for name, want := range map[string]map[string]string{
			"test/child": {"both": "child", "mine": "child", "theirs": "parent"},
			"test/bare":  {"both": "parent", "theirs": "parent"},
			"peer/op":    {},
		} {
			_, err := user.Call(t.Context(), "test/parent", name)
			require.NoError(t, err)
			require.Equal(t, want, seen, name)
		}
		require.NoError(t, h.Close())
		_, ok := parent.Capabilities.Get("theirs")
		require.False(t, ok)
		_, err := user.Call(t.Context(), "test/parent", "test/child")
		require.ErrorContains(t, err, "connection closed") // nothing starts any more
	})
}

// CALL-63, CALL-62: what a peer claims in forwarded_for opens nothing.
func TestCALL63ForwardedForOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guarded := says("test/guarded", "")
		guarded.Spec.Access.RequiredScopes = []string{"admin"}
		h := newHub(t, call.Config{}, guarded)
		_, err := h.as(named("user")).Call(t.Context(), "test/guarded", nil,
			call.WithForwardedFor(auth.Identity{ID: "root", Scopes: []string{"admin"}, Resources: map[string][]string{}}))
		require.ErrorIs(t, err, call.ErrForbidden)
	})
}
