package auth_test

import (
	stdjson "encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

func TestNODE21NewToken(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		tok := auth.NewToken()
		require.Regexp(t, `^alk_[A-Za-z0-9_-]{43}$`, tok.Reveal())
		require.Equal(t, tok.Reveal()[:8], tok.Prefix())
		require.False(t, seen[tok.Reveal()])
		seen[tok.Reveal()] = true
	}
}

func TestNODE21Hash(t *testing.T) {
	// SHA-256 of "abc", FIPS 180-2.
	require.Equal(t, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", auth.TokenFromText("abc").Hash())
	require.Empty(t, auth.Token{}.Hash())
	require.Empty(t, auth.Token{}.Reveal())
	require.True(t, auth.Token{}.IsZero())
	require.True(t, auth.TokenFromText("").IsZero())
	require.False(t, auth.TokenFromText("x").IsZero())
}

func TestNODE23Prefix(t *testing.T) {
	for text, want := range map[string]string{"": "", "alk_": "", "alk_AAE": "", "alk_AAEC": "alk_AAEC", "alk_AAECsecret": "alk_AAEC", "a password": ""} {
		require.Equal(t, want, auth.TokenFromText(text).Prefix())
	}
}

// A token shows nowhere, not even through a printer that walks values.
func TestTokenRedacts(t *testing.T) {
	const secret = "alk_AAECtopsecretvalue"
	tok := auth.TokenFromText(secret)
	type holder struct {
		T auth.Token
		P *auth.Token
	}
	values := []any{tok, &tok, holder{tok, &tok}, &holder{tok, &tok}, []auth.Token{tok}, map[string]auth.Token{"t": tok}}
	var out strings.Builder
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("x", "v", v)
		}
		for _, marshal := range []func(any) ([]byte, error){stdjson.Marshal, func(v any) ([]byte, error) { return json.Marshal(v) }} {
			b, err := marshal(v)
			require.Error(t, err)
			out.Write(b)
			out.WriteString(err.Error())
		}
	}
	out.WriteString(tok.String() + tok.GoString())
	for _, shown := range []string{secret, "topsecret", fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret)} {
		require.NotContains(t, out.String(), shown)
	}
	_, err := tok.MarshalText()
	require.Error(t, err)
}
