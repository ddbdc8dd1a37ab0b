package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	samplePayload = `{"format":"alknet-vault/1","mnemonic":"` + about + `","bip39_passphrase":false,"profile":"slip10",` +
		`"identity":"ed25519:e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc","device":0,"generation":0,"created":"2026-11-24T12:00:00Z"}` + "\n"
	sampleInfo = `{"identity":"ed25519:e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc",` +
		`"peer_id":"12D3KooWRQEJLrVRqJc1bRCiNQ7uMMFn2YeMjJWqX9raYnUQhkR1","key_version":2,"device":0,"generation":0}` + "\n"
)

func TestPayloadRoundTrip(t *testing.T) {
	p, err := decodePayload([]byte(samplePayload))
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), p.created)
	data, err := p.encode()
	require.NoError(t, err)
	require.Equal(t, samplePayload, string(data))
	require.Equal(t, maxPayload, cap(data), "never grown, so no copy is left behind")

	p.phrase.Wipe()
	_, err = p.encode()
	require.ErrorIs(t, err, ErrWiped)
}

func FuzzDecodePayload(f *testing.F) {
	f.Add([]byte(samplePayload))
	f.Add(bytes.Replace([]byte(samplePayload), []byte(`{`), []byte(`{"later":{"a":[1,":"]},"q\"":null,`), 1))
	f.Add(bytes.Replace([]byte(samplePayload), []byte(`"device":0`), []byte(`"device":0,"devic\u0065":1`), 1))
	f.Add(bytes.Replace([]byte(samplePayload), []byte("/1"), []byte("/2"), 1))
	f.Add(bytes.Replace([]byte(samplePayload), []byte(`abandon abandon`), []byte(`abandon\u0020abandon`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePayload(data)
		if err != nil {
			require.Nil(t, p)
			return
		}
		encoded, err := p.encode()
		require.NoError(t, err)
		again, err := decodePayload(encoded)
		require.NoError(t, err)
		encodedAgain, err := again.encode()
		require.NoError(t, err)
		require.Equal(t, encoded, encodedAgain)
	})
}

func FuzzDecodeInfo(f *testing.F) {
	f.Add([]byte(sampleInfo))
	f.Add([]byte(`{"identity":"ed25519:","peer_id":"12D3KooW","key_version":1,"device":-1,"generation":4294967296}`))
	f.Add(bytes.Replace([]byte(sampleInfo), []byte(`{`), []byte(`{"device":{":":[{}]},`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := decodeInfo(data)
		if err != nil {
			require.Zero(t, info)
			return
		}
		encoded, err := info.encode()
		require.NoError(t, err)
		again, err := decodeInfo(encoded)
		require.NoError(t, err)
		require.Equal(t, info, again)
	})
}

// The count of members must be encoding/json's, or a duplicate would pass.
func FuzzCountMembers(f *testing.F) {
	f.Add([]byte(samplePayload))
	f.Add([]byte(` { "a\\" : { "b" : [ { "c:" : 1 } ] } , "\"d" : "{:" } `))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o map[string]json.RawMessage
		if json.Unmarshal(data, &o) != nil || o == nil {
			return
		}
		decoder := json.NewDecoder(bytes.NewReader(data))
		_, err := decoder.Token()
		require.NoError(t, err)
		members := 0
		for decoder.More() {
			_, err = decoder.Token()
			require.NoError(t, err)
			require.NoError(t, decoder.Decode(new(json.RawMessage)))
			members++
		}
		require.Equal(t, members, countMembers(data))
	})
}

func FuzzUnseal(f *testing.F) {
	const workFactor = 4
	passphrase := []byte("x")
	sealed, err := seal([]byte(samplePayload), passphrase, workFactor)
	require.NoError(f, err)
	f.Add(sealed)
	f.Add(sealed[:len(sealed)-1])
	f.Add(bytes.Replace(sealed, []byte(" 4\n"), []byte(" 30\n"), 1))
	for _, name := range []string{"testdata/stock-age.age", "testdata/format1/vault.age"} {
		data, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte("age-encryption.org/v1\n-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\nEmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U\n--- Vn+54jqiiUCE+WZcEVY3f1sqHjlu/z1LCQ/T7Xm7qI0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, _, err := unseal(data, passphrase, workFactor)
		if err != nil {
			require.Nil(t, plain)
			require.True(t, errors.Is(err, ErrCorruptFile) || errors.Is(err, ErrWrongPassphrase) || errors.Is(err, ErrWorkFactor))
			return
		}
		require.LessOrEqual(t, len(plain), maxPayload)
	})
}
