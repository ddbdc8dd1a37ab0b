package vault_test

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

// renderings prints v in every way that a program does by accident.
func renderings(v any) []string {
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%t"} {
		out = append(out, fmt.Sprintf(verb, v))
	}
	out = append(out, fmt.Sprint(v), fmt.Sprintln(v))
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
	out = append(out, log.String())
	if data, err := json.Marshal(v); err == nil {
		out = append(out, string(data))
	}
	if data, err := jsonv2.Marshal(v); err == nil {
		out = append(out, string(data))
	}
	return out
}

// spellings are the ways in which the first bytes of a secret may show.
func spellings(secret []byte) []string {
	s := secret[:4]
	return []string{
		string(s), hex.EncodeToString(s), strings.ToUpper(hex.EncodeToString(s)), fmt.Sprintf("% x", s), fmt.Sprintf("% X", s),
		fmt.Sprintf("%d %d %d %d", s[0], s[1], s[2], s[3]), fmt.Sprintf("%d,%d,%d,%d", s[0], s[1], s[2], s[3]),
		fmt.Sprintf("%#x, %#x, %#x", s[0], s[1], s[2]), fmt.Sprintf("%b %b", s[0], s[1]), fmt.Sprintf("%o %o", s[0], s[1]),
		base64.StdEncoding.EncodeToString(secret[:3]), fmt.Sprintf("%U %U", s[0], s[1]), fmt.Sprintf("%q", s),
	}
}

// bytesWithin looks for secret in everything that can be reached from v by
// reflection, as printers that follow pointers do.
func bytesWithin(v reflect.Value, secret []byte, seen map[uintptr]bool) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Map:
		if v.IsNil() || seen[v.Pointer()] {
			return false
		}
		seen[v.Pointer()] = true
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return bytesWithin(v.Elem(), secret, seen)
	case reflect.Struct:
		for _, field := range v.Fields() {
			if bytesWithin(field, secret, seen) {
				return true
			}
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			if bytesWithin(entries.Key(), secret, seen) || bytesWithin(entries.Value(), secret, seen) {
				return true
			}
		}
	case reflect.String:
		return strings.Contains(v.String(), string(secret))
	case reflect.Slice, reflect.Array:
		var b []byte
		for i := range v.Len() {
			if v.Index(i).Kind() == reflect.Uint8 {
				b = append(b, byte(v.Index(i).Uint()))
			} else if bytesWithin(v.Index(i), secret, seen) {
				return true
			}
		}
		return bytes.Contains(b, secret)
	}
	return false
}

func TestBytesWithinFinds(t *testing.T) {
	type inner struct{ b any }
	secret := []byte("secret bytes")
	for _, v := range []any{secret, &inner{secret}, []inner{{}, {string(secret)}}, map[string]*inner{"k": {&secret}}, [12]byte(secret)} {
		require.True(t, bytesWithin(reflect.ValueOf(v), secret, make(map[uintptr]bool)), "%T", v)
	}
}

func TestRedaction(t *testing.T) {
	m := parse(t, about)
	v := unlocked(t, vault.Config{})
	key, err := v.IdentityKey()
	require.NoError(t, err)
	signer, err := v.Signer(vault.Identity)
	require.NoError(t, err)
	var private []byte
	require.NoError(t, key.Use(func(b []byte) { private = bytes.Clone(b) }))
	seed, err := hex.DecodeString("5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc19a5ac40b389cd370d086206dec8aa6c43daea6690f20ad3d8d48b2d2ce9e38e4")
	require.NoError(t, err)
	aes, err := v.DeriveEncryptionKeyForVersion(2)
	require.NoError(t, err)
	ethereum, err := v.DeriveEthereumKey(vault.Ethereum)
	require.NoError(t, err)
	old := legacy(t, "", false)
	kit := &vault.Kit{Mnemonic: m, Profile: "slip10"}
	options := vault.FileOptions{BIP39Passphrase: []byte("hunter2hunter2")}
	secrets := [][]byte{[]byte(about), private, seed, rawPrivate(t, aes), rawPrivate(t, ethereum), options.BIP39Passphrase}

	type unexported struct {
		m       *vault.Mnemonic
		mValue  vault.Mnemonic
		k       *vault.DerivedKey
		kValue  vault.DerivedKey
		v       *vault.Vault
		options vault.FileOptions
	}
	type exported struct {
		M *vault.Mnemonic
		K vault.DerivedKey
	}
	holder := unexported{m, *m, key, *key, v, options}
	subjects := map[string]any{
		"mnemonic": m, "mnemonic value": *m, "key": key, "key value": *key, "vault": v, "signer": signer,
		"options": options, "options pointer": &options,
		"AES key": aes, "Ethereum key": *ethereum, "legacy": old, "legacy value": *old, "kit": kit, "kit value": *kit,
		"unexported": holder, "unexported pointer": &holder, "exported": exported{m, *key},
		"slice": []any{m, key, *m, *key}, "map": map[string]any{"m": m, "k": *key},
	}
	for name, subject := range subjects {
		t.Run(name, func(t *testing.T) {
			for _, text := range renderings(subject) {
				for i, secret := range secrets {
					if i == len(secrets)-1 && strings.HasPrefix(name, "unexported") {
						continue // plain bytes that the caller put in a field that fmt prints
					}
					for _, spelling := range spellings(secret) {
						require.NotContains(t, text, spelling)
					}
				}
			}
			for _, secret := range secrets[:len(secrets)-1] {
				require.False(t, bytesWithin(reflect.ValueOf(subject), secret, make(map[uintptr]bool)))
			}
		})
	}
	for _, subject := range []any{m, *m, key, *key, options, aes, *ethereum, old, *old} {
		for _, text := range renderings(subject) {
			require.Contains(t, text, "[REDACTED]")
		}
	}
	public := hex.EncodeToString(key.Public)
	require.Equal(t, "Ed25519{private:[REDACTED] public:"+public+"}", fmt.Sprint(key))
}

func TestMarshalling(t *testing.T) {
	m := parse(t, about)
	v := unlocked(t, vault.Config{})
	key, err := v.IdentityKey()
	require.NoError(t, err)

	data, err := json.Marshal(key)
	require.NoError(t, err)
	list := strings.ReplaceAll(strings.Trim(fmt.Sprint(key.Public), "[]"), " ", ",")
	require.Equal(t, `{"key_type":"Ed25519","private_key":"[REDACTED]","public_key":[`+list+`]}`, string(data))
	require.ErrorContains(t, json.Unmarshal(data, new(vault.DerivedKey)), "redacted")
	data, err = json.Marshal(m)
	require.NoError(t, err)
	require.Equal(t, `"[REDACTED]"`, string(data))
	require.ErrorContains(t, json.Unmarshal(data, new(vault.Mnemonic)), "redacted")
	require.Error(t, json.Unmarshal([]byte(`{"key_type":"Ed25519","private_key":[1]}`), new(vault.DerivedKey)))

	type cborMarshaler interface{ MarshalCBOR() ([]byte, error) }
	type cborUnmarshaler interface{ UnmarshalCBOR([]byte) error }
	aes, err := v.DeriveEncryptionKeyForVersion(2)
	require.NoError(t, err)
	data, err = json.Marshal(aes)
	require.NoError(t, err)
	require.Equal(t, `{"key_type":"Aes256Gcm","private_key":"[REDACTED]","public_key":[]}`, string(data))
	for _, secret := range []any{m, key, aes, legacy(t, "", false), &vault.FileOptions{}} {
		_, err := secret.(encoding.BinaryMarshaler).MarshalBinary()
		require.Error(t, err)
		_, err = secret.(cborMarshaler).MarshalCBOR()
		require.Error(t, err)
		require.Error(t, gob.NewEncoder(new(bytes.Buffer)).Encode(secret))
		require.Error(t, secret.(encoding.BinaryUnmarshaler).UnmarshalBinary(nil))
		require.Error(t, secret.(encoding.TextUnmarshaler).UnmarshalText([]byte("[REDACTED]")))
		require.Error(t, secret.(cborUnmarshaler).UnmarshalCBOR(nil))
		require.Error(t, secret.(gob.GobDecoder).GobDecode(nil))
	}
}

func rawPrivate(t *testing.T, k *vault.DerivedKey) (private []byte) {
	t.Helper()
	require.NoError(t, k.Use(func(b []byte) { private = bytes.Clone(b) }))
	return private
}
