package vault

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

const sampleStore = `{"format":"alknet-credentials/1","min_version":2,"credentials":{
"api_key:github":{"key_version":2,"salt":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","iv":"AAECAwQFBgcICQoL","data":"Z4F3fEjAeG4p59emk9Q0nxaGNSxkFIgvIPupQRVajeqGi2ss"},
"b":{"later":[1]}}}
`

func FuzzDecodeCredentials(f *testing.F) {
	f.Add([]byte(sampleStore))
	f.Add([]byte(`{"format":"alknet-credentials/1","min_version":2,"credentials":{}}`))
	f.Add([]byte(`{"format":"alknet-credentials/1","min_version":3,"credentials":{"a":1,"\u0061":2}}`))
	f.Add([]byte(`{"Format":"alknet-credentials/1","min_version":3,"credentials":{"a":{"iv":":"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCredentials(data)
		if err != nil {
			require.Nil(t, c)
			return
		}
		again, err := decodeCredentials(c.encode())
		require.NoError(t, err)
		require.Equal(t, c, again)
		require.LessOrEqual(t, c.below(3), len(c.names()))
	})
}

// unquote must read strings as encoding/json does.
func FuzzUnquote(f *testing.F) {
	for _, seed := range []string{`""`, `"a\"\\\/\b\f\n\r\t\u0000é"`, `"\ud83d\udd11"`, `"\ud83d"`, `"\udd11\ud83d\u0041"`, `"\ud83d\ud83d\udd11"`, `1`, `null`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want string
		if len(raw) == 0 || (raw[0] != '"' && json.Valid(raw)) {
			_, ok := unquote(raw)
			require.False(t, ok)
			return
		}
		if raw[0] != '"' || json.Unmarshal(raw, &want) != nil || raw[len(raw)-1] != '"' {
			return
		}
		got, ok := unquote(raw)
		require.True(t, ok)
		if string(got) != want { // not UTF-8, which is never unsealed
			require.NotEqual(t, want, string(raw[1:len(raw)-1]))
			require.Contains(t, want, "\ufffd")
		}
	})
}

func FuzzNamedSecret(f *testing.F) {
	f.Add("secret")
	f.Add("\"\\\n\x00\u2028")
	f.Fuzz(func(t *testing.T, secret string) {
		plaintext := namedSecret("n", []byte(secret))
		if !json.Valid(plaintext) {
			t.Fatalf("%q is no JSON", plaintext)
		}
		got, err := secretNamed("n", plaintext)
		require.NoError(t, err)
		require.Equal(t, secret, string(got))
	})
}
