package socket

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// PATH-18: packets sent again have the ECN marks they had: a QUIC receiver that
// counts fewer than were sent makes its peer do without ECN for good.
func TestPATH18PacketsSentAgainKeepTheirMarks(t *testing.T) {
	var r ring
	for i := range byte(replayLen + 2) {
		r.keep([]byte{i}, i&3, int64(i))
	}
	next := byte(0)
	r.eachSmall(replayLen+2, func(b []byte, ecn byte) {
		require.Equal(t, []byte{next}, b)
		require.Equal(t, next&3, ecn)
		next++
	})
	require.EqualValues(t, 2, next, "the first two gave way")
	r.each(replayLen+2, func(b []byte, ecn byte) {
		require.Equal(t, []byte{next}, b)
		require.Equal(t, next&3, ecn)
		next++
	})
	require.EqualValues(t, replayLen+2, next)
}
