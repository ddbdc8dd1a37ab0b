package auth_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	keyA = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
	keyB = "ed25519:3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
	cert = "SHA256:3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
)

func config(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	return b
}

func TestParseConfigReadsEveryField(t *testing.T) {
	c, err := auth.ParseConfig(config(t, "full.json"))
	require.NoError(t, err)
	tokenHash := auth.TokenFromText("open sesame").Hash()
	name, expires := "Worker A", uint64(1_900_000_000)
	want := &auth.Config{
		Auth: auth.Policy{
			Peers: []auth.PeerEntry{{
				PeerName: "worker-a", Fingerprints: []string{keyA, cert}, AuthTokenHash: &tokenHash,
				Scopes: []string{"fs:read", "relay:connect"}, Resources: map[string][]string{"service": {"read"}},
				DisplayName: &name, Enabled: false, Next: auth.TokenFromText("next").Hash(), Follow: true,
			}},
			APIKeys: []auth.APIKeyEntry{{
				Prefix: "alk_AAEC", Hash: auth.TokenFromText("alk_AAEC rest").Hash(),
				Scopes: []string{"admin"}, Description: "ci", ExpiresAt: &expires,
			}},
		},
		RateLimits: auth.RateLimits{MaxConnectionsPerIP: 7, MaxAuthAttempts: 3},
	}
	require.Empty(t, cmp.Diff(want, c))

	text, err := c.Append(nil)
	require.NoError(t, err)
	require.Equal(t, string(config(t, "full.json")), string(text))
	require.Empty(t, cmp.Diff(c, c.Clone()))
}

// NODE-35: absent enabled is true, absent lists are empty, absent limits
// have their defaults.
func TestParseConfigDefaults(t *testing.T) {
	for _, text := range []string{`{}`, `{"auth":{}}`, `{"auth":{"peers":[],"api_keys":[]},"rate_limits":{}}`} {
		c, err := auth.ParseConfig([]byte(text))
		require.NoError(t, err)
		p, err := auth.NewPeers(c)
		require.NoError(t, err)
		require.Equal(t, auth.RateLimits{MaxConnectionsPerIP: 100, MaxAuthAttempts: 5}, p.RateLimits())
	}
	c, err := auth.ParseConfig([]byte(`{"auth":{"peers":[{"peer_id":"a"},{"peer_id":"b","enabled":null},{"peer_id":"c","enabled":true}]}}`))
	require.NoError(t, err)
	for _, e := range c.Auth.Peers {
		require.True(t, e.Enabled, e.PeerName)
	}
	text, err := c.Append(nil)
	require.NoError(t, err)
	require.Contains(t, string(text), `"max_auth_attempts": 5`)
	again, err := auth.ParseConfig(text)
	require.NoError(t, err)
	require.Equal(t, auth.PeerName("c"), again.Auth.Peers[2].PeerName)
}

// NODE-27: a bad registry is refused with the place and the field at fault.
func TestNODE27ParseConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		``:                               `1:1 "": unexpected EOF`,
		`[]`:                             `1:1 "": a JSON [ cannot stand here`,
		`{} {}`:                          `1:4 "": `,
		"{\n  \"auht\": {}}":             `2:3 "/auht": auht: unknown field`,
		"{\"auth\": {},\n \"auth\": {}}": `2:2 "/auth": auth: the field occurs twice`,
		"{\"Auth\": {}}":                 `1:2 "/Auth": Auth: unknown field`,
		"{\"auth\": {\"peers\": [\n{\"peer_id\": 7}]}}":                                       `2:2 "/auth/peers/0/peer_id": auth.peers[0].peer_id: a JSON number cannot stand here`,
		"{\"auth\": {\"peers\": [\n{}]}}":                                                     `2:1 "/auth/peers/0/peer_id": auth.peers[0].peer_id: a peer name is empty`,
		"{\"rate_limits\": {\n\"max_auth_attempts\": -1}}":                                    `2:1 "/rate_limits/max_auth_attempts": rate_limits.max_auth_attempts: is negative`,
		"{\"rate_limits\": {\n\"max_auth_attempts\": 1.5}}":                                   `2:1 "/rate_limits/max_auth_attempts": rate_limits.max_auth_attempts: `,
		"{\"auth\": {\"peers\": [{\"peer_id\": \"\xff\"}]}}":                                  `1:`,
		"{\"auth\": {\"peers\": [{\"peer_id\": \"a\", \n\"resources\": {\"x/y\": [\"\"]}}]}}": `2:23 "/auth/peers/0/resources/x~1y/0": auth.peers[0].resources.x/y[0] (a): is empty`,
	} {
		_, err := auth.ParseConfig([]byte(text))
		var field *auth.FieldError
		require.ErrorAs(t, err, &field, text)
		require.Contains(t, fmt.Sprintf("%d:%d %q: %s", field.Line, field.Column, field.Pointer, field), want, text)
	}
	_, err := auth.ParseConfig(make([]byte, 16<<20+1))
	require.ErrorContains(t, err, "larger than")
}

func TestNODE27Validate(t *testing.T) {
	entry := func(change func(*auth.PeerEntry)) auth.Config {
		e := auth.PeerEntry{PeerName: "a", Fingerprints: []string{keyA}, Enabled: true}
		change(&e)
		return auth.Config{Auth: auth.Policy{Peers: []auth.PeerEntry{{PeerName: "z"}, e}}}
	}
	apiKey := func(change func(*auth.APIKeyEntry)) auth.Config {
		k := auth.APIKeyEntry{Prefix: "alk_AAEC", Hash: auth.TokenFromText("x").Hash()}
		change(&k)
		return auth.Config{Auth: auth.Policy{APIKeys: []auth.APIKeyEntry{k}}}
	}
	hash, otherHash, long, control := auth.TokenFromText("t").Hash(), "sha256:XY", strings.Repeat("x", 257), "a\x1b[2J"
	for name, c := range map[string]struct {
		config auth.Config
		want   string // "" = valid
	}{
		"good peer":   {entry(func(*auth.PeerEntry) {}), ""},
		"certificate": {entry(func(e *auth.PeerEntry) { e.Fingerprints = []string{cert} }), ""},
		"no key":      {entry(func(e *auth.PeerEntry) { e.Fingerprints = nil }), ""},
		"bad name":    {entry(func(e *auth.PeerEntry) { e.PeerName = "a/b" }), `auth.peers[1].peer_id (a/b): peer name "a/b" holds other characters`},
		"name twice":  {entry(func(e *auth.PeerEntry) { e.PeerName = "z" }), "auth.peers[1].peer_id (z): the name stands in auth.peers[0] too"},
		"key twice":   {entry(func(e *auth.PeerEntry) { e.Fingerprints = []string{keyB, keyB} }), "auth.peers[1].fingerprints[1] (a): listed in peer a already"},
		"bad key":     {entry(func(e *auth.PeerEntry) { e.Fingerprints = []string{strings.ToUpper(keyB)} }), "auth.peers[1].fingerprints[0] (a): neither"},
		"peer ID as key": {entry(func(e *auth.PeerEntry) {
			e.Fingerprints = []string{"12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"}
		}), "neither"},
		"bad cert":      {entry(func(e *auth.PeerEntry) { e.Fingerprints = []string{cert[:70]} }), "neither"},
		"bad hash":      {entry(func(e *auth.PeerEntry) { e.AuthTokenHash = &otherHash }), "auth.peers[1].auth_token_hash (a): not of the form"},
		"empty scope":   {entry(func(e *auth.PeerEntry) { e.Scopes = []string{"x", ""} }), "auth.peers[1].scopes[1] (a): is empty"},
		"spaced scope":  {entry(func(e *auth.PeerEntry) { e.Scopes = []string{"a b"} }), "white space"},
		"long scope":    {entry(func(e *auth.PeerEntry) { e.Scopes = []string{long} }), "longer than"},
		"empty type":    {entry(func(e *auth.PeerEntry) { e.Resources = map[string][]string{"": {"x"}} }), "is empty"},
		"empty action":  {entry(func(e *auth.PeerEntry) { e.Resources = map[string][]string{"t": {"x", ""}} }), "auth.peers[1].resources.t[1] (a): is empty"},
		"display name":  {entry(func(e *auth.PeerEntry) { e.DisplayName = &control }), "auth.peers[1].display_name (a): holds characters that do not print"},
		"next":          {entry(func(e *auth.PeerEntry) { e.Next = "abc" }), "auth.peers[1].next (a): not of the form"},
		"good API key":  {apiKey(func(*auth.APIKeyEntry) {}), ""},
		"short prefix":  {apiKey(func(k *auth.APIKeyEntry) { k.Prefix = "alk_" }), "auth.api_keys[0].prefix (alk_): is not 5 to 8"},
		"empty prefix":  {apiKey(func(k *auth.APIKeyEntry) { k.Prefix = "" }), "auth.api_keys[0].prefix: is not 5 to 8"},
		"long prefix":   {apiKey(func(k *auth.APIKeyEntry) { k.Prefix = "alk_AAECx" }), "is not 5 to 8"},
		"other prefix":  {apiKey(func(k *auth.APIKeyEntry) { k.Prefix = "tok_AAEC" }), "does not start with alk_"},
		"odd prefix":    {apiKey(func(k *auth.APIKeyEntry) { k.Prefix = "alk_é" }), "other characters"},
		"no hash":       {apiKey(func(k *auth.APIKeyEntry) { k.Hash = "" }), "auth.api_keys[0].hash (alk_AAEC): not of the form"},
		"bad key scope": {apiKey(func(k *auth.APIKeyEntry) { k.Scopes = []string{""} }), "auth.api_keys[0].scopes[0] (alk_AAEC): is empty"},
		"description":   {apiKey(func(k *auth.APIKeyEntry) { k.Description = control }), "do not print"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.config.Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			_, err = auth.NewPeers(&c.config)
			require.ErrorContains(t, err, c.want)
		})
	}

	// One entry only, across peers and API keys.
	both := entry(func(e *auth.PeerEntry) { e.AuthTokenHash = &hash })
	both.Auth.APIKeys = []auth.APIKeyEntry{{Prefix: "alk_AAEC", Hash: hash}}
	require.ErrorContains(t, both.Validate(), "auth.api_keys[0].hash (alk_AAEC): the hash stands in peer a already")
	two := auth.Config{Auth: auth.Policy{Peers: []auth.PeerEntry{{PeerName: "a", Fingerprints: []string{keyA}}, {PeerName: "b", Fingerprints: []string{keyB, keyA}}}}}
	require.ErrorContains(t, two.Validate(), "auth.peers[1].fingerprints[1] (b): listed in peer a already")
}

// Whatever the bytes, a refusal says where, and what is accepted is written
// back as itself.
func FuzzParseConfig(f *testing.F) {
	f.Add(config(f, "full.json"))
	f.Add(config(f, "rotation.json"))
	f.Add([]byte(`{"auth":{"peers":[{"peer_id":"a","peer_id":"b"}]}}`))
	f.Add([]byte(`{"auth":{"peers":[{"peer_id":"a","resources":{"x/y~z":["r",""]}}]}}`))
	f.Add([]byte("{\"rate_limits\":\n{\"max_auth_attempts\":-1}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := auth.ParseConfig(b)
		if err != nil {
			var field *auth.FieldError
			if !errors.As(err, &field) || field.Line < 1 || field.Column < 1 {
				t.Fatalf("no place in %v", err)
			}
			return
		}
		text, err := c.Append(nil)
		require.NoError(t, err)
		again, err := auth.ParseConfig(text)
		require.NoError(t, err, string(text))
		twice, err := again.Append(nil)
		require.NoError(t, err)
		require.Equal(t, string(text), string(twice))
	})
}
