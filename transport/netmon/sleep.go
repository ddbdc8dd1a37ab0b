package netmon

import "time"

// Between two checks a second apart, more than this is sleep.
const (
	maxParting = 2 * time.Second // of the wall clock from the monotonic one, which stands still in sleep
	// From check to check, where it does not stand still. A process that a busy
	// machine lets wait for a few seconds did not sleep, and would only add to its
	// work; what was silent for longer than this is lost anyway.
	maxLate = 20 * time.Second
)

// reading is one look at both clocks.
type reading struct{ wall, mono time.Duration }

// clocks returns a function that looks at both clocks at once.
func clocks() func() reading {
	start := time.Now()
	return func() reading {
		now := time.Now()
		return reading{wall: time.Duration(now.UnixNano()), mono: now.Sub(start)}
	}
}

// slept reports whether the machine, or this process, stood still between two
// checks. A wall clock that is set forward looks the same, and does no harm.
func slept(a, b reading) bool {
	wall, mono := b.wall-a.wall, b.mono-a.mono
	return wall-mono > maxParting || mono > maxLate
}
