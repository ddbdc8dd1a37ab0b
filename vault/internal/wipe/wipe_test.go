package wipe_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

func TestBytes(t *testing.T) {
	wipe.Bytes(nil)
	for _, n := range []int{1, 32, 200, 5000} {
		b := bytes.Repeat([]byte{0xff}, n+2)
		wipe.Bytes(b[1 : n+1])
		require.Equal(t, make([]byte, n), b[1:n+1])
		require.Equal(t, []byte{0xff, 0xff}, []byte{b[0], b[n+1]}, "and no more than that")
	}
}
