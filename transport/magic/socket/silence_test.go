package socket

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// PATH-18: how long a peer was silent is known after a period, for one to two
// periods, and no more when nobody looked for longer.
func TestPATH18Silences(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	var l silences
	for _, step := range []struct{ at, silent, want time.Duration }{
		{3600 * s, 50 * ms, 0},
		{3600*s + 500*ms, 7 * ms, 0},
		{3601 * s, 1 * ms, 50 * ms},
		{3601*s + 999*ms, 2 * ms, 50 * ms},
		{3602 * s, 1 * ms, 2 * ms},
		{3602*s + 10*ms, 30 * ms, 30 * ms},
		{3605 * s, 1 * ms, 0},
	} {
		l.note(step.silent, int64(step.at))
		require.Equal(t, step.want, l.longest(), step.at)
	}
}
