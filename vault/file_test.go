package vault_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/gofrs/flock"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

const (
	cheap      = 2 // a work factor that costs nothing
	passphrase = "correct horse battery staple"
)

// create makes a vault of the phrase about in a new home.
func create(t testing.TB, o vault.FileOptions) (home string, info *vault.Info) {
	t.Helper()
	home = filepath.Join(t.TempDir(), "parent", "home")
	o.WorkFactor = cheap
	info, err := vault.Create(home, parse(t, about), []byte(passphrase), o)
	require.NoError(t, err)
	return home, info
}

func openVault(t testing.TB, home string) *vault.Vault {
	t.Helper()
	v, err := vault.Open(home, []byte(passphrase), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v
}

func names(t testing.TB, home string) []string {
	t.Helper()
	entries, err := os.ReadDir(home)
	require.NoError(t, err)
	var out []string
	for _, entry := range entries {
		out = append(out, entry.Name())
	}
	return out
}

func TestCreateAndOpen(t *testing.T) {
	home, info := create(t, vault.FileOptions{})
	want := &vault.Info{
		Identity:   "ed25519:e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc",
		PeerID:     "12D3KooWRQEJLrVRqJc1bRCiNQ7uMMFn2YeMjJWqX9raYnUQhkR1",
		KeyVersion: 2,
		Next:       "a56216a2eef9debd9e09a86024be26118dd72f26569307eb14882572b83d8e9f",
	}
	require.Equal(t, want, info)
	read, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, want, read)
	sidecar, err := os.ReadFile(filepath.Join(home, "vault.json"))
	require.NoError(t, err)
	require.Equal(t, `{"identity":"`+want.Identity+`","peer_id":"`+want.PeerID+`","key_version":2,"device":0,"generation":0,"next":"`+want.Next+`"}`+"\n", string(sidecar))
	require.Equal(t, []string{"vault.age", "vault.json", "vault.lock"}, names(t, home), "nothing else is left behind")
	if runtime.GOOS != "windows" {
		for path, mode := range map[string]fs.FileMode{
			home: 0o700, filepath.Dir(home): 0o700,
			filepath.Join(home, "vault.age"): 0o600, filepath.Join(home, "vault.json"): 0o600, filepath.Join(home, "vault.lock"): 0o600,
		} {
			stat, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, mode, stat.Mode().Perm(), path)
		}
	}

	v := openVault(t, home)
	require.True(t, v.IsUnlocked())
	key, err := v.IdentityKey()
	require.NoError(t, err)
	require.Equal(t, want.Identity, vault.FingerprintOf(key.Public))
}

// The payload as any age implementation shows it.
func TestPayload(t *testing.T) {
	home, info := create(t, vault.FileOptions{Device: 3, Generation: 4, BIP39Passphrase: []byte("x")})
	sealed, err := os.ReadFile(filepath.Join(home, "vault.age"))
	require.NoError(t, err)
	identity, err := age.NewScryptIdentity(passphrase)
	require.NoError(t, err)
	r, err := age.Decrypt(bytes.NewReader(sealed), identity)
	require.NoError(t, err)
	var payload map[string]any
	require.NoError(t, json.NewDecoder(r).Decode(&payload))
	require.Regexp(t, `^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, payload["created"])
	delete(payload, "created")
	require.Equal(t, map[string]any{
		"format": "alknet-vault/1", "mnemonic": about, "bip39_passphrase": true, "profile": "slip10",
		"identity": info.Identity, "device": 3.0, "generation": 4.0,
	}, payload)
}

func TestDeviceAndGeneration(t *testing.T) {
	for _, k := range keyVectors(t) {
		var o vault.FileOptions
		switch k.Path {
		case "m/74'/0'/0'/0'":
		case "m/74'/0'/0'/1'":
			o.Device = 1
		case "m/74'/0'/0'/0'/2'":
			o.Generation = 2
		case "m/74'/0'/0'/1'/1'":
			o.Device, o.Generation = 1, 1
		default:
			continue
		}
		o.BIP39Passphrase = []byte(k.Passphrase)
		home, info := create(t, o)
		require.Equal(t, &vault.Info{
			Identity: k.Fingerprint, PeerID: k.PeerID, KeyVersion: 2, Device: o.Device, Generation: o.Generation, Next: info.Next,
		}, info)
		v, err := vault.Open(home, []byte(passphrase), o.BIP39Passphrase)
		require.NoError(t, err)
		require.EqualValues(t, k.Path, v.IdentityPath())
		next, err := v.NextPublicKey()
		require.NoError(t, err)
		commitment := vault.CommitmentOf(next)
		require.Equal(t, hex.EncodeToString(commitment[:]), info.Next)
		require.NoError(t, v.Close())
	}
}

func TestBIP39Passphrase(t *testing.T) {
	home, _ := create(t, vault.FileOptions{BIP39Passphrase: []byte("TREZOR")})
	_, err := vault.Open(home, []byte(passphrase), nil)
	require.ErrorIs(t, err, vault.ErrBIP39PassphraseMissing)
	_, err = vault.Open(home, []byte(passphrase), []byte("trezor"))
	require.ErrorIs(t, err, vault.ErrWrongIdentity)
	home, _ = create(t, vault.FileOptions{})
	_, err = vault.Open(home, []byte(passphrase), []byte("TREZOR"))
	require.ErrorIs(t, err, vault.ErrWrongIdentity)
}

func TestWorkFactor(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	for _, workFactor := range []int{-1, vault.MaxWorkFactor + 1, 31} {
		_, err := vault.Create(home, parse(t, about), []byte(passphrase), vault.FileOptions{WorkFactor: workFactor})
		require.ErrorIs(t, err, vault.ErrWorkFactor)
	}
	require.NoDirExists(t, home)

	_, err := vault.Create(home, parse(t, about), []byte(passphrase), vault.FileOptions{WorkFactor: 7})
	require.NoError(t, err)
	sealed, err := os.ReadFile(filepath.Join(home, "vault.age"))
	require.NoError(t, err)
	require.Regexp(t, `^age-encryption.org/v1\n-> scrypt [A-Za-z0-9+/]{22} 7\n`, string(sealed))

	for _, claimed := range []string{"21", "30", "1000000"} {
		forged := bytes.Replace(sealed, []byte(" 7\n"), []byte(" "+claimed+"\n"), 1)
		write(t, home, "vault.age", forged)
		_, err = vault.Open(home, []byte(passphrase), nil)
		require.ErrorIs(t, err, vault.ErrWorkFactor)
	}
}

func TestExists(t *testing.T) {
	home, first := create(t, vault.FileOptions{})
	before, err := os.ReadFile(filepath.Join(home, "vault.age"))
	require.NoError(t, err)
	o := vault.FileOptions{WorkFactor: cheap, Device: 1}
	_, err = vault.Create(home, parse(t, about), []byte("other"), o)
	require.ErrorIs(t, err, vault.ErrExists)
	after, err := os.ReadFile(filepath.Join(home, "vault.age"))
	require.NoError(t, err)
	require.Equal(t, before, after)
	info, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, first, info)

	o.Overwrite = true
	second, err := vault.Create(home, parse(t, about), []byte("other"), o)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	info, err = vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, second, info)
	_, err = vault.Open(home, []byte(passphrase), nil)
	require.ErrorIs(t, err, vault.ErrWrongPassphrase)
	v, err := vault.Open(home, []byte("other"), nil)
	require.NoError(t, err)
	require.NoError(t, v.Close())
}

func TestNoVault(t *testing.T) {
	for _, home := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := os.Stat(home); err == nil {
			require.NoError(t, os.Chmod(home, 0o700))
		}
		_, err := vault.ReadInfo(home)
		require.ErrorIs(t, err, vault.ErrNoVault)
		_, err = vault.Open(home, []byte(passphrase), nil)
		require.ErrorIs(t, err, vault.ErrNoVault)
	}
}

func TestUnusablePassphrase(t *testing.T) {
	home, _ := create(t, vault.FileOptions{})
	for _, bad := range []string{"", "a\nb", "a\r", string(make([]byte, 1025))} {
		_, err := vault.Open(home, []byte(bad), nil)
		require.ErrorIs(t, err, vault.ErrPassphrase)
		_, err = vault.Create(t.TempDir(), parse(t, about), []byte(bad), vault.FileOptions{WorkFactor: cheap})
		require.ErrorIs(t, err, vault.ErrPassphrase)
	}
}

func TestWrongPassphrase(t *testing.T) {
	home, _ := create(t, vault.FileOptions{})
	for _, wrong := range []string{"x", passphrase + " ", "Correct horse battery staple"} {
		_, err := vault.Open(home, []byte(wrong), nil)
		require.ErrorIs(t, err, vault.ErrWrongPassphrase)
		require.NotErrorIs(t, err, vault.ErrCorruptFile)
		require.NotContains(t, err.Error(), wrong)
	}
}

// Every damage is an error that says so, and none is a panic or a vault.
func TestCorruptVaultFile(t *testing.T) {
	home, _ := create(t, vault.FileOptions{})
	sealed, err := os.ReadFile(filepath.Join(home, "vault.age"))
	require.NoError(t, err)
	refused := func(data []byte) error {
		t.Helper()
		write(t, home, "vault.age", data)
		v, err := vault.Open(home, []byte(passphrase), nil)
		require.Error(t, err)
		require.Nil(t, v)
		return err
	}
	for size := range sealed {
		require.ErrorIs(t, refused(sealed[:size]), vault.ErrCorruptFile, size)
	}
	require.ErrorIs(t, refused(append(slices.Clone(sealed), 'x')), vault.ErrCorruptFile)
	for i := range sealed {
		flipped := slices.Clone(sealed)
		flipped[i] ^= 1
		// A damaged salt or key wrapping looks like another passphrase, and a
		// damaged work factor may be one that is too large.
		err := refused(flipped)
		require.True(t, oneOf(err, vault.ErrCorruptFile, vault.ErrWrongPassphrase, vault.ErrWorkFactor), "%d: %v", i, err)
	}
	require.ErrorIs(t, refused(make([]byte, 64<<10+1)), vault.ErrCorruptFile)

	// A phrase kept there in the clear is not shown.
	err = refused([]byte(about))
	require.ErrorIs(t, err, vault.ErrCorruptFile)
	require.NotContains(t, err.Error(), "abandon")

	// An age file, but for a key and not for a passphrase.
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	var other bytes.Buffer
	w, err := age.Encrypt(&other, key.Recipient())
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.ErrorIs(t, refused(other.Bytes()), vault.ErrCorruptFile)
}

func TestCorruptPayload(t *testing.T) {
	const identity = "ed25519:e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc"
	good := `{"format":"alknet-vault/1","mnemonic":"` + about + `","bip39_passphrase":false,"profile":"slip10","identity":"` + identity + `","device":0,"generation":0,"created":"2026-11-24T12:00:00Z"}`
	open := func(payload string) error {
		home, _ := create(t, vault.FileOptions{})
		var sealed bytes.Buffer
		recipient, err := age.NewScryptRecipient(passphrase)
		require.NoError(t, err)
		recipient.SetWorkFactor(cheap)
		w, err := age.Encrypt(&sealed, recipient)
		require.NoError(t, err)
		_, err = w.Write([]byte(payload))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		write(t, home, "vault.age", sealed.Bytes())
		v, err := vault.Open(home, []byte(passphrase), nil)
		if err == nil {
			require.NoError(t, v.Close())
		}
		return err
	}
	replace := func(old, with string) string {
		require.Contains(t, good, old)
		return string(bytes.Replace([]byte(good), []byte(old), []byte(with), 1))
	}
	require.NoError(t, open(good))
	require.NoError(t, open("\n\t"+good+"\n"))
	require.NoError(t, open(replace(`{`, `{"later":{"format":["}",1]},"quoted \" :":null,`)), "unknown members are ignored")
	require.NoError(t, open(replace(`abandon abandon`, `ABANDON  abandon`)))

	for name, c := range map[string]struct {
		payload string
		want    error
	}{
		"empty":                 {``, vault.ErrCorruptFile},
		"no object":             {`[]`, vault.ErrCorruptFile},
		"null":                  {`null`, vault.ErrCorruptFile},
		"no members":            {`{}`, vault.ErrCorruptFile},
		"two values":            {good + good, vault.ErrCorruptFile},
		"too large":             {good + string(bytes.Repeat([]byte{' '}, 4096)), vault.ErrCorruptFile},
		"later format":          {replace("alknet-vault/1", "alknet-vault/2"), vault.ErrUnsupported},
		"other profile":         {replace("slip10", "legacy"), vault.ErrUnsupported},
		"other case":            {replace(`"device"`, `"Device"`), vault.ErrCorruptFile},
		"twice":                 {replace(`{`, `{"device":1,`), vault.ErrCorruptFile},
		"twice, escaped":        {replace(`{`, `{"devic\u0065":1,`), vault.ErrCorruptFile},
		"negative device":       {replace(`"device":0`, `"device":-1`), vault.ErrCorruptFile},
		"large device":          {replace(`"device":0`, `"device":2147483648`), vault.ErrCorruptFile},
		"large generation":      {replace(`"generation":0`, `"generation":4294967296`), vault.ErrCorruptFile},
		"null device":           {replace(`"device":0`, `"device":null`), vault.ErrCorruptFile},
		"no generation":         {replace(`"generation":0,`, ``), vault.ErrCorruptFile},
		"flag as text":          {replace(`false`, `"false"`), vault.ErrCorruptFile},
		"identity in capitals":  {replace(`ed25519:e78c`, `ed25519:E78C`), vault.ErrCorruptFile},
		"identity without type": {replace(`ed25519:`, ``), vault.ErrCorruptFile},
		"time":                  {replace(`2026-11-24T`, `2026-13-24T`), vault.ErrCorruptFile},
		"phrase":                {replace(`about`, `abandon`), vault.ErrMnemonic},
		"escaped phrase":        {replace(`abandon abandon`, `abandon\u0020abandon`), vault.ErrCorruptFile},
		"phrase as list":        {replace(`"`+about+`"`, `["`+about+`"]`), vault.ErrCorruptFile},
		"other identity":        {replace(`2ecc`, `2ecd`), vault.ErrWrongIdentity},
		"other device":          {replace(`"device":0`, `"device":1`), vault.ErrWrongIdentity},
		"other generation":      {replace(`"generation":0`, `"generation":1`), vault.ErrWrongIdentity},
	} {
		t.Run(name, func(t *testing.T) {
			err := open(c.payload)
			require.ErrorIs(t, err, c.want)
			require.NotContains(t, err.Error(), "abandon")
		})
	}
}

func TestSidecar(t *testing.T) {
	home, info := create(t, vault.FileOptions{})
	path := filepath.Join(home, "vault.json")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	other := keyVectors(t)[3]

	for name, c := range map[string]struct{ old, with string }{
		"empty":           {string(good), ""},
		"twice":           {`{`, `{"device":0,`},
		"other case":      {`"identity"`, `"Identity"`},
		"missing":         {`"generation":0`, `"x":0`},
		"null":            {`"device":0`, `"device":null`},
		"large device":    {`"device":0`, `"device":2147483648`},
		"key version":     {`"key_version":2`, `"key_version":1`},
		"identity":        {`ed25519:e7`, `ed25519:E7`},
		"other peer ID":   {info.PeerID, other.PeerID},
		"too large":       {`{`, string(bytes.Repeat([]byte(" "), 64<<10)) + `{`},
		"trailing":        {`}`, `}}`},
		"generation text": {`"generation":0`, `"generation":"0"`},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, string(good), c.old)
			write(t, home, "vault.json", bytes.Replace(good, []byte(c.old), []byte(c.with), 1))
			_, err := vault.ReadInfo(home)
			require.ErrorIs(t, err, vault.ErrCorruptFile)
			openVault(t, home)
			repaired, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, good, repaired, "opening the vault writes it again")
		})
	}

	require.NoError(t, os.Remove(path))
	_, err = vault.ReadInfo(home)
	require.ErrorIs(t, err, vault.ErrCorruptFile)
	require.ErrorContains(t, err, "vault.json is missing")
	openVault(t, home)
	require.FileExists(t, path)

	// Of another vault, as after a crash while overwriting.
	stale := strings.NewReplacer(info.Identity, other.Fingerprint, info.PeerID, other.PeerID, `"key_version":2`, `"key_version":9`)
	write(t, home, "vault.json", []byte(stale.Replace(string(good))))
	_, err = vault.ReadInfo(home)
	require.NoError(t, err)
	openVault(t, home)
	repaired, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, good, repaired)

	// The key version is kept nowhere else, so it stays.
	later := bytes.Replace(good, []byte(`"key_version":2`), []byte(`"key_version":3`), 1)
	write(t, home, "vault.json", bytes.Replace(later, []byte(`"device":0`), []byte(`"device":5`), 1))
	openVault(t, home)
	repaired, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, later, repaired)
}

func TestFileInUse(t *testing.T) {
	home, _ := create(t, vault.FileOptions{})
	lock := flock.New(filepath.Join(home, "vault.lock"))
	held, err := lock.TryLock()
	require.NoError(t, err)
	require.True(t, held)
	overwrite := vault.FileOptions{WorkFactor: cheap, Overwrite: true}
	_, err = vault.Create(home, parse(t, about), []byte(passphrase), overwrite)
	require.ErrorIs(t, err, vault.ErrFileInUse)
	openVault(t, home) // reading needs no lock
	require.NoError(t, lock.Close())
	_, err = vault.Create(home, parse(t, about), []byte(passphrase), overwrite)
	require.NoError(t, err)
}

// A file that the age command made, with its own work factor.
func TestOpenStockAge(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/stock-age.age")
	require.NoError(t, err)
	home := t.TempDir()
	require.NoError(t, os.Chmod(home, 0o700))
	write(t, home, "vault.age", data)
	v := openVault(t, home)
	require.Equal(t, vault.Identity, v.IdentityPath())
	info, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, "12D3KooWRQEJLrVRqJc1bRCiNQ7uMMFn2YeMjJWqX9raYnUQhkR1", info.PeerID)
}

// A vault file of the first release opens for ever.
func TestOpenFirstFormat(t *testing.T) {
	home := t.TempDir()
	require.NoError(t, os.Chmod(home, 0o700))
	for _, name := range []string{"vault.age", "vault.json"} {
		data, err := os.ReadFile(filepath.Join("testdata/format1", name))
		require.NoError(t, err)
		write(t, home, name, data)
	}
	before, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.EqualValues(t, 1, before.Device)
	require.EqualValues(t, 1, before.Generation)
	v, err := vault.Open(home, []byte(passphrase), []byte("TREZOR"))
	require.NoError(t, err)
	require.NoError(t, v.Close())
	after, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Empty(t, before.Next)
	before.Next = "ca21317e9b3460ef6562ee577cfb72469bf723cc6e775f56467687f618ef2818" // which opening it adds
	require.Equal(t, before, after)
}

func oneOf(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}

// write puts a file into a home as its owner might.
func write(t testing.TB, home, name string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(home, name), data, 0o600))
}
