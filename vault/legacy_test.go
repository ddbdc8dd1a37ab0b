package vault_test

import (
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

func legacy(t *testing.T, passphrase string, asIs bool) *vault.Legacy {
	t.Helper()
	l, err := vault.NewLegacy(parse(t, about), []byte(passphrase), asIs)
	require.NoError(t, err)
	t.Cleanup(l.Wipe)
	return l
}

func TestLegacyVectors(t *testing.T) {
	vectors := projectVectors(t)
	l := legacy(t, "", false)
	var d vault.EncryptedData
	require.NoError(t, json.Unmarshal(vectors.Legacy.Sealed, &d))
	plaintext, err := l.Decrypt(&d)
	require.NoError(t, err)
	require.Equal(t, vectors.Encrypted.Plaintext, string(plaintext))
	public, err := l.PublicKey(vault.Identity)
	require.NoError(t, err)
	require.Equal(t, vectors.Legacy.Identity, hex.EncodeToString(public))

	// The vault cannot open it, and it cannot open what the vault sealed.
	v := unlocked(t, vault.Config{})
	_, err = v.Decrypt(&d)
	require.ErrorIs(t, err, vault.ErrEncryption)
	sealed, err := v.Encrypt(plaintext, 2)
	require.NoError(t, err)
	_, err = l.Decrypt(sealed)
	require.ErrorIs(t, err, vault.ErrEncryption)
}

// The oldest builds sealed every version with the key of version 2.
func TestLegacyOldestBuilds(t *testing.T) {
	l := legacy(t, "", false)
	var d vault.EncryptedData
	require.NoError(t, json.Unmarshal(projectVectors(t).Legacy.Sealed, &d))
	for _, version := range []uint32{0, 1, 3, 9, 1<<32 - 1} {
		d.KeyVersion = version
		plaintext, err := l.Decrypt(&d)
		require.NoError(t, err, version)
		require.Equal(t, "hello, alknet vault!", string(plaintext))
	}
	d.Data[0] ^= 1
	_, err := l.Decrypt(&d)
	require.ErrorIs(t, err, vault.ErrInvalidPath)
	d.KeyVersion = 3
	_, err = l.Decrypt(&d)
	require.ErrorIs(t, err, vault.ErrEncryption)
	_, err = l.Decrypt(nil)
	require.ErrorIs(t, err, vault.ErrEncryption)
}

// They hashed a passphrase without normalising it, which shows outside ASCII.
func TestLegacyPassphrase(t *testing.T) {
	identity := func(passphrase string, asIs bool) string {
		public, err := legacy(t, passphrase, asIs).PublicKey(vault.Identity)
		require.NoError(t, err)
		return hex.EncodeToString(public)
	}
	require.Equal(t, identity("TREZOR", false), identity("TREZOR", true))
	require.Equal(t, identity("e\u0301", false), identity("\u00e9", false))
	require.Equal(t, identity("e\u0301", false), identity("e\u0301", true))
	require.NotEqual(t, identity("\u00e9", false), identity("\u00e9", true))

	for _, asIs := range []bool{false, true} {
		_, err := vault.NewLegacy(parse(t, about), []byte{0xff}, asIs)
		require.ErrorIs(t, err, vault.ErrMnemonic)
		_, err = vault.NewLegacy(nil, nil, asIs)
		require.ErrorIs(t, err, vault.ErrMnemonic)
		_, err = vault.NewLegacy(&vault.Mnemonic{}, nil, asIs)
		require.ErrorIs(t, err, vault.ErrWiped)
	}
}

func TestLegacyPathsAndWipe(t *testing.T) {
	l := legacy(t, "", false)
	for _, path := range []vault.Path{"", "m", "junk", "m/74'/0", vault.Ethereum} {
		_, err := l.PublicKey(path)
		require.ErrorIs(t, err, vault.ErrInvalidPath, path)
	}
	l.Wipe()
	l.Wipe()
	_, err := l.PublicKey(vault.Identity)
	require.ErrorIs(t, err, vault.ErrWiped)
	_, err = l.Decrypt(&vault.EncryptedData{KeyVersion: 2, IV: make([]byte, 12), Data: make([]byte, 16)})
	require.ErrorIs(t, err, vault.ErrWiped)
}
