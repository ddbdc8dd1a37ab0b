package bip32_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault/internal/bip32"
)

func TestOfficialVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/bip32.json")
	require.NoError(t, err)
	var file struct {
		Vectors []struct {
			Seed, Path, Private, Public string
			ChainCode                   string `json:"chain_code"`
		}
	}
	require.NoError(t, json.Unmarshal(data, &file))
	require.Len(t, file.Vectors, 17)
	for _, v := range file.Vectors {
		t.Run(v.Path, func(t *testing.T) {
			seed, err := hex.DecodeString(v.Seed)
			require.NoError(t, err)
			node, err := bip32.Derive(seed, indices(t, v.Path))
			require.NoError(t, err)
			require.Len(t, node, bip32.NodeSize)
			require.Equal(t, v.Private, hex.EncodeToString(node[:bip32.KeySize]))
			if v.Public != "" {
				require.Equal(t, v.ChainCode, hex.EncodeToString(node[bip32.KeySize:]))
				require.Equal(t, v.Public, hex.EncodeToString(bip32.PublicKey(node[:bip32.KeySize])))
			}
			require.Equal(t, v.Seed, hex.EncodeToString(seed), "the seed is left alone")
		})
	}
}

func TestSeedSize(t *testing.T) {
	for size, ok := range map[int]bool{0: false, 15: false, 16: true, 64: true, 65: false} {
		_, err := bip32.Derive(make([]byte, size), nil)
		if ok {
			require.NoError(t, err, size)
		} else {
			require.ErrorIs(t, err, bip32.ErrSeedSize, size)
		}
	}
}

func indices(t *testing.T, path string) []uint32 {
	t.Helper()
	var out []uint32
	for _, level := range strings.Split(path, "/")[1:] {
		digits := strings.TrimSuffix(level, "'")
		index, err := strconv.ParseUint(digits, 10, 31)
		require.NoError(t, err)
		if digits != level {
			index |= uint64(bip32.Hardened)
		}
		out = append(out, uint32(index))
	}
	return out
}
