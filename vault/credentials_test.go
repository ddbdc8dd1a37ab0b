package vault_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

// store is a home with a vault, open, and its credentials.
func store(t testing.TB) (home string, v *vault.Vault, s *vault.CredentialStore) {
	t.Helper()
	home, _ = create(t, vault.FileOptions{})
	return home, openVault(t, home), vault.NewCredentialStore(home)
}

func requireSecret(t testing.TB, v *vault.Vault, s *vault.CredentialStore, name, want string) {
	t.Helper()
	secret, err := s.Open(v, name)
	require.NoError(t, err)
	require.Equal(t, want, string(secret))
}

func keyVersion(t testing.TB, home string) uint32 {
	t.Helper()
	info, err := vault.ReadInfo(home)
	require.NoError(t, err)
	return info.KeyVersion
}

func TestCredentials(t *testing.T) {
	home, v, s := store(t)
	list, err := s.List()
	require.NoError(t, err)
	require.Empty(t, list)
	require.NoFileExists(t, filepath.Join(home, "credentials.json"))

	secrets := map[string]string{
		"api_key:github":         "ghp_x",
		"empty":                  "",
		"Z-9._:/@":               "quotes \" and \\ and \x00\x1f\n\u2028 <&> \U0001f511",
		strings.Repeat("n", 128): "long name",
	}
	for name, secret := range secrets {
		require.NoError(t, s.Seal(v, name, []byte(secret)))
	}
	for name, secret := range secrets {
		requireSecret(t, v, s, name, secret)
	}
	list, err = s.List()
	require.NoError(t, err)
	require.Equal(t, []vault.Credential{
		{Name: "Z-9._:/@", KeyVersion: 2},
		{Name: "api_key:github", KeyVersion: 2},
		{Name: "empty", KeyVersion: 2},
		{Name: strings.Repeat("n", 128), KeyVersion: 2},
	}, list)
	info, err := os.Stat(filepath.Join(home, "credentials.json"))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	require.Equal(t, []string{"credentials.json", "vault.age", "vault.json", "vault.lock"}, names(t, home))
	data, err := os.ReadFile(filepath.Join(home, "credentials.json"))
	require.NoError(t, err)
	require.NotContains(t, string(data), "ghp_x")

	require.NoError(t, s.Seal(v, "empty", []byte("no more")))
	requireSecret(t, v, s, "empty", "no more")
	require.NoError(t, s.Delete("empty"))
	require.ErrorIs(t, s.Delete("empty"), vault.ErrNoCredential)
	_, err = s.Get("empty")
	require.ErrorIs(t, err, vault.ErrNoCredential)
	_, err = s.Open(v, "empty")
	require.ErrorIs(t, err, vault.ErrNoCredential)
	requireSecret(t, v, s, "api_key:github", "ghp_x")

	v.Lock()
	require.ErrorIs(t, s.Seal(v, "x", nil), vault.ErrLocked)
	_, err = s.Open(v, "api_key:github")
	require.ErrorIs(t, err, vault.ErrLocked)
	_, err = s.Rotate(v, 3, vault.RotateOptions{})
	require.ErrorIs(t, err, vault.ErrLocked)
}

// What is sealed is {"n":name,"v":secret}, whoever reads it (vault §5).
func TestCredentialContent(t *testing.T) {
	_, v, s := store(t)
	const secret = "a\"\\\n\u00e9"
	require.NoError(t, s.Seal(v, "github", []byte(secret)))
	d, err := s.Get("github")
	require.NoError(t, err)
	plaintext, err := v.Decrypt(d)
	require.NoError(t, err)
	require.Equal(t, `{"n":"github","v":"a\"\\\u000aé"}`, string(plaintext))
	var content map[string]string
	require.NoError(t, json.Unmarshal(plaintext, &content))
	require.Equal(t, map[string]string{"n": "github", "v": secret}, content)
}

// Whoever writes the file can swap two entries: then neither opens.
func TestCredentialsSwapped(t *testing.T) {
	_, v, s := store(t)
	require.NoError(t, s.Seal(v, "a", []byte("of a")))
	require.NoError(t, s.Seal(v, "b", []byte("of b")))
	a, err := s.Get("a")
	require.NoError(t, err)
	require.NoError(t, s.Put("b", a))
	_, err = s.Open(v, "b")
	require.ErrorIs(t, err, vault.ErrEncryption)
	require.ErrorContains(t, err, "another name")
	requireSecret(t, v, s, "a", "of a")

	for _, content := range []string{"plain", "{}", `{"n":"b"}`, `{"n":"b","v":1}`, `{"n":"b","v":null}`, `{"n":"b","N":"b","n":"b","v":""}`, `["b"]`, `{"N":"b","V":"x"}`} {
		d, err := v.Encrypt([]byte(content), 2)
		require.NoError(t, err)
		require.NoError(t, s.Put("b", d))
		_, err = s.Open(v, "b")
		require.ErrorIs(t, err, vault.ErrEncryption, content)
	}
}

func TestCredentialNames(t *testing.T) {
	_, v, s := store(t)
	d, err := v.Encrypt(nil, 2)
	require.NoError(t, err)
	for _, name := range []string{"", strings.Repeat("n", 129), "a b", "a\"b", "a\nb", "é", "a\x00", "a\\b", "a,b"} {
		require.ErrorIs(t, s.Seal(v, name, nil), vault.ErrCredentialName, name)
		require.ErrorIs(t, s.Put(name, d), vault.ErrCredentialName, name)
		_, err := s.Get(name)
		require.ErrorIs(t, err, vault.ErrNoCredential, name)
	}
	for _, bad := range []*vault.EncryptedData{nil, {}, {KeyVersion: 2}, {KeyVersion: 2, IV: make([]byte, 12)}} {
		require.ErrorIs(t, s.Put("a", bad), vault.ErrEncryption)
	}
	require.ErrorIs(t, s.Put("a", &vault.EncryptedData{KeyVersion: 1, IV: make([]byte, 12), Data: make([]byte, 16)}), vault.ErrKeyVersion)
	require.ErrorIs(t, s.Seal(v, "a", []byte{0xff}), vault.ErrEncryption)
	require.ErrorIs(t, s.Seal(v, "a", make([]byte, vault.MaxPlaintext)), vault.ErrEncryption)
}

func TestCredentialsBounded(t *testing.T) {
	home, v, s := store(t)
	d, err := v.Encrypt(nil, 2)
	require.NoError(t, err)
	sealed, err := json.Marshal(d)
	require.NoError(t, err)
	full := []byte(`{"format":"alknet-credentials/1","min_version":2,"credentials":{`)
	for n := range vault.MaxCredentials {
		full = fmt.Appendf(full, `"n%d":%s,`, n, sealed)
	}
	full = append(full[:len(full)-1], `}}`...)
	write(t, home, "credentials.json", full)
	require.ErrorIs(t, s.Put("more", d), vault.ErrStoreFull)
	require.NoError(t, s.Put("n7", d), "in place of another")
	require.NoError(t, s.Delete("n8"))
	require.NoError(t, s.Put("more", d))

	large, err := v.Encrypt(bytes.Repeat([]byte("x"), vault.MaxPlaintext), 2)
	require.NoError(t, err)
	sealed, err = json.Marshal(large)
	require.NoError(t, err)
	full = []byte(`{"format":"alknet-credentials/1","min_version":2,"credentials":{`)
	n := 0
	for ; len(full)+len(sealed) < 8<<20-1024; n++ {
		full = fmt.Appendf(full, `"n%d":%s,`, n, sealed)
	}
	full = append(full[:len(full)-1], `}}`...)
	write(t, home, "credentials.json", full)
	require.ErrorIs(t, s.Put("more", large), vault.ErrStoreFull)
	list, err := s.List()
	require.NoError(t, err)
	require.Len(t, list, n)
}

func TestCredentialsVerbatim(t *testing.T) {
	home, v, s := store(t)
	require.NoError(t, s.Seal(v, "a", []byte("x")))
	d, err := s.Get("a")
	require.NoError(t, err)
	sealed, err := json.Marshal(d)
	require.NoError(t, err)
	entry := strings.Replace(string(sealed), `{`, `{ "later" : "<&>" ,`, 1)
	write(t, home, "credentials.json", []byte(`{"later":1,"credentials":{"a":`+entry+`},"min_version":2,"format":"alknet-credentials/1"}`))
	require.NoError(t, s.Seal(v, "b", []byte("y")))
	data, err := os.ReadFile(filepath.Join(home, "credentials.json"))
	require.NoError(t, err)
	require.Contains(t, string(data), "\n\"a\":"+entry+",\n\"b\":{")
	requireSecret(t, v, s, "a", "x")
}

func TestCorruptCredentials(t *testing.T) {
	home, v, s := store(t)
	require.NoError(t, s.Seal(v, "a", []byte("x")))
	data, err := os.ReadFile(filepath.Join(home, "credentials.json"))
	require.NoError(t, err)
	good := string(data)
	replace := func(old, with string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, with, 1)
	}
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":             {"", vault.ErrCorruptFile},
		"cut":               {good[:len(good)-3], vault.ErrCorruptFile},
		"null":              {"null", vault.ErrCorruptFile},
		"twice":             {replace(`{`, `{"min_version":2,`), vault.ErrCorruptFile},
		"a name twice":      {replace(`"a"`, `"a":{},"a"`), vault.ErrCorruptFile},
		"other case":        {replace(`"credentials"`, `"Credentials"`), vault.ErrCorruptFile},
		"no credentials":    {`{"format":"alknet-credentials/1","min_version":2}`, vault.ErrCorruptFile},
		"a list":            {`{"format":"alknet-credentials/1","min_version":2,"credentials":[]}`, vault.ErrCorruptFile},
		"unusable name":     {replace(`"a"`, `"a b"`), vault.ErrCorruptFile},
		"unusable minimum":  {replace(`"min_version":2`, `"min_version":1`), vault.ErrCorruptFile},
		"minimum too large": {replace(`"min_version":2`, `"min_version":4294967296`), vault.ErrCorruptFile},
		"later format":      {replace(`credentials/1`, `credentials/2`), vault.ErrUnsupported},
		"too large":         {good + strings.Repeat(" ", 8<<20), vault.ErrCorruptFile},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, home, "credentials.json", []byte(c.text))
			_, err := s.List()
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, "credentials.json")
			_, err = s.Get("a")
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, s.Seal(v, "a", nil), c.want)
			require.ErrorIs(t, s.Delete("a"), c.want)
			_, err = s.Rotate(v, 3, vault.RotateOptions{})
			require.ErrorIs(t, err, c.want)
			after, err := os.ReadFile(filepath.Join(home, "credentials.json"))
			require.NoError(t, err)
			require.Equal(t, c.text, string(after), "nothing is written over it")
		})
	}

	// A damaged entry harms itself alone.
	write(t, home, "credentials.json", []byte(replace(`"a":`, `"bad":{"key_version":2},"a":`)))
	list, err := s.List()
	require.NoError(t, err)
	require.Equal(t, []vault.Credential{{Name: "a", KeyVersion: 2}, {Name: "bad"}}, list)
	requireSecret(t, v, s, "a", "x")
	_, err = s.Get("bad")
	require.ErrorIs(t, err, vault.ErrEncryption)
	require.NoError(t, s.Delete("bad"))
}

func TestRotateCredentials(t *testing.T) {
	home, v, s := store(t)
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, s.Seal(v, name, []byte("of "+name)))
	}
	before, err := os.ReadFile(filepath.Join(home, "credentials.json"))
	require.NoError(t, err)

	r, err := s.Rotate(v, 3, vault.RotateOptions{DryRun: true})
	require.NoError(t, err)
	require.Equal(t, &vault.Rotation{To: 3, Rotated: []string{"a", "b", "c"}, Failed: map[string]error{}}, r)
	after, err := os.ReadFile(filepath.Join(home, "credentials.json"))
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.EqualValues(t, 2, keyVersion(t, home))

	r, err = s.Rotate(v, 3, vault.RotateOptions{})
	require.NoError(t, err)
	require.Equal(t, &vault.Rotation{To: 3, Rotated: []string{"a", "b", "c"}, Failed: map[string]error{}}, r)
	require.EqualValues(t, 3, keyVersion(t, home), "what new ones are sealed with")
	least, err := s.MinVersion()
	require.NoError(t, err)
	require.EqualValues(t, 3, least)
	require.NoError(t, s.Seal(v, "d", []byte("of d")))
	list, err := s.List()
	require.NoError(t, err)
	for _, c := range list {
		require.EqualValues(t, 3, c.KeyVersion)
		requireSecret(t, v, s, c.Name, "of "+c.Name)
	}

	// Nothing older is taken or given out.
	old, err := v.Encrypt(nil, 2)
	require.NoError(t, err)
	require.ErrorIs(t, s.Put("a", old), vault.ErrKeyVersion)
	oldFile := bytes.Replace(before, []byte(`"min_version":2`), []byte(`"min_version":3`), 1)
	write(t, home, "credentials.json", oldFile)
	_, err = s.Open(v, "a")
	require.ErrorIs(t, err, vault.ErrKeyVersion)

	// Again: there is nothing to do but what is below.
	r, err = s.Rotate(v, 3, vault.RotateOptions{})
	require.NoError(t, err)
	require.Len(t, r.Rotated, 3)
	r, err = s.Rotate(v, 3, vault.RotateOptions{})
	require.NoError(t, err)
	require.Equal(t, &vault.Rotation{To: 3, Failed: map[string]error{}}, r)
}

// What cannot be opened stays, is named, and keeps the old minimum; the rest is
// done, and a later run ends it.
func TestRotationResumed(t *testing.T) {
	home, v, s := store(t)
	require.NoError(t, s.Seal(v, "a", []byte("of a")))
	foreign := locked(t, vault.Config{})
	require.NoError(t, foreign.Unlock(parse(t, about), []byte("another")))
	d, err := foreign.Encrypt(vault.NamedSecret("b", []byte("of b")), 2)
	require.NoError(t, err)
	require.NoError(t, s.Put("b", d))

	for _, o := range []vault.RotateOptions{{DryRun: true}, {}} {
		r, err := s.Rotate(v, 5, o)
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, r.Rotated)
		require.Len(t, r.Failed, 1)
		require.ErrorIs(t, r.Failed["b"], vault.ErrEncryption)
		require.Equal(t, 1, r.Below)
	}
	least, err := s.MinVersion()
	require.NoError(t, err)
	require.EqualValues(t, 2, least)
	kept, err := s.Get("b")
	require.NoError(t, err)
	require.Equal(t, d, kept)

	require.NoError(t, s.Delete("b"))
	r, err := s.Rotate(v, 5, vault.RotateOptions{})
	require.NoError(t, err)
	require.Equal(t, &vault.Rotation{To: 5, Failed: map[string]error{}}, r)
	least, err = s.MinVersion()
	require.NoError(t, err)
	require.EqualValues(t, 5, least)
	require.EqualValues(t, 5, keyVersion(t, home))
}

func TestRotateToOlder(t *testing.T) {
	home, v, s := store(t)
	require.NoError(t, s.Seal(v, "a", []byte("of a")))
	_, err := s.Rotate(v, 4, vault.RotateOptions{})
	require.NoError(t, err)
	for _, o := range []vault.RotateOptions{{}, {DryRun: true}} {
		_, err = s.Rotate(v, 3, o)
		require.ErrorIs(t, err, vault.ErrKeyVersion)
	}
	r, err := s.Rotate(v, 3, vault.RotateOptions{Force: true})
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, r.Rotated)
	require.EqualValues(t, 3, keyVersion(t, home))
	requireSecret(t, v, s, "a", "of a")
	for _, version := range []uint32{0, 1, 1<<32 - 1} {
		_, err = s.Rotate(v, version, vault.RotateOptions{Force: true})
		require.ErrorIs(t, err, vault.ErrInvalidPath)
	}
}

func TestCredentialsInUse(t *testing.T) {
	home, v, s := store(t)
	require.NoError(t, s.Seal(v, "a", []byte("x")))
	lock := flock.New(filepath.Join(home, "vault.lock"))
	held, err := lock.TryLock()
	require.NoError(t, err)
	require.True(t, held)
	require.ErrorIs(t, s.Seal(v, "b", nil), vault.ErrFileInUse)
	require.ErrorIs(t, s.Delete("a"), vault.ErrFileInUse)
	_, err = s.Rotate(v, 3, vault.RotateOptions{})
	require.ErrorIs(t, err, vault.ErrFileInUse)
	requireSecret(t, v, s, "a", "x") // reading needs no lock
	require.NoError(t, lock.Close())
	require.NoError(t, s.Delete("a"))
}

// The store needs a home, and a vault for what its own calls do not know.
func TestCredentialsWithoutVault(t *testing.T) {
	v := unlocked(t, vault.Config{})
	s := vault.NewCredentialStore(filepath.Join(t.TempDir(), "none"))
	list, err := s.List()
	require.NoError(t, err)
	require.Empty(t, list)
	require.Error(t, s.Seal(v, "a", nil))

	home := t.TempDir()
	require.NoError(t, os.Chmod(home, 0o700))
	s = vault.NewCredentialStore(home)
	require.ErrorIs(t, s.Seal(v, "a", nil), vault.ErrNoVault)
	_, err = s.Rotate(v, 3, vault.RotateOptions{})
	require.ErrorIs(t, err, vault.ErrNoVault)
}
