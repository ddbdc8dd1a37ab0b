package path_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/path"
)

// PATH-9: a path is asked at once, and a narrow one ever more rarely after that.
func TestPATH9NarrowPathIsAskedAgain(t *testing.T) {
	var w path.Width
	start := time.Unix(1000, 0)
	var asked []time.Duration
	for now := start; now.Sub(start) < 4*time.Minute; now = now.Add(time.Second) {
		if w.Due(now) {
			w.Asked(now, false)
			asked = append(asked, now.Sub(start)/time.Second)
		}
	}
	require.Equal(t, []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183}, asked)
}

// PATH-9: only a narrow ping that is answered while the wide one before it is
// not makes a path narrow; then it is asked again at once.
func TestPATH9WhatMakesAPathNarrow(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(1000, 0).Add(time.Duration(n) * 10 * time.Millisecond) }
	wide := func() *path.Width {
		w := new(path.Width)
		w.Asked(at(0), false)
		w.Carried(at(0))
		return w
	}
	w := wide()
	require.False(t, w.Failed(at(1)), "nothing is open")
	w.Asked(at(2), true)
	require.False(t, w.Failed(at(1)), "the narrow one left before")
	require.True(t, w.Failed(at(2)))
	require.True(t, w.Due(at(3)))
	w.Asked(at(3), false)
	require.False(t, w.Due(at(4)), "once at once")
	w.Carried(at(3))
	require.False(t, w.Failed(at(4)))

	w = wide() // a wide ping is lost, the next one is not
	w.Asked(at(2), true)
	w.Asked(at(4), true)
	w.Carried(at(4))
	require.False(t, w.Failed(at(4)))

	w = wide() // several are under way, the answers are late
	w.Asked(at(2), true)
	w.Asked(at(4), true)
	w.Asked(at(6), true)
	w.Carried(at(2))
	require.False(t, w.Failed(at(2)))
	w.Carried(at(6))
	require.False(t, w.Failed(at(6)))
}
