package auth_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

func peersFrom(t *testing.T, name string) (*auth.Peers, *auth.Config) {
	t.Helper()
	c, err := auth.ParseConfig(config(t, name))
	require.NoError(t, err)
	p, err := auth.NewPeers(c)
	require.NoError(t, err)
	return p, c
}

// NODE-26: while a key is rotated both are listed and either resolves to the
// same peer with the same rights.
func TestNODE26Rotation(t *testing.T) {
	p, c := peersFrom(t, "rotation.json")
	for _, key := range []string{keyA, keyB} {
		id, ok := p.ResolveFromFingerprint(key)
		require.True(t, ok)
		require.Equal(t, auth.Identity{ID: "worker-a", Scopes: []string{"fs:read"}, Resources: map[string][]string{"service": {"read"}}}, id)
		name, ok := p.NameOf(key)
		require.True(t, ok)
		require.Equal(t, auth.PeerName("worker-a"), name)
	}
	c.Auth.Peers[0].Fingerprints = []string{keyB}
	require.NoError(t, p.Reload(c))
	_, ok := p.ResolveFromFingerprint(keyA)
	require.False(t, ok)
	_, ok = p.NameOf(keyA)
	require.False(t, ok)
	_, ok = p.ResolveFromFingerprint(keyB)
	require.True(t, ok)
	_, ok = p.ResolveFromFingerprint("")
	require.False(t, ok)
}

func TestPeersByName(t *testing.T) {
	p, _ := peersFrom(t, "rotation.json")
	e, ok := p.ByName("worker-a")
	require.True(t, ok)
	require.Equal(t, []string{keyA, keyB}, e.Fingerprints, "in the order to dial them")
	off, ok := p.ByName("worker-off")
	require.True(t, ok)
	require.False(t, off.Enabled)
	_, ok = p.NameOf(off.Fingerprints[0])
	require.False(t, ok)
	_, ok = p.ResolveFromFingerprint(off.Fingerprints[0])
	require.False(t, ok)
	_, ok = p.ByName("nobody")
	require.False(t, ok)
}

func TestNODE22Tokens(t *testing.T) {
	p, _ := peersFrom(t, "rotation.json")
	for text, want := range map[string]string{
		"any text will do":      "worker-a", // a peer's token needs no form
		"alk_OFFxyz":            "",         // a disabled peer's (NODE-24)
		"alk_AAEC first":        "alk_AAEC",
		"alk_AAEC second":       "alk_AAEC", // the same prefix, another entry
		"alk_AAEC third":        "",
		"alk_BBB short prefix":  "alk_BBB",
		"alk_CCCC other prefix": "", // the hash is there, under another prefix
		"AAEC without the mark": "",
		"alk_DDDD has expired":  "",
		"":                      "",
		"alk_":                  "",
		"alk_AAE":               "",
		"any text will do\x00":  "",
	} {
		id, ok := p.ResolveFromToken(auth.TokenFromText(text))
		require.Equal(t, want != "", ok, text)
		require.Equal(t, want, id.ID, text)
	}
	id, _ := p.ResolveFromToken(auth.TokenFromText("alk_AAEC second"))
	require.Equal(t, []string{"second"}, id.Scopes)
	require.NotNil(t, id.Resources)
	require.Empty(t, id.Resources, "an API key has no resources")
	_, ok := p.ResolveFromToken(auth.Token{})
	require.False(t, ok)
}

// NODE-22: a key is void from the second it expires.
func TestNODE22Expiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := uint64(time.Now().Unix()) + 10
		tok := auth.NewToken()
		p, err := auth.NewPeers(&auth.Config{Auth: auth.Policy{APIKeys: []auth.APIKeyEntry{{Prefix: tok.Prefix(), Hash: tok.Hash(), ExpiresAt: &at}}}})
		require.NoError(t, err)
		time.Sleep(10*time.Second - time.Nanosecond)
		_, ok := p.ResolveFromToken(tok)
		require.True(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = p.ResolveFromToken(tok)
		require.False(t, ok)
	})
}

// NODE-27, 35: an invalid reload is refused whole; snapshots are never changed.
func TestNODE35Reload(t *testing.T) {
	p, c := peersFrom(t, "rotation.json")
	before := p.Config()
	bad := c.Clone()
	bad.Auth.Peers[0].Scopes = []string{"admin"}
	bad.Auth.Peers[1].PeerName = ""
	require.ErrorContains(t, p.Reload(bad), "auth.peers[1].peer_id")
	id, _ := p.ResolveFromFingerprint(keyA)
	require.Equal(t, []string{"fs:read"}, id.Scopes)

	// Neither what was given nor what is returned reaches the registry.
	c.Auth.Peers[0].Scopes[0] = "changed"
	id.Scopes[0], id.Resources["service"][0] = "changed", "changed"
	e, _ := p.ByName("worker-a")
	e.Scopes[0], e.Resources["service"][0], e.Fingerprints[0] = "changed", "changed", "changed"
	p.Config().Auth.Peers[0].Scopes[0] = "changed"
	again, ok := p.ResolveFromFingerprint(keyA)
	require.True(t, ok)
	require.Equal(t, []string{"fs:read"}, again.Scopes)
	require.Equal(t, "read", again.Resources["service"][0])

	require.NoError(t, p.Reload(new(auth.Config)))
	require.Empty(t, p.Config().Auth.Peers)
	require.Len(t, before.Auth.Peers, 2)
}

func TestPeersConcurrently(t *testing.T) {
	p, c := peersFrom(t, "rotation.json")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				if id, ok := p.ResolveFromFingerprint(keyA); !ok || id.ID != "worker-a" {
					t.Error("the peer was lost in a reload")
				}
				p.ResolveFromToken(auth.TokenFromText("alk_AAEC first"))
			}
		})
		all.Go(func() {
			for range 50 {
				if err := p.Reload(c); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestNewPeersWithoutConfig(t *testing.T) {
	p, err := auth.NewPeers(nil)
	require.NoError(t, err)
	_, ok := p.ResolveFromFingerprint(keyA)
	require.False(t, ok)
}

// ADR 6: a key that was handed over is the peer until its time is up.
func TestKeysEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := "ed25519:"+strings.Repeat("1", 64), "ed25519:"+strings.Repeat("2", 64)
		end := time.Now().Add(time.Hour)
		entry := auth.PeerEntry{
			PeerName: "a", Fingerprints: []string{fresh, old}, Enabled: true, Until: map[string]uint64{old: uint64(end.Unix())},
		}
		peers, err := auth.NewPeers(&auth.Config{Auth: auth.Policy{Peers: []auth.PeerEntry{entry}}})
		require.NoError(t, err)
		at, ok := peers.NextEnd(time.Now())
		require.True(t, ok)
		require.Equal(t, end.Unix(), at.Unix())
		for _, fp := range []string{old, fresh} {
			id, ok := peers.ResolveFromFingerprint(fp)
			require.True(t, ok)
			require.Equal(t, "a", id.ID)
		}
		time.Sleep(time.Until(at))
		_, ok = peers.ResolveFromFingerprint(old)
		require.False(t, ok)
		_, ok = peers.NameOf(old)
		require.False(t, ok)
		_, ok = peers.ResolveFromFingerprint(fresh)
		require.True(t, ok)
		_, ok = peers.NextEnd(time.Now())
		require.False(t, ok)
	})
}
