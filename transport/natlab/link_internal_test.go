package natlab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLaneDelay(t *testing.T) {
	var a lane
	now := time.Now()
	l := Link{Delay: 40 * time.Millisecond}
	due, ok := a.admit(l, now, 1500)
	require.True(t, ok)
	assert.Equal(t, now.Add(l.Delay), due)

	// A shorter delay does not let later packets overtake.
	due, ok = a.admit(Link{}, now.Add(time.Millisecond), 1500)
	require.True(t, ok)
	assert.Equal(t, now.Add(l.Delay), due)
	due, ok = a.admit(Link{}, now.Add(time.Second), 1500)
	require.True(t, ok)
	assert.Equal(t, now.Add(time.Second), due)
}

func TestLaneJitter(t *testing.T) {
	l := Link{Delay: 10 * time.Millisecond, Jitter: 10 * time.Millisecond}
	var a lane
	now := time.Now()
	seen := make(map[time.Duration]bool)
	var last time.Time
	for range 100 {
		now = now.Add(time.Millisecond)
		due, ok := a.admit(l, now, 100)
		require.True(t, ok)
		require.False(t, due.Before(last), "overtakes")
		require.GreaterOrEqual(t, due.Sub(now), l.Delay)
		require.Less(t, due.Sub(now), l.Delay+l.Jitter)
		last = due
		seen[due.Sub(now)] = true
	}
	assert.Greater(t, len(seen), 10)
}

func TestLaneRate(t *testing.T) {
	// 1250 bytes take 1 ms, and the queue holds 10 ms.
	l := Link{Rate: 10_000_000, Queue: 10 * time.Millisecond, Delay: time.Second}
	var a lane
	now := time.Now()
	taken := 0
	for range 100 {
		due, ok := a.admit(l, now, 1250)
		if ok {
			taken++
			assert.Equal(t, now.Add(l.Delay+time.Duration(taken)*time.Millisecond), due)
		}
	}
	assert.Equal(t, 11, taken, "10 in the queue and 1 on the line")

	_, ok := a.admit(l, now.Add(2*time.Millisecond), 1250)
	assert.True(t, ok, "the queue has drained")

	l.Queue = 0
	a, taken = lane{}, 0
	for range 1000 {
		if _, ok := a.admit(l, now, 1250); ok {
			taken++
		}
	}
	assert.Equal(t, 101, taken, "100 ms by default")
}

func TestLaneLoss(t *testing.T) {
	var a lane
	lost := 0
	for range 10_000 {
		if _, ok := a.admit(Link{Loss: 0.25}, time.Now(), 100); !ok {
			lost++
		}
	}
	assert.InDelta(t, 2500, lost, 500)
	_, ok := a.admit(Link{Loss: 1}, time.Now(), 100)
	assert.False(t, ok)
}
