package adapt

import (
	"errors"
	"math"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// onOwnThread runs f on a thread that ends when f returns, so that what f does
// to the thread ends too. It must be called at the end of a goroutine.
func onOwnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // without unlocking: the thread ends with the goroutine
	}
	// The process's first thread never ends. While this goroutine holds it,
	// another one gets another thread.
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(f)
	}()
	<-done
	runtime.UnlockOSThread()
}

// confine readies the calling thread and attr for a child that gains
// no privilege by what it runs, inherits no descriptor, and dies with this
// process even if that is killed.
func confine(attr *syscall.SysProcAttr) error {
	attr.Pdeathsig = syscall.SIGKILL // when the thread ends; it outlives the child
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) { // before Linux 5.11
		err = closeOnExecAll()
	}
	return err
}

// awaitExit returns when the child has ended and is still to be collected.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
