package auth_test

import (
	stdjson "encoding/json"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

func TestCALL60Check(t *testing.T) {
	id := &auth.Identity{ID: "a", Scopes: []string{"fs:read", "x"}, Resources: map[string][]string{"service": {"read"}, "empty": {}}}
	for name, c := range map[string]struct {
		access auth.Access
		id     *auth.Identity
		want   string // "" = may pass
	}{
		"nothing asked, anonymous":  {auth.Access{}, nil, ""},
		"empty list asked":          {auth.Access{RequiredScopes: []string{}}, nil, ""},
		"scope, anonymous":          {auth.Access{RequiredScopes: []string{"x"}}, nil, "authentication required"},
		"any of none, anonymous":    {auth.Access{RequiredScopesAny: []string{}}, nil, "authentication required"},
		"scope held":                {auth.Access{RequiredScopes: []string{"x", "fs:read"}}, id, ""},
		"first missing scope":       {auth.Access{RequiredScopes: []string{"x", "B", "C"}}, id, "missing required scope: B"},
		"no wildcard":               {auth.Access{RequiredScopes: []string{"fs:*"}}, id, "missing required scope: fs:*"},
		"one of":                    {auth.Access{RequiredScopesAny: []string{"B", "x"}}, id, ""},
		"none of":                   {auth.Access{RequiredScopesAny: []string{"A", "B"}}, id, "missing required scope (any of: A, B)"},
		"any of none":               {auth.Access{RequiredScopesAny: []string{}}, id, "missing required scope (any of: )"},
		"all before any":            {auth.Access{RequiredScopes: []string{"A"}, RequiredScopesAny: []string{}}, id, "missing required scope: A"},
		"resource and action":       {auth.Access{ResourceType: new("service"), ResourceAction: new("read")}, id, ""},
		"missing action on type":    {auth.Access{ResourceType: new("service"), ResourceAction: new("write")}, id, "missing resource: service/write"},
		"type":                      {auth.Access{ResourceType: new("service")}, id, ""},
		"type without grants":       {auth.Access{ResourceType: new("empty")}, id, "missing resource: empty"},
		"missing type":              {auth.Access{ResourceType: new("file")}, id, "missing resource: file"},
		"action on any type":        {auth.Access{ResourceAction: new("read")}, id, ""},
		"missing action":            {auth.Access{ResourceAction: new("write")}, id, "missing resource action: write"},
		"action, anonymous":         {auth.Access{ResourceAction: new("read")}, nil, "authentication required"},
		"scope before resource":     {auth.Access{RequiredScopes: []string{"A"}, ResourceType: new("file")}, id, "missing required scope: A"},
		"identity without anything": {auth.Access{RequiredScopes: []string{"x"}}, &auth.Identity{}, "missing required scope: x"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.access.Check(c.id)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			var denied *auth.DeniedError
			require.ErrorAs(t, err, &denied)
			require.Equal(t, c.want, err.Error())
			require.Equal(t, c.want, denied.Reason)
		})
	}
}

// CALL-59: all members present, optional ones null, whichever package encodes.
func TestCALL59AccessJSON(t *testing.T) {
	for want, access := range map[string]auth.Access{
		`{"required_scopes":[],"required_scopes_any":null,"resource_type":null,"resource_action":null}`:          {},
		`{"required_scopes":["fs:read"],"required_scopes_any":null,"resource_type":null,"resource_action":null}`: {RequiredScopes: []string{"fs:read"}},
		`{"required_scopes":[],"required_scopes_any":[],"resource_type":"t","resource_action":"a"}`:              {RequiredScopesAny: []string{}, ResourceType: new("t"), ResourceAction: new("a")},
		`{"required_scopes":["a","b"],"required_scopes_any":["c"],"resource_type":null,"resource_action":null}`:  {RequiredScopes: []string{"a", "b"}, RequiredScopesAny: []string{"c"}},
	} {
		got, err := json.Marshal(access)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		got, err = stdjson.Marshal(struct{ A auth.Access }{access})
		require.NoError(t, err)
		require.Equal(t, `{"A":`+want+`}`, string(got))

		var back auth.Access
		require.NoError(t, json.Unmarshal([]byte(want), &back))
		require.Equal(t, access.RequiredScopesAny == nil, back.RequiredScopesAny == nil, "null and [] differ")
		again, err := json.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, want, string(again))
	}
}

func TestIdentityJSONIsNeverNull(t *testing.T) {
	const want = `{"id":"a","scopes":[],"resources":{}}`
	got, err := json.Marshal(auth.Identity{ID: "a"})
	require.NoError(t, err)
	require.Equal(t, want, string(got))
	got, err = stdjson.Marshal(&auth.Identity{ID: "a"})
	require.NoError(t, err)
	require.Equal(t, want, string(got))
	got, err = json.Marshal(auth.Identity{ID: "a", Scopes: []string{"x"}, Resources: map[string][]string{"b": nil, "a": {"r"}}})
	require.NoError(t, err)
	require.Equal(t, `{"id":"a","scopes":["x"],"resources":{"a":["r"],"b":[]}}`, string(got))
}

func TestIdentityEqualAndClone(t *testing.T) {
	a := auth.Identity{ID: "a", Scopes: []string{"x", "y"}, Resources: map[string][]string{"t": {"r", "w"}}}
	same := auth.Identity{ID: "a", Scopes: []string{"y", "x"}, Resources: map[string][]string{"t": {"w", "r"}}}
	require.True(t, a.Equal(same))
	for _, other := range []auth.Identity{
		{ID: "b", Scopes: a.Scopes, Resources: a.Resources},
		{ID: "a", Scopes: []string{"x"}, Resources: a.Resources},
		{ID: "a", Scopes: []string{"x", "x"}, Resources: a.Resources},
		{ID: "a", Scopes: a.Scopes},
		{ID: "a", Scopes: a.Scopes, Resources: map[string][]string{"u": {"r", "w"}}},
		{ID: "a", Scopes: a.Scopes, Resources: map[string][]string{"t": {"r"}}},
	} {
		require.False(t, a.Equal(other), "%v", other)
		require.False(t, other.Equal(a), "%v", other)
	}
	c := a.Clone()
	c.Scopes[0], c.Resources["t"][0], c.Resources["v"] = "z", "z", nil
	require.Equal(t, "x", a.Scopes[0])
	require.Equal(t, map[string][]string{"t": {"r", "w"}}, a.Resources)
}
