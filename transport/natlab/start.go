package natlab

import (
	"errors"
	"testing"
)

// Start builds a lab for a test and closes it when the test and its subtests
// are over. Where the machine cannot build labs it skips the test, or fails it
// if c says Required.
func Start(t testing.TB, c Config) *Lab {
	t.Helper()

	lab, err := New(c)
	if errors.Is(err, ErrUnavailable) && !c.Required {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("build lab: %v", err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})

	return lab
}
