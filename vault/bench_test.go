package vault_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

func BenchmarkUnlock(b *testing.B) {
	v := locked(b, vault.Config{})
	m := parse(b, about)
	for b.Loop() {
		require.NoError(b, v.Unlock(m, nil))
		v.Lock()
	}
}

func BenchmarkDerive(b *testing.B) {
	v := unlocked(b, vault.Config{CacheSize: -1})
	b.Run("Ed25519", func(b *testing.B) {
		for b.Loop() {
			_, err := v.PublicKey(vault.Identity)
			require.NoError(b, err)
		}
	})
	b.Run("secp256k1", func(b *testing.B) {
		for b.Loop() {
			_, err := v.EthereumPublicKey(vault.Ethereum)
			require.NoError(b, err)
		}
	})
}

func BenchmarkDecrypt(b *testing.B) {
	v := unlocked(b, vault.Config{})
	d, err := v.Encrypt(make([]byte, 100), vault.CurrentKeyVersion)
	require.NoError(b, err)
	for b.Loop() {
		_, err := v.Decrypt(d)
		require.NoError(b, err)
	}
}
