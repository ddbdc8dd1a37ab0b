package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

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
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid, pid = int(cred.Uid), int(cred.Pid)
		}
	})
	return uid, pid, errors.Join(err, rawErr)
}

// inOperation returns a function that tells whether a process is the program
// of an operation or was started by one. Such a process is below this one, or
// has left its parents behind; but it never gets rid of no_new_privs, in which
// it was started. A node that was itself started so goes by the parents alone.
func inOperation() func(pid int) bool {
	_, ours, err := processStatus(os.Getpid())
	marked := err == nil && !ours
	return func(pid int) bool {
		if _, noNewPrivs, err := processStatus(pid); err != nil || marked && noNewPrivs {
			return true
		}
		return descends(pid, func(pid int) (int, error) {
			parent, _, err := processStatus(pid)
			return parent, err
		})
	}
}

// processStatus is a process' parent, and whether it can gain no privileges.
func processStatus(pid int) (parent int, noNewPrivs bool, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false, err
	}
	field := func(name string) (n int) {
		_, rest, found := bytes.Cut(text, []byte("\n"+name+":"))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		n, parseErr := strconv.Atoi(string(bytes.TrimSpace(line)))
		if err == nil && (!found || parseErr != nil) {
			err = fmt.Errorf("process %d has no %s", pid, name)
		}
		return n
	}
	parent = field("PPid")
	noNewPrivs = field("NoNewPrivs") != 0
	return parent, noNewPrivs, err
}
