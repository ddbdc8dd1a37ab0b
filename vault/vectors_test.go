package vault_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
	"github.com/alkdev/alknet-p2p/vault/internal/slip10"
)

// All English vectors of BIP-39: each phrase must give the keys of its seed.
// What a seed gives, the vectors of SLIP-0010 show.
func TestBIP39Vectors(t *testing.T) {
	var file struct {
		Vectors []struct{ Entropy, Mnemonic, Seed string }
	}
	readJSON(t, "internal/mnemonic/testdata/bip39.json", &file)
	require.Len(t, file.Vectors, 24)
	const h = slip10.Hardened
	for _, c := range file.Vectors {
		seed, err := hex.DecodeString(c.Seed)
		require.NoError(t, err)
		node, err := slip10.Derive(seed, []uint32{74 | h, h, h, h})
		require.NoError(t, err)
		v := locked(t, vault.Config{})
		require.NoError(t, v.Unlock(parse(t, c.Mnemonic), []byte("TREZOR")))
		key, err := v.IdentityKey()
		require.NoError(t, err)
		require.Equal(t, hex.EncodeToString(node[:slip10.KeySize]), privateHex(t, key), c.Mnemonic)
	}
}

// The official vectors of both derivations, from their seeds on through the
// public calls, which give no master key.
func TestDerivationVectors(t *testing.T) {
	for name, c := range map[string]struct {
		file    string
		rows    int
		keyType vault.KeyType
		derive  func(*vault.Vault, vault.Path) (*vault.DerivedKey, error)
		public  func(*vault.Vault, vault.Path) ([]byte, error)
	}{
		"SLIP-0010": {"internal/slip10/testdata/slip10-ed25519.json", 12, vault.Ed25519, (*vault.Vault).DeriveEd25519, (*vault.Vault).PublicKey},
		"BIP-32":    {"internal/bip32/testdata/bip32.json", 17, vault.Secp256k1, (*vault.Vault).DeriveEthereumKey, (*vault.Vault).EthereumPublicKey},
	} {
		t.Run(name, func(t *testing.T) {
			var file struct {
				Vectors []struct{ Seed, Path, Private, Public string }
			}
			readJSON(t, c.file, &file)
			require.Len(t, file.Vectors, c.rows)
			for _, row := range file.Vectors {
				v := locked(t, vault.Config{})
				seed, err := hex.DecodeString(row.Seed)
				require.NoError(t, err)
				require.NoError(t, vault.UnlockSeed(v, seed))
				key, err := c.derive(v, vault.Path(row.Path))
				if row.Path == "m" {
					require.ErrorIs(t, err, vault.ErrInvalidPath)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, c.keyType, key.KeyType)
				require.Equal(t, row.Private, privateHex(t, key))
				public, err := c.public(v, vault.Path(row.Path))
				require.NoError(t, err)
				require.Equal(t, key.Public, public)
				if row.Public != "" {
					require.Equal(t, row.Public, hex.EncodeToString(public))
				}
			}
		})
	}
}

func TestAESVectors(t *testing.T) {
	for _, c := range projectVectors(t).AES {
		v := locked(t, vault.Config{})
		require.NoError(t, v.Unlock(parse(t, about), []byte(c.Passphrase)))
		key, err := v.DeriveEncryptionKeyForVersion(c.Version)
		require.NoError(t, err)
		require.Equal(t, vault.AES256GCM, key.KeyType)
		require.Nil(t, key.Public)
		require.Equal(t, c.Private, privateHex(t, key))
		path, err := vault.EncryptionPath(c.Version)
		require.NoError(t, err)
		same, err := v.DeriveEncryptionKey(path)
		require.NoError(t, err)
		require.Equal(t, c.Private, privateHex(t, same))
	}
}

func TestEthereumVector(t *testing.T) {
	want := projectVectors(t).Ethereum
	require.EqualValues(t, want.Path, vault.Ethereum)
	v := unlocked(t, vault.Config{})
	key, err := v.DeriveEthereumKey(vault.Ethereum)
	require.NoError(t, err)
	require.Equal(t, want.Private, privateHex(t, key))
	require.Equal(t, want.Public, hex.EncodeToString(key.Public))
	public, err := v.EthereumPublicKey("m/44h/60h/0h/0/0")
	require.NoError(t, err)
	require.Equal(t, key.Public, public)
}

// Each type of key has its own paths (vault §2).
func TestPathsOfTypes(t *testing.T) {
	for name, v := range map[string]*vault.Vault{"unlocked": unlocked(t, vault.Config{}), "locked": locked(t, vault.Config{})} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []vault.Path{
				"", "m", "junk", "m/74'", "m/74'/2'", vault.Identity, vault.Ethereum, "m/74'/20'/0'", "m/74'/2'/0", "m/74'/2/0'", "m/74'/02'/0'",
			} {
				_, err := v.DeriveEncryptionKey(path)
				require.ErrorIs(t, err, vault.ErrInvalidPath, path)
			}
			for _, path := range []vault.Path{"", "m", "m/", "m/-1", "m/44'/60'/0'/0/x"} {
				_, err := v.DeriveEthereumKey(path)
				require.ErrorIs(t, err, vault.ErrInvalidPath, path)
				_, err = v.EthereumPublicKey(path)
				require.ErrorIs(t, err, vault.ErrInvalidPath, path)
			}
			for _, version := range []uint32{0, 1, vault.MaxIndex + 3, 1<<32 - 1} {
				_, err := v.DeriveEncryptionKeyForVersion(version)
				require.ErrorIs(t, err, vault.ErrInvalidPath, version)
				_, err = v.Encrypt(nil, version)
				require.ErrorIs(t, err, vault.ErrInvalidPath, version)
				_, err = v.Decrypt(&vault.EncryptedData{KeyVersion: version, IV: make([]byte, 12), Data: make([]byte, 16)})
				require.ErrorIs(t, err, vault.ErrInvalidPath, version)
			}
			_, err := v.IdentitySigner(vault.MaxIndex+1, 0)
			require.ErrorIs(t, err, vault.ErrInvalidPath)
		})
	}
}

// One path is three keys: the cache tells them apart (vault D5).
func TestTypesShareNoKey(t *testing.T) {
	v := unlocked(t, vault.Config{})
	const path = "m/74'/9'/0'"
	for range 2 {
		ed, err := v.DeriveEd25519(path)
		require.NoError(t, err)
		eth, err := v.DeriveEthereumKey(path)
		require.NoError(t, err)
		require.Equal(t, vault.Ed25519, ed.KeyType)
		require.Equal(t, vault.Secp256k1, eth.KeyType)
		require.NotEqual(t, privateHex(t, ed), privateHex(t, eth))
		require.Len(t, eth.Public, 33)
	}
}

func TestIdentitySigner(t *testing.T) {
	v := unlocked(t, vault.Config{Generation: 1})
	for _, c := range []struct {
		device, generation uint32
		path               vault.Path
	}{{0, 0, vault.Identity}, {0, 1, "m/74'/0'/0'/0'/1'"}, {1, 1, "m/74'/0'/0'/1'/1'"}} {
		signer, err := v.IdentitySigner(c.device, c.generation)
		require.NoError(t, err)
		want, err := v.PublicKey(c.path)
		require.NoError(t, err)
		require.EqualValues(t, want, signer.Public())
	}
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, v))
}
