package bip32

import (
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
)

const order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"

// No seed is known that leads here, so the step is tested by itself.
func TestInvalidKeys(t *testing.T) {
	number := func(text string) []byte {
		b, err := hex.DecodeString(text)
		require.NoError(t, err)
		return append(make([]byte, KeySize-len(b)), b...)
	}
	for name, c := range map[string]struct{ left, parent, sum string }{
		"sum":                  {"02", "03", "05"},
		"sum above the order":  {"02", order[:62] + "40", "01"},
		"leading zeros":        {"00", "01", "01"},
		"order minus one":      {order[:62] + "40", "00", order[:62] + "40"},
		"left is the order":    {order, "01", ""},
		"left above the order": {order[:62] + "42", "01", ""},
		"sum is zero":          {order[:62] + "40", "01", ""},
		"both zero":            {"00", "00", ""},
	} {
		t.Run(name, func(t *testing.T) {
			left := number(c.left)
			err := addKey(left, number(c.parent))
			if c.sum == "" {
				require.ErrorIs(t, err, ErrInvalidKey)
				return
			}
			require.NoError(t, err)
			require.Equal(t, number(c.sum), left)
		})
	}
}
