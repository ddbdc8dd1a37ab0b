//go:build !unix

package vault

// lockedMemory has nothing to offer here: the seed lies on the heap.
func lockedMemory(int) (b []byte, free func(), locked bool) { return nil, nil, false }

// HardenProcess does nothing: this system writes no core files by itself.
func HardenProcess() error { return nil }
