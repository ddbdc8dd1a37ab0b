package hmac_test

import (
	stdhmac "crypto/hmac"
	"crypto/sha512"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alkdev/alknet-p2p/vault/internal/hmac"
)

// The sum is the standard library's, for keys and inputs around the block size.
func TestSumIsTheStandardOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "key")
		parts := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 300), 0, 3).Draw(t, "parts")
		mac := stdhmac.New(sha512.New, key)
		for _, part := range parts {
			mac.Write(part)
		}
		out := make([]byte, hmac.Size)
		hmac.Sum(out, key, parts...)
		require.Equal(t, mac.Sum(nil), out)

		again := hmac.New(key)
		for range 2 {
			again.Sum(out, parts...)
			require.Equal(t, mac.Sum(nil), out)
			again.Sum(out, out) // of another length, in between
			again.Sum(out, make([]byte, 1000))
		}
		again.Wipe()
	})
	for n := range 3 * sha512.BlockSize {
		mac := stdhmac.New(sha512.New, make([]byte, n))
		mac.Write(make([]byte, n))
		out := make([]byte, hmac.Size)
		hmac.Sum(out, make([]byte, n), make([]byte, n))
		require.Equal(t, mac.Sum(nil), out, n)
	}
}

// The result may go where key or input was.
func TestSumInPlace(t *testing.T) {
	node := make([]byte, 64)
	want := make([]byte, 64)
	hmac.Sum(want, make([]byte, 32), make([]byte, 64))
	hmac.Sum(node, node[32:], node)
	require.Equal(t, want, node)
}
