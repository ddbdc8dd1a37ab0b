package main

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peerProcess is the user and the process at the other end of a unix socket,
// as they were when it connected or began to listen.
func peerProcess(c net.Conn) (uid, pid int, err error) {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return 0, 0, errors.New("not a unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	rawErr := raw.Control(func(fd uintptr) {
		var cred *unix.Xucred
		if cred, err = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED); err != nil {
			return
		}
		uid = int(cred.Uid)
		pid, err = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	})
	return uid, pid, errors.Join(err, rawErr)
}

// inOperation returns a function that tells whether a process is the program
// of an operation or was started by one, as far as its parents tell: one that
// has left them behind is not recognised here.
func inOperation() func(pid int) bool {
	return func(pid int) bool {
		return descends(pid, func(pid int) (int, error) {
			info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
			if err != nil {
				return 0, err
			}
			return int(info.Eproc.Ppid), nil
		})
	}
}
