package vault

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockedMemory returns size zero bytes outside the heap, and what frees them:
// kept out of the swap, core dumps and child processes. locked is false when
// one of the three could not be had; all is nil when there are no such pages.
func lockedMemory(size int) (b []byte, free func(), locked bool) {
	page := os.Getpagesize()
	pages, err := unix.Mmap(-1, 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, false
	}
	locked = unix.Mlock(pages) == nil
	locked = unix.Madvise(pages, unix.MADV_DONTDUMP) == nil && locked
	locked = unix.Madvise(pages, unix.MADV_DONTFORK) == nil && locked
	return pages[:size:size], func() { _ = unix.Munmap(pages) }, locked
}

// HardenProcess keeps the secrets of this process out of core dumps, and other
// processes of the same user away from its memory: no core file, and not
// dumpable, which also refuses ptrace to all but root. On other systems than
// Linux it sets the limit on core files, where there is one. It is for the main
// function of a command, before secrets are read.
func HardenProcess() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}
