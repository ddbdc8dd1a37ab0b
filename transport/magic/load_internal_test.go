package magic

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// PATH-18: what says little goes first; what says much at once, or for long, is
// busy until it has been quiet.
func TestPATH18Load(t *testing.T) {
	now := time.Now()
	var l load
	add := func(after time.Duration, n int) (int8, bool) {
		now = now.Add(after)
		return l.add(n, now)
	}
	expect := func(want int8, wantChanged bool, after time.Duration, n int) {
		t.Helper()
		got, changed := add(after, n)
		require.Equal(t, want, got)
		require.Equal(t, wantChanged, changed)
	}
	expect(sparse, true, 0, 1)
	for range 1000 { // 60 kB/s
		expect(sparse, false, 10*time.Millisecond, 600)
	}
	expect(busy, true, 0, 10<<20)
	expect(busy, false, time.Second, 1)
	expect(busy, false, 500*time.Millisecond, 1)
	expect(sparse, true, 500*time.Millisecond, 1)

	for range 20 { // 100 kB/s
		add(10*time.Millisecond, 1000)
	}
	require.Equal(t, sparse, l.now, "a burst is none")
	for range 200 {
		add(10*time.Millisecond, 1000)
	}
	require.Equal(t, busy, l.now)
	for range 1000 { // a little below the limit, without a pause
		expect(busy, false, 10*time.Millisecond, 640)
	}
	now = now.Add(-time.Hour)
	expect(busy, false, 0, 1)
}
