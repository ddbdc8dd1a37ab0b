//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package adapt

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// onOwnThread runs f; nothing here is done to a thread.
func onOwnThread(f func()) { f() }

// confine keeps descriptors of ours from the child. These systems have no
// switch that forbids a child to gain privileges.
func confine(*syscall.SysProcAttr) error { return closeOnExecAll() }

// awaitExit returns when the child has ended and is still to be collected.
func awaitExit(pid int) {
	kq, err := unix.Kqueue()
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(kq) }()
	var change unix.Kevent_t
	unix.SetKevent(&change, pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	change.Fflags = unix.NOTE_EXIT
	changes, events := []unix.Kevent_t{change}, make([]unix.Kevent_t, 1)
	for {
		_, err := unix.Kevent(kq, changes, events, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
