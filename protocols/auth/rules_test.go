package auth_test

import (
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// NODE-18: a resource's list holds actions, and they are compared literally with the
// operation's; nothing is a wildcard, and no type stands for another.
func TestNODE18ResourcesHoldActions(t *testing.T) {
	p, err := auth.NewPeers(&auth.Config{Auth: auth.Policy{Peers: []auth.PeerEntry{{
		PeerName: "a", Fingerprints: []string{keyA}, Enabled: true,
		Resources: map[string][]string{"service": {"read", "*"}, "disk": {"service"}},
	}}}})
	require.NoError(t, err)
	id, ok := p.ResolveFromFingerprint(keyA)
	require.True(t, ok)
	asks := func(typ, action string) error {
		return auth.Access{ResourceType: &typ, ResourceAction: &action}.Check(&id)
	}
	require.NoError(t, asks("service", "read"))
	require.NoError(t, asks("service", "*"))
	for _, c := range [][2]string{{"service", "write"}, {"service", "Read"}, {"service", "service"}, {"disk", "read"}, {"read", "service"}} {
		require.Error(t, asks(c[0], c[1]), c)
	}
}

// NODE-19: a peer's identity has its name, an API key's its prefix.
func TestNODE19IdentityIDs(t *testing.T) {
	p, _ := peersFrom(t, "rotation.json")
	id, ok := p.ResolveFromFingerprint(keyA)
	require.True(t, ok)
	require.Equal(t, "worker-a", id.ID)
	id, ok = p.ResolveFromToken(auth.TokenFromText("any text will do"))
	require.True(t, ok)
	require.Equal(t, "worker-a", id.ID, "a peer's token is that peer")
	id, ok = p.ResolveFromToken(auth.TokenFromText("alk_BBB short prefix"))
	require.True(t, ok)
	require.Equal(t, "alk_BBB", id.ID)
}

// NODE-23: a prefix authenticates nobody, a hash of a hash neither.
func TestNODE23PrefixIsNoCredential(t *testing.T) {
	tok := auth.NewToken()
	p, err := auth.NewPeers(&auth.Config{Auth: auth.Policy{APIKeys: []auth.APIKeyEntry{{Prefix: tok.Prefix(), Hash: tok.Hash()}}}})
	require.NoError(t, err)
	_, ok := p.ResolveFromToken(tok)
	require.True(t, ok)
	for _, text := range []string{tok.Prefix(), tok.Hash(), tok.Reveal() + "x", tok.Reveal()[:46]} {
		_, ok := p.ResolveFromToken(auth.TokenFromText(text))
		require.False(t, ok, text)
	}
}

// NODE-25: a name is no key, in whichever form, and no key is a name: only the
// entry joins them.
func TestNODE25NameIsNoKey(t *testing.T) {
	p, _ := peersFrom(t, "rotation.json")
	id, err := auth.PeerFromFingerprint(keyA)
	require.NoError(t, err)
	for _, text := range []string{keyA, id.String(), "5f1c0d9e-3b9a-4c55-9a55-0d8b0c6a4f11"} {
		_, err := auth.ParsePeerName(text)
		require.Error(t, err, text)
		_, ok := p.ByName(auth.PeerName(text))
		require.False(t, ok)
	}
	_, err = auth.ParseKey("worker-a")
	require.Error(t, err)
	_, ok := p.ResolveFromFingerprint("worker-a")
	require.False(t, ok)
	_, err = peer.Decode("worker-a")
	require.Error(t, err)
}

// NODE-24: a disabled peer is nobody: by key, by token, by name.
func TestNODE24DisabledPeer(t *testing.T) {
	token := auth.TokenFromText("alk_AAECdisabled")
	hash := token.Hash()
	cfg := &auth.Config{Auth: auth.Policy{Peers: []auth.PeerEntry{{
		PeerName: "a", Fingerprints: []string{keyA}, AuthTokenHash: &hash, Scopes: []string{"admin"},
	}}}}
	p, err := auth.NewPeers(cfg)
	require.NoError(t, err)
	_, ok := p.ResolveFromFingerprint(keyA)
	require.False(t, ok)
	_, ok = p.ResolveFromToken(token)
	require.False(t, ok)
	_, ok = p.NameOf(keyA)
	require.False(t, ok)
	cfg.Auth.Peers[0].Enabled = true
	require.NoError(t, p.Reload(cfg))
	_, ok = p.ResolveFromToken(token)
	require.True(t, ok)
}

// NODE-67: what an identity is good for at all comes before the access.
func TestOnlyComesBeforeAccess(t *testing.T) {
	free := auth.Access{}
	scoped := auth.Access{RequiredScopes: []string{"x"}}
	var nobody *auth.Identity
	require.NoError(t, nobody.May("a", free))
	require.EqualError(t, nobody.May("a", scoped), "authentication required")
	all := &auth.Identity{ID: "a", Scopes: []string{"x"}}
	require.NoError(t, all.May("a", scoped))
	some := &auth.Identity{ID: "ticket:1", Scopes: []string{"x"}, Only: []string{"a"}}
	require.NoError(t, some.May("a", scoped))
	require.NoError(t, some.May("a", free))
	require.Error(t, some.May("b", scoped))
	require.Error(t, some.May("b", free))
	require.Error(t, some.May("A", free))
	require.EqualError(t, some.May("a", auth.Access{RequiredScopes: []string{"y"}}), "missing required scope: y")
	none := &auth.Identity{ID: "guest", Only: []string{}}
	require.Error(t, none.May("a", free))

	require.False(t, some.Equal(*all), "other rights")
	require.False(t, none.Equal(auth.Identity{ID: "guest"}))
	require.True(t, some.Equal(some.Clone()))
	clone := some.Clone()
	clone.Only[0] = "b"
	require.NoError(t, some.May("a", free))

	require.Equal(t, none, auth.Context{Guest: none}.Caller())
	require.Equal(t, all, auth.Context{Identity: all}.Caller())
	require.Nil(t, auth.Context{}.Caller())
}

func TestAdmission(t *testing.T) {
	for text, want := range map[string]struct{ call, other auth.Admit }{
		`{}`:                                {"", ""},
		`{"admission":{"default":"known"}}`: {auth.AdmitKnown, auth.AdmitKnown},
		`{"admission":{"default":"open","alpns":{"alknet/call":"closed"}}}`: {auth.AdmitClosed, auth.AdmitOpen},
		`{"admission":{"alpns":{"alknet/call":"known"}}}`:                   {auth.AdmitKnown, ""},
	} {
		c, err := auth.ParseConfig([]byte(text))
		require.NoError(t, err)
		p, err := auth.NewPeers(c)
		require.NoError(t, err)
		require.Equal(t, want.call, p.Admits("alknet/call"), text)
		require.Equal(t, want.other, p.Admits("alknet/other"), text)
		require.Equal(t, c.Admission, p.Admission())
		require.Equal(t, c.Admission.IsZero(), want.call == "" && want.other == "")

		// Neither what was given nor what is returned reaches the registry.
		if c.Admission.ALPNs != nil {
			c.Admission.ALPNs["alknet/call"] = auth.AdmitOpen
			p.Admission().ALPNs["alknet/call"] = auth.AdmitOpen
			require.Equal(t, want.call, p.Admits("alknet/call"))
		}
		out, err := p.Config().Append(nil)
		require.NoError(t, err)
		again, err := auth.ParseConfig(out)
		require.NoError(t, err)
		require.Equal(t, p.Admission(), again.Admission)
		require.Equal(t, !c.Admission.IsZero(), strings.Contains(string(out), "admission"))
	}
	for text, why := range map[string]string{
		`{"admission":{"default":"all"}}`:                `admission.default: is none of "open", "known" and "closed"`,
		`{"admission":{"alpns":{"a b":"open"}}}`:         `admission.alpns.a b: holds white space`,
		`{"admission":{"alpns":{"alknet/call":""}}}`:     `admission.alpns.alknet/call: is none of`,
		`{"admission":{"alpns":{"alknet/call":"shut"}}}`: `admission.alpns.alknet/call: is none of`,
		`{"admission":{"mode":"open"}}`:                  `admission.mode: unknown field`,
	} {
		_, err := auth.ParseConfig([]byte(text))
		require.ErrorContains(t, err, why)
		var field *auth.FieldError
		require.ErrorAs(t, err, &field)
		require.Equal(t, 1, field.Line)
		require.Greater(t, field.Column, len(`{"admission":`))
	}
	_, err := auth.ParseAdmit("Open")
	require.Error(t, err)
}
