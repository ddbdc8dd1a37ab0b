package slip10_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault/internal/slip10"
)

func TestOfficialVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/slip10-ed25519.json")
	require.NoError(t, err)
	var file struct {
		Vectors []struct {
			Seed, Path, Private, Public string
			ChainCode                   string `json:"chain_code"`
		}
	}
	require.NoError(t, json.Unmarshal(data, &file))
	require.Len(t, file.Vectors, 12)
	for _, v := range file.Vectors {
		t.Run(v.Path, func(t *testing.T) {
			seed, err := hex.DecodeString(v.Seed)
			require.NoError(t, err)
			node, err := slip10.Derive(seed, indices(t, v.Path))
			require.NoError(t, err)
			require.Len(t, node, slip10.NodeSize)
			require.Equal(t, v.Private, hex.EncodeToString(node[:slip10.KeySize]))
			require.Equal(t, v.ChainCode, hex.EncodeToString(node[slip10.KeySize:]))
			public := ed25519.NewKeyFromSeed(node[:slip10.KeySize]).Public().(ed25519.PublicKey)
			require.Equal(t, v.Public, hex.EncodeToString(public))
			require.Equal(t, v.Seed, hex.EncodeToString(seed), "the seed is left alone")
		})
	}
}

func TestSeedSize(t *testing.T) {
	for size, ok := range map[int]bool{0: false, 15: false, 16: true, 64: true, 65: false} {
		_, err := slip10.Derive(make([]byte, size), nil)
		if ok {
			require.NoError(t, err, size)
		} else {
			require.ErrorIs(t, err, slip10.ErrSeedSize, size)
		}
	}
}

func TestHardenedOnly(t *testing.T) {
	node, err := slip10.Derive(make([]byte, 16), []uint32{slip10.Hardened, 5})
	require.ErrorIs(t, err, slip10.ErrNotHardened)
	require.ErrorContains(t, err, "index 2")
	require.Nil(t, node)
}

func indices(t *testing.T, path string) []uint32 {
	t.Helper()
	var out []uint32
	for _, level := range strings.Split(path, "/")[1:] {
		index, err := strconv.ParseUint(strings.TrimSuffix(level, "'"), 10, 31)
		require.NoError(t, err)
		out = append(out, uint32(index)|slip10.Hardened)
	}
	return out
}
