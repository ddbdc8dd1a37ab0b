package legacy_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault/internal/legacy"
	"github.com/alkdev/alknet-p2p/vault/internal/slip10"
)

const h = slip10.Hardened

// seed is of "abandon" ×11 "about" without a passphrase.
const seed = "5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc19a5ac40b389cd370d086206dec8aa6c43daea6690f20ad3d8d48b2d2ce9e38e4"

func TestVectors(t *testing.T) {
	b, err := hex.DecodeString(seed)
	require.NoError(t, err)
	for _, c := range []struct {
		path                     []uint32
		private, public, misread string
	}{
		{
			[]uint32{74 | h, h, h, h},
			"d84331069ae9318a0d0c683654342575f566d34db3b6374b2e1a2ad953714455",
			"c31f799cce43c28697f59cafebf84df6ce0f456a246c2462b41e6c41f132cdce",
			"c63669e17e23a0ca983c767431fec1ddbb9dbcb5258c23ede6eb7a3fbabfc8d8",
		},
		{
			[]uint32{74 | h, 2 | h, h, h},
			"c09713bd47d768abecf9ab4200bf2b521b34b75a41fcf78d8109588345714455",
			"c35a2e72589f035a401ff135fdbe36469f1d96e91f9e5fa4b4bcacd53f2523e6",
			"79c50a84aba59f9ec93b927e76ee9d15db30ce3c497cc174ae307646b50dd782",
		},
		{
			[]uint32{74 | h, 2 | h, h, 1 | h},
			"e04d86a1d83632a6a52e3c12c01c979fb968bc89493bbc6bdc83f12146714455",
			"61634f571d7eea82e32bcfee8acc93182b359ee2c053b7cb056ea25e39d9439b",
			"5044eee4920bbd28223a429289d038e2c5712c2706a3fd57cd6557390fd4e5d3",
		},
	} {
		private, err := legacy.Derive(b, c.path)
		require.NoError(t, err)
		require.Equal(t, c.private, hex.EncodeToString(private))
		public, err := legacy.PublicKey(private)
		require.NoError(t, err)
		require.Equal(t, c.public, hex.EncodeToString(public))
		// What RFC 8032 makes of the private key is another public one.
		misread := ed25519.NewKeyFromSeed(private).Public().(ed25519.PublicKey)
		require.Equal(t, c.misread, hex.EncodeToString(misread))
	}
	require.Equal(t, seed, hex.EncodeToString(b), "the seed is left alone")
}

func TestRefused(t *testing.T) {
	_, err := legacy.Derive(make([]byte, 64), []uint32{h, 5})
	require.ErrorIs(t, err, slip10.ErrNotHardened)
	require.ErrorContains(t, err, "index 2")
	_, err = legacy.Derive(make([]byte, 15), nil)
	require.ErrorIs(t, err, slip10.ErrSeedSize)
}
