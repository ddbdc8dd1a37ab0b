package ping

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var kinds = map[string]kind{"ping": kindPing, "pong": kindPong}

// vectors calls f for every line of testdata/frames.txt; k is 0 for bytes that
// are no frame.
func vectors(tb testing.TB, f func(k kind, seq uint64, frame []byte)) {
	tb.Helper()
	file, err := os.Open("testdata/frames.txt")
	require.NoError(tb, err)
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		frame, err := hex.DecodeString(fields[len(fields)-1])
		require.NoError(tb, err)
		var seq uint64
		if len(fields) == 3 {
			seq, err = strconv.ParseUint(fields[1], 10, 64)
			require.NoError(tb, err)
		}
		f(kinds[fields[0]], seq, frame)
	}
	require.NoError(tb, lines.Err())
}

func TestFrameVectors(t *testing.T) {
	n := 0
	vectors(t, func(k kind, seq uint64, frame []byte) {
		n++
		if k == 0 {
			for _, k := range kinds {
				_, err := parseFrame(frame, k)
				require.ErrorIs(t, err, errFrame, "%x", frame)
			}
			return
		}
		got, err := parseFrame(frame, k)
		require.NoError(t, err)
		require.Equal(t, seq, got)
		require.Equal(t, frame, appendFrame(nil, k, seq))
		_, err = parseFrame(frame, kindPing+kindPong-k)
		require.ErrorIs(t, err, errFrame)
	})
	require.Equal(t, 11, n)
}

func FuzzFrame(f *testing.F) {
	vectors(f, func(_ kind, _ uint64, frame []byte) { f.Add(frame) })
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, k := range kinds {
			if seq, err := parseFrame(b, k); err == nil && !bytes.Equal(appendFrame(nil, k, seq), b) {
				t.Fatalf("%x read as %d and written as another frame", b, seq)
			}
		}
	})
}
