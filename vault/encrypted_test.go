package vault_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

// The frozen format, byte for byte (vault §5).
func TestEncryptedVectors(t *testing.T) {
	vectors := projectVectors(t)
	v := unlocked(t, vault.Config{})
	for _, want := range vectors.Encrypted.Sealed {
		d, err := vault.ParseEncryptedData(want)
		require.NoError(t, err)
		plaintext, err := v.Decrypt(d)
		require.NoError(t, err)
		require.Equal(t, vectors.Encrypted.Plaintext, string(plaintext))

		again := &vault.EncryptedData{KeyVersion: d.KeyVersion, Salt: d.Salt, IV: d.IV}
		require.NoError(t, vault.SealData(v, again, plaintext))
		text, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(want), string(text))
	}
}

func TestEncryptAndDecrypt(t *testing.T) {
	v := unlocked(t, vault.Config{})
	for _, plaintext := range []string{"", "a", "ключ\x00\n", strings.Repeat("x", vault.MaxPlaintext)} {
		d, err := v.Encrypt([]byte(plaintext), 5)
		require.NoError(t, err)
		require.EqualValues(t, 5, d.KeyVersion)
		require.Len(t, d.Salt, 32)
		require.Len(t, d.IV, 12)
		require.Len(t, d.Data, len(plaintext)+16)
		text, err := json.Marshal(d)
		require.NoError(t, err)
		var read vault.EncryptedData
		require.NoError(t, json.Unmarshal(text, &read))
		require.Equal(t, *d, read)
		got, err := v.Decrypt(&read)
		require.NoError(t, err)
		require.Equal(t, plaintext, string(got))

		other, err := v.Encrypt([]byte(plaintext), 5)
		require.NoError(t, err)
		require.NotEqual(t, d.IV, other.IV)
		require.NotEqual(t, d.Salt, other.Salt)
	}
	_, err := v.Encrypt([]byte{0xff}, 2)
	require.ErrorIs(t, err, vault.ErrEncryption)
	_, err = v.Encrypt(make([]byte, vault.MaxPlaintext+1), 2)
	require.ErrorIs(t, err, vault.ErrEncryption)
}

// All that can be wrong with sealed data is one failure.
func TestDecryptFails(t *testing.T) {
	v := unlocked(t, vault.Config{})
	d, err := v.Encrypt([]byte("secret"), 2)
	require.NoError(t, err)
	notText := &vault.EncryptedData{KeyVersion: 2, IV: d.IV}
	require.NoError(t, vault.SealData(v, notText, []byte{0xff}))
	change := func(f func(*vault.EncryptedData)) *vault.EncryptedData {
		c := *d
		c.IV, c.Data = bytes.Clone(d.IV), bytes.Clone(d.Data)
		f(&c)
		return &c
	}
	const want = "encryption error: sealed with another key, or damaged"
	for name, c := range map[string]*vault.EncryptedData{
		"nil":           nil,
		"zero":          {KeyVersion: 2},
		"other version": change(func(c *vault.EncryptedData) { c.KeyVersion = 3 }),
		"nonce":         change(func(c *vault.EncryptedData) { c.IV[0] ^= 1 }),
		"short nonce":   change(func(c *vault.EncryptedData) { c.IV = c.IV[:11] }),
		"long nonce":    change(func(c *vault.EncryptedData) { c.IV = make([]byte, 16) }),
		"ciphertext":    change(func(c *vault.EncryptedData) { c.Data[0] ^= 1 }),
		"tag":           change(func(c *vault.EncryptedData) { c.Data[len(c.Data)-1] ^= 1 }),
		"short":         change(func(c *vault.EncryptedData) { c.Data = c.Data[:15] }),
		"no data":       change(func(c *vault.EncryptedData) { c.Data = nil }),
		"not UTF-8":     notText,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.Decrypt(c)
			require.EqualError(t, err, want)
			require.ErrorIs(t, err, vault.ErrEncryption)
			_, err = v.Rotate(c, 2)
			require.EqualError(t, err, want)
		})
	}
	other := locked(t, vault.Config{})
	require.NoError(t, other.Unlock(parse(t, about), []byte("another")))
	_, err = other.Decrypt(d)
	require.EqualError(t, err, want)

	saltless := change(func(c *vault.EncryptedData) { c.Salt = nil })
	plaintext, err := v.Decrypt(saltless)
	require.NoError(t, err, "the salt has no use")
	require.Equal(t, "secret", string(plaintext))
}

func TestRotate(t *testing.T) {
	v := unlocked(t, vault.Config{})
	old, err := v.Encrypt([]byte("secret"), 2)
	require.NoError(t, err)
	for _, version := range []uint32{2, 3, 2147483649} {
		d, err := v.Rotate(old, version)
		require.NoError(t, err)
		require.Equal(t, version, d.KeyVersion)
		require.NotEqual(t, old.IV, d.IV)
		require.NotEqual(t, old.Salt, d.Salt)
		for _, sealed := range []*vault.EncryptedData{d, old} {
			plaintext, err := v.Decrypt(sealed)
			require.NoError(t, err)
			require.Equal(t, "secret", string(plaintext))
		}
	}
	_, err = v.Rotate(old, 1)
	require.ErrorIs(t, err, vault.ErrInvalidPath)
	_, err = v.Rotate(&vault.EncryptedData{KeyVersion: 1}, 2)
	require.ErrorIs(t, err, vault.ErrInvalidPath)
}

// A rotation has both keys of one seed, or none: no lock comes between.
func TestRotateWhileLocking(t *testing.T) {
	v := unlocked(t, vault.Config{CacheSize: -1})
	m := parse(t, about)
	d, err := v.Encrypt([]byte("secret"), 2)
	require.NoError(t, err)
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range 100 {
				rotated, err := v.Rotate(d, 3)
				if err == nil {
					assert.EqualValues(t, 3, rotated.KeyVersion)
				} else {
					assert.ErrorIs(t, err, vault.ErrLocked)
				}
			}
		})
	}
	users.Go(func() {
		for range 10 {
			v.Lock()
			assert.NoError(t, v.Unlock(m, nil))
		}
	})
	users.Wait()
}

func TestParseEncryptedData(t *testing.T) {
	good := string(projectVectors(t).Encrypted.Sealed[0])
	replace := func(old, with string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, with, 1)
	}
	want, err := vault.ParseEncryptedData([]byte(good))
	require.NoError(t, err)
	require.Equal(t, "000102030405060708090a0b", hex.EncodeToString(want.IV))
	for name, text := range map[string]string{
		"white space":     " \n" + strings.ReplaceAll(good, ",", " ,\t") + "\r\n",
		"later member":    replace(`{`, `{"kdf":{"data":[1]},`),
		"escaped":         replace(`"iv":"A`, `"\u0069v":"\u0041`),
		"other order":     `{` + replace(`{"key_version":2,`, ``)[0:len(good)-len(`{"key_version":2,`)-1] + `,"key_version":2}`,
		"an empty salt":   replace(`"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="`, `""`),
		"version 1":       replace(`:2`, `:1`),
		"largest version": replace(`:2`, `:4294967295`),
	} {
		t.Run(name, func(t *testing.T) {
			d, err := vault.ParseEncryptedData([]byte(text))
			require.NoError(t, err)
			require.Equal(t, want.Data, d.Data)
		})
	}
	for name, text := range map[string]string{
		"empty":             "",
		"null":              "null",
		"a list":            "[]",
		"no members":        "{}",
		"cut":               good[:len(good)-1],
		"two values":        good + good,
		"twice":             replace(`{`, `{"data":"AA==",`),
		"twice, escaped":    replace(`{`, `{"d\u0061ta":"AA==",`),
		"other case":        replace(`"iv"`, `"IV"`),
		"their name":        replace(`key_version`, `keyVersion`),
		"no salt":           replace(`"salt":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",`, ``),
		"null salt":         replace(`"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="`, `null`),
		"version as text":   replace(`:2`, `:"2"`),
		"negative version":  replace(`:2`, `:-2`),
		"fraction":          replace(`:2`, `:2.5`),
		"version too large": replace(`:2`, `:4294967296`),
		"line feed":         replace(`"AAECAwQFBgcICQoL"`, `"AAECAwQF\nBgcICQoL"`),
		"carriage return":   replace(`"AAECAwQFBgcICQoL"`, `"AAECAwQFBgcICQoL\r"`),
		"no padding":        replace(`HR8=`[0:0]+`Hh8=`, `Hh8`),
		"loose last bits":   replace(`Hh8=`, `Hh9=`),
		"URL alphabet":      replace(`Z4F3`, `Z4_3`),
		"nonce of 11":       replace(`AAECAwQFBgcICQoL`+`"`, `AAECAwQFBgcICQo=`+`"`),
		"nonce of 15":       replace(`AAECAwQFBgcICQoL`+`"`, `AAECAwQFBgcICQoLAAEC`+`"`),
		"data of 15":        replace(`Z4F3fEjAeG4p59emk9Q0nxaGNSxkFIgvIPupQRVajeqGi2ss`, `AAECAwQFBgcICQoLDA0O`),
		"too large":         replace(`{`, `{"x":"`+strings.Repeat("x", 128<<10)+`",`),
	} {
		t.Run(name, func(t *testing.T) {
			d, err := vault.ParseEncryptedData([]byte(text))
			require.ErrorIs(t, err, vault.ErrEncryption)
			require.Nil(t, d)
			require.Less(t, len(err.Error()), 150)
			if json.Valid([]byte(text)) {
				require.ErrorIs(t, json.Unmarshal([]byte(text), new(vault.EncryptedData)), vault.ErrEncryption)
			}
		})
	}
}

func FuzzParseEncryptedData(f *testing.F) {
	v := unlocked(f, vault.Config{})
	for _, sealed := range projectVectors(f).Encrypted.Sealed {
		f.Add([]byte(sealed))
		f.Add(bytes.Replace(sealed, []byte(`{`), []byte(`{"later":{"iv":1},`), 1))
		f.Add(bytes.Replace(sealed, []byte(`"data"`), []byte(`"iv"`), 1))
	}
	f.Add([]byte(`{"key_version":4294967295,"salt":"","iv":"AAECAwQFBgcICQoL","data":"AAECAwQFBgcICQoLDA0ODw=="}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := vault.ParseEncryptedData(text)
		if err != nil {
			require.ErrorIs(t, err, vault.ErrEncryption)
			return
		}
		encoded, err := json.Marshal(d)
		require.NoError(t, err)
		again, err := vault.ParseEncryptedData(encoded)
		require.NoError(t, err)
		require.Equal(t, d, again)
		if _, err := v.Decrypt(d); err != nil {
			require.True(t, oneOf(err, vault.ErrEncryption, vault.ErrInvalidPath))
		}
	})
}
