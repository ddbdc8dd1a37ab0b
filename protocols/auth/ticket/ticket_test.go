package ticket_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
)

// vectors is testdata/tickets.json.
type vectors struct {
	Valid []struct {
		Seed     string   `json:"seed"`
		Network  string   `json:"network"`
		Audience string   `json:"audience"`
		ID       string   `json:"id"`
		Expires  int64    `json:"expires"`
		Flags    int      `json:"flags"`
		Scopes   []string `json:"scopes"`
		Only     []string `json:"only"`
		Body     string   `json:"body"`
		Text     string   `json:"text"`
	} `json:"valid"`
	Invalid []struct {
		Why   string `json:"why"`
		Text  string `json:"text"`
		Error string `json:"error"`
	} `json:"invalid"`
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	text, err := os.ReadFile("testdata/tickets.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &v))
	require.NotEmpty(t, v.Valid)
	require.NotEmpty(t, v.Invalid)
	return v
}

func TestVectors(t *testing.T) {
	v := readVectors(t)
	for _, c := range v.Valid {
		got, err := ticket.Parse(auth.TokenFromText(c.Text))
		require.NoError(t, err, c.Text)
		require.Equal(t, c.ID, got.ID.String())
		require.Equal(t, c.Audience, hex.EncodeToString(got.Audience))
		require.Equal(t, c.Network, got.Network)
		require.Equal(t, c.Scopes, got.Scopes)
		require.Equal(t, c.Only, got.Only)
		require.Equal(t, c.Expires, got.Expires.Unix())
		require.Equal(t, c.Flags, b2i(got.Once)+2*b2i(got.Bearer))
		require.LessOrEqual(t, len(c.Text), ticket.MaxText)

		// Signed again with the same id the text is the same.
		seed, err := hex.DecodeString(c.Seed)
		require.NoError(t, err)
		require.Equal(t, c.Text, ticket.Seal(ed25519.NewKeyFromSeed(seed), got), "the encoding")
	}
	for _, c := range v.Invalid {
		_, err := ticket.Parse(auth.TokenFromText(c.Text))
		require.ErrorIs(t, err, map[string]error{"malformed": ticket.ErrMalformed, "forged": ticket.ErrForged}[c.Error], c.Why)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return key
}

func TestSignRefuses(t *testing.T) {
	key := newKey(t)
	good := ticket.Terms{Network: "main", Only: []string{"disk/free"}, Expires: time.Now().Add(time.Hour)}
	first, token, err := ticket.Sign(key, good)
	require.NoError(t, err)
	require.True(t, ticket.Is(token))
	second, _, err := ticket.Sign(key, good)
	require.NoError(t, err)
	require.NotEqual(t, first.ID, second.ID)

	for why, change := range map[string]func(*ticket.Terms){
		"network name":        func(c *ticket.Terms) { c.Network = "" },
		"expires":             func(c *ticket.Terms) { c.Expires = time.Time{} },
		"opens no operation":  func(c *ticket.Terms) { c.Only = nil },
		"stands twice":        func(c *ticket.Terms) { c.Scopes = []string{"a", "a"} },
		"white space":         func(c *ticket.Terms) { c.Scopes = []string{"a b"} },
		"more than 620 bytes": func(c *ticket.Terms) { c.Only = []string{strings.Repeat("a", 255), strings.Repeat("b", 255)} },
		"longer than":         func(c *ticket.Terms) { c.Only = []string{strings.Repeat("a", 256)} },
		"more than 32":        func(c *ticket.Terms) { c.Only = strings.Fields(strings.Repeat("a ", 33)) },
	} {
		terms := good
		change(&terms)
		_, _, err := ticket.Sign(key, terms)
		require.ErrorContains(t, err, why)
	}
	_, _, err = ticket.Sign(key[:5], good)
	require.Error(t, err)
}

// Whatever the text, what is accepted is spelt this way only and was signed by
// the key it names.
func FuzzParse(f *testing.F) {
	v := readVectors(f)
	for _, c := range v.Valid {
		f.Add(c.Text)
	}
	for _, c := range v.Invalid {
		f.Add(c.Text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ticket.Parse(auth.TokenFromText(text))
		if err != nil {
			return
		}
		body, signature := ticket.Split(t, text)
		again, err := ticket.Body(got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, again))
		require.True(t, ed25519.Verify(got.Audience, append([]byte("alknet-ticket"), body...), signature))
	})
}

// Past the signature: each body that is accepted is the one encoding of its ticket.
func FuzzDecode(f *testing.F) {
	for _, c := range readVectors(f).Valid {
		body, err := hex.DecodeString(c.Body)
		require.NoError(f, err)
		f.Add(body)
		f.Add(body[:len(body)-1])
		f.Add(append(body, 0))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ticket.Decode(body)
		if err != nil {
			require.ErrorIs(t, err, ticket.ErrMalformed)
			return
		}
		again, err := ticket.Body(got)
		require.NoError(t, err)
		require.Equal(t, body, again)
	})
}

// FuzzParseLedger: what is accepted is written back as itself.
func FuzzParseLedger(f *testing.F) {
	f.Add([]byte(`{"tickets":[]}`))
	f.Add([]byte(`{"tickets":[{"id":"000102030405060708090a0b0c0d0e0f","scopes":["a"],"only":["b"],"once":true,"created_at":1,"expires_at":2,"note":"n","bound_to":"ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a","used_at":2,"revoked":true}]}`))
	f.Add([]byte(`{"tickets":[{"id":"000102030405060708090a0b0c0d0e0f","expires_at":2},{"id":"000102030405060708090a0b0c0d0e0f","expires_at":2}]}`))
	f.Add([]byte(`{"tickets":[{"id":"0","expires_at":-2}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ticket.ParseLedger(b)
		if err != nil {
			return
		}
		text, err := l.Append(nil)
		require.NoError(t, err)
		again, err := ticket.ParseLedger(text)
		require.NoError(t, err, string(text))
		twice, err := again.Append(nil)
		require.NoError(t, err)
		require.Equal(t, string(text), string(twice))
	})
}
