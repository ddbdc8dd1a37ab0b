//go:build unix && !linux

package vault

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockedMemory has nothing to offer here: the seed lies on the heap.
func lockedMemory(int) (b []byte, free func(), locked bool) { return nil, nil, false }

// HardenProcess sets the limit on core files to zero. On Linux it does more.
func HardenProcess() error {
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}
