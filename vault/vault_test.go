package vault_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

func TestProjectVectors(t *testing.T) {
	for _, k := range keyVectors(t) {
		t.Run(k.Passphrase+" "+k.Name, func(t *testing.T) {
			v := locked(t, vault.Config{})
			require.NoError(t, v.Unlock(parse(t, about), []byte(k.Passphrase)))
			key, err := v.DeriveEd25519(vault.Path(k.Path))
			require.NoError(t, err)
			defer key.Wipe()
			require.Equal(t, vault.Ed25519, key.KeyType)
			require.Equal(t, k.Private, privateHex(t, key))
			require.Equal(t, k.Public, hex.EncodeToString(key.Public))
			require.Equal(t, k.Fingerprint, vault.FingerprintOf(key.Public))
			require.Equal(t, k.PeerID, vault.PeerIDOf(key.Public))
			public, err := v.PublicKey(vault.Path(k.Path))
			require.NoError(t, err)
			require.Equal(t, key.Public, public)
		})
	}
}

func TestIdentityByDeviceAndGeneration(t *testing.T) {
	byPath := make(map[vault.Path]string)
	for _, k := range keyVectors(t) {
		if k.Passphrase == "" {
			byPath[vault.Path(k.Path)] = k.Public
		}
	}
	for _, c := range []struct {
		device, generation uint32
		path, next         vault.Path
	}{
		{0, 0, "m/74'/0'/0'/0'", "m/74'/0'/0'/0'/1'"},
		{0, 1, "m/74'/0'/0'/0'/1'", "m/74'/0'/0'/0'/2'"},
		{1, 0, "m/74'/0'/0'/1'", "m/74'/0'/0'/1'/1'"},
	} {
		v := unlocked(t, vault.Config{Device: c.device, Generation: c.generation})
		require.Equal(t, c.path, v.IdentityPath())
		key, err := v.IdentityKey()
		require.NoError(t, err)
		require.NotEmpty(t, byPath[c.path])
		require.Equal(t, byPath[c.path], hex.EncodeToString(key.Public))
		next, err := v.NextPublicKey()
		require.NoError(t, err)
		require.NotEmpty(t, byPath[c.next])
		require.Equal(t, byPath[c.next], hex.EncodeToString(next))
	}
	v := unlocked(t, vault.Config{Generation: vault.MaxIndex})
	_, err := v.NextPublicKey()
	require.ErrorIs(t, err, vault.ErrInvalidPath)

	_, err = vault.New(vault.Config{Device: vault.MaxIndex + 1})
	require.ErrorIs(t, err, vault.ErrInvalidPath)
	_, err = vault.New(vault.Config{Generation: vault.MaxIndex + 1})
	require.ErrorIs(t, err, vault.ErrInvalidPath)
}

func TestEd25519Paths(t *testing.T) {
	for name, v := range map[string]*vault.Vault{"unlocked": unlocked(t, vault.Config{}), "locked": locked(t, vault.Config{})} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []vault.Path{
				"", "m", "junk", "m/74'/0", vault.Ethereum, vault.DevicePrefix, "m/74h/0h/0h",
				vault.Encryption, "m/74'/2'", "m/74h/2h/9h", "m/74'/2'/0'/0'/0'",
			} {
				_, err := v.DeriveEd25519(path)
				require.ErrorIs(t, err, vault.ErrInvalidPath, path)
				_, err = v.PublicKey(path)
				require.ErrorIs(t, err, vault.ErrInvalidPath, path)
				_, err = v.Signer(path)
				require.ErrorIs(t, err, vault.ErrInvalidPath, path)
			}
		})
	}
	v := unlocked(t, vault.Config{})
	for _, path := range []vault.Path{"m/74'/20'", "m/740'/2'", "m/0'", "m/74'/0'/0'/0'/0'"} {
		key, err := v.DeriveEd25519(path)
		require.NoError(t, err, path)
		key.Wipe()
	}
	tick, err := v.PublicKey(vault.Identity)
	require.NoError(t, err)
	letter, err := v.PublicKey("m/74h/0h/0h/0h")
	require.NoError(t, err)
	require.Equal(t, tick, letter)
}

func TestLockAndUnlock(t *testing.T) {
	v := locked(t, vault.Config{})
	v.Lock()
	requireLocked(t, v)

	require.ErrorIs(t, v.Unlock(nil, nil), vault.ErrMnemonic)
	require.ErrorIs(t, v.Unlock(parse(t, about), []byte{0xff}), vault.ErrMnemonic)
	wiped := parse(t, about)
	wiped.Wipe()
	require.ErrorIs(t, v.Unlock(wiped, nil), vault.ErrWiped)
	require.ErrorIs(t, v.Unlock(&vault.Mnemonic{}, nil), vault.ErrWiped)
	_, err := v.UnlockNew(13, nil)
	require.ErrorIs(t, err, vault.ErrMnemonic)
	_, err = v.UnlockNew(12, []byte{0xff})
	require.ErrorIs(t, err, vault.ErrMnemonic)
	requireLocked(t, v)

	m := parse(t, about)
	require.NoError(t, v.Unlock(m, nil))
	require.True(t, v.IsUnlocked())
	require.ErrorIs(t, v.Unlock(m, nil), vault.ErrAlreadyUnlocked)
	_, err = v.UnlockNew(12, nil)
	require.ErrorIs(t, err, vault.ErrAlreadyUnlocked)
	require.NoError(t, m.Use(func(phrase []byte) { require.Equal(t, about, string(phrase)) }), "the caller's mnemonic is left alone")

	key, err := v.IdentityKey()
	require.NoError(t, err)
	private := privateHex(t, key)
	v.Lock()
	requireLocked(t, v)
	require.Equal(t, private, privateHex(t, key), "keys handed out survive a lock")

	require.NoError(t, v.Unlock(m, []byte("TREZOR")))
	other, err := v.IdentityKey()
	require.NoError(t, err)
	require.NotEqual(t, private, privateHex(t, other), "no key of the old seed comes from the cache")

	require.NoError(t, v.Close())
	require.NoError(t, v.Close())
	requireLocked(t, v)
	require.ErrorIs(t, v.Unlock(m, nil), vault.ErrClosed)
}

func requireLocked(t *testing.T, v *vault.Vault) {
	t.Helper()
	require.False(t, v.IsUnlocked())
	for name, call := range map[string]func() error{
		"DeriveEd25519": func() error { _, err := v.DeriveEd25519(vault.SSHHost); return err },
		"IdentityKey":   func() error { _, err := v.IdentityKey(); return err },
		"NextPublicKey": func() error { _, err := v.NextPublicKey(); return err },
		"PublicKey":     func() error { _, err := v.PublicKey(vault.Identity); return err },
		"Signer":        func() error { _, err := v.Signer(vault.Identity); return err },
	} {
		require.ErrorIs(t, call(), vault.ErrLocked, name)
	}
}

func TestUnlockNew(t *testing.T) {
	v := locked(t, vault.Config{})
	m, err := v.UnlockNew(vault.DefaultWords, []byte("x"))
	require.NoError(t, err)
	defer m.Wipe()
	require.NoError(t, m.Use(func(phrase []byte) { require.Len(t, bytes.Fields(phrase), 24) }))
	identity, err := v.PublicKey(v.IdentityPath())
	require.NoError(t, err)
	again := locked(t, vault.Config{})
	require.NoError(t, again.Unlock(m, []byte("x")))
	same, err := again.PublicKey(v.IdentityPath())
	require.NoError(t, err)
	require.Equal(t, identity, same)
}

// Of several unlocks at once, one has its way.
func TestUnlockOnce(t *testing.T) {
	v := locked(t, vault.Config{})
	m := parse(t, about)
	results := make(chan error, 8)
	for range cap(results) {
		go func() { results <- v.Unlock(m, nil) }()
	}
	unlocked := 0
	for range cap(results) {
		if err := <-results; err == nil {
			unlocked++
		} else {
			require.ErrorIs(t, err, vault.ErrAlreadyUnlocked)
		}
	}
	require.Equal(t, 1, unlocked)
}

func TestSigner(t *testing.T) {
	v := unlocked(t, vault.Config{})
	signer, err := v.Signer(vault.SSHHost)
	require.NoError(t, err)
	public, ok := signer.Public().(ed25519.PublicKey)
	require.True(t, ok)
	want, err := v.PublicKey(vault.SSHHost)
	require.NoError(t, err)
	require.EqualValues(t, want, public)

	message := []byte("message")
	for _, opts := range []crypto.SignerOpts{nil, crypto.Hash(0)} {
		signature, err := signer.Sign(nil, message, opts)
		require.NoError(t, err)
		require.True(t, ed25519.Verify(public, message, signature))
	}
	digest := sha512.Sum512(message)
	signature, err := signer.Sign(nil, digest[:], crypto.SHA512)
	require.NoError(t, err)
	require.NoError(t, ed25519.VerifyWithOptions(public, digest[:], signature, &ed25519.Options{Hash: crypto.SHA512}))
	_, err = signer.Sign(nil, message, crypto.SHA256)
	require.Error(t, err)

	v.Lock()
	_, err = signer.Sign(nil, message, nil)
	require.ErrorIs(t, err, vault.ErrLocked)
}

// Each caller has a copy of its own, from the cache or not.
func TestKeysAreCopies(t *testing.T) {
	for name, config := range map[string]vault.Config{"cached": {}, "not cached": {CacheSize: -1}, "evicted": {CacheSize: 1}} {
		t.Run(name, func(t *testing.T) {
			v := unlocked(t, config)
			first, err := v.IdentityKey()
			require.NoError(t, err)
			private, public := privateHex(t, first), slices.Clone(first.Public)
			require.NoError(t, first.Use(func(b []byte) { clear(b) }))
			clear(first.Public)
			first.Wipe()
			first.Wipe()
			called := false
			require.ErrorIs(t, first.Use(func([]byte) { called = true }), vault.ErrWiped)
			require.False(t, called)

			_, err = v.PublicKey(vault.SSHHost)
			require.NoError(t, err)
			second, err := v.IdentityKey()
			require.NoError(t, err)
			require.Equal(t, private, privateHex(t, second))
			require.Equal(t, public, second.Public)
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	v := unlocked(t, vault.Config{CacheSize: 2, CacheTTL: time.Microsecond})
	want, err := v.PublicKey(vault.Identity)
	require.NoError(t, err)
	signer, err := v.Signer(vault.Identity)
	require.NoError(t, err)
	m := parse(t, about)
	var users sync.WaitGroup
	for n := range 4 {
		path, err := vault.DevicePath(uint32(n))
		require.NoError(t, err)
		users.Go(func() {
			for range 50 {
				if key, err := v.DeriveEd25519(path); err == nil {
					assert.NoError(t, key.Use(func(b []byte) { assert.Len(t, b, 32) }))
					key.Wipe()
				} else {
					assert.ErrorIs(t, err, vault.ErrLocked)
				}
				if signature, err := signer.Sign(nil, []byte("x"), nil); err == nil {
					assert.True(t, ed25519.Verify(want, []byte("x"), signature))
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
