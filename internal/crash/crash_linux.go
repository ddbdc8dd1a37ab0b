// Package crash kills a program at a system call of choice, for tests of what
// it leaves behind. Between two system calls that change a file nothing of a
// program's files changes: who has been killed at each of them has been killed
// at every moment.
package crash

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// At starts a program and kills it, as kill -9 does, as one of its threads
// enters the step-th system call that may change a file, counted from 1. It
// returns the call it was killed at, or "" when it came to its end before; that
// this was exit status 0 is for err to deny. Nothing of it runs any more then.
// Of attr, Sys is not used. The error is unix.EPERM where processes may not be
// traced. What the program starts itself is not looked at.
func At(step int, path string, args []string, attr os.ProcAttr) (call string, err error) {
	runtime.LockOSThread() // one thread traces
	defer runtime.UnlockOSThread()
	// A group of its own, so that it alone is waited for.
	attr.Sys = &syscall.SysProcAttr{Ptrace: true, Setpgid: true}
	p, err := os.StartProcess(path, args, &attr)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Release() }()
	defer func() {
		if err != nil {
			_ = unix.Kill(p.Pid, unix.SIGKILL)
		}
	}()
	status, _, err := wait(p.Pid)
	if err != nil {
		return "", err
	}
	if !status.Stopped() {
		return "", fmt.Errorf("%s: not stopped at its start", path)
	}
	const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(p.Pid, options); err != nil {
		return "", err
	}
	if err := unix.PtraceSyscall(p.Pid, 0); err != nil {
		return "", err
	}
	for {
		status, thread, err := wait(p.Pid)
		switch {
		case err != nil:
			return "", err
		case thread == p.Pid && status.Signaled() && call != "":
			return call, nil
		case thread == p.Pid && (status.Exited() || status.Signaled()):
			if status.ExitStatus() != 0 {
				return "", fmt.Errorf("%s: exit status %d, signal %v", path, status.ExitStatus(), status.Signal())
			}
			return "", nil
		case !status.Stopped() || call != "":
			continue
		}
		signal := status.StopSignal()
		switch signal {
		case unix.SIGTRAP | 0x80: // a system call
			name, err := change(thread)
			if err != nil {
				return "", err
			}
			if name != "" {
				step--
			}
			if step == 0 {
				call = name
				if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
					return "", err
				}
				continue
			}
			signal = 0
		case unix.SIGTRAP, unix.SIGSTOP: // a new thread, on either side
			signal = 0
		}
		if err := unix.PtraceSyscall(thread, int(signal)); err != nil && !errors.Is(err, unix.ESRCH) {
			return "", err
		}
	}
}

// wait waits for any thread of a process that this one traces.
func wait(pid int) (status unix.WaitStatus, thread int, err error) {
	const only = 0x20000000 | unix.WALL // __WNOTHREAD: what this thread traces
	for {
		thread, err = unix.Wait4(-pid, &status, only, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, thread, err
		}
	}
}

// change names the system call that a thread is entering if it may change a
// file; else, and on the way out of one, "".
func change(thread int) (string, error) {
	// struct ptrace_syscall_info, up to the arguments of an entry.
	var info struct {
		op     uint8
		_      [3]uint8
		arch   uint32
		ip, sp uint64
		nr     uint64
		args   [6]uint64
	}
	const getSyscallInfo, entry = 0x420e, 1
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0) //nolint:gosec // the kernel writes there
	if errno == unix.ESRCH {
		return "", nil // it has ended meanwhile
	}
	if errno != 0 {
		return "", errno
	}
	if info.op != entry {
		return "", nil
	}
	name := calls[info.nr]
	switch name {
	case "openat":
		const writes = unix.O_CREAT | unix.O_TRUNC | unix.O_WRONLY | unix.O_RDWR
		if info.args[2]&writes == 0 {
			return "", nil
		}
	case "write", "writev", "pwrite64":
		// Not to a pipe, a socket, a device or a counter of events.
		file, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, info.args[0]))
		if !strings.HasPrefix(file, "/") || strings.HasPrefix(file, "/dev/") {
			return "", nil
		}
	}
	return name, nil
}

// calls are those that may change a file, and that Go's standard library makes
// on every architecture.
var calls = map[uint64]string{
	unix.SYS_OPENAT: "openat", unix.SYS_WRITE: "write", unix.SYS_WRITEV: "writev", unix.SYS_PWRITE64: "pwrite64",
	unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FALLOCATE: "fallocate", unix.SYS_COPY_FILE_RANGE: "copy_file_range",
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat",
	unix.SYS_FCHOWN: "fchown", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_LINKAT: "linkat", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat",
}
