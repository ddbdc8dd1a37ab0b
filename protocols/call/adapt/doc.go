// Package adapt makes operations out of things that are none, so that they are
// served by the call protocol without a line of Go: so far programs, by [Exec].
package adapt
