package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const nobody = 65534

// asNobody runs f on a thread that is another user, and ends.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	done := make(chan syscall.Errno)
	var run func()
	run = func() {
		runtime.LockOSThread() // without unlocking: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The first thread never ends. While this goroutine holds it, another
			// one gets another thread.
			next := make(chan struct{})
			go func() { defer close(next); run() }()
			<-next
			runtime.UnlockOSThread()
			return
		}
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), nobody, ^uintptr(0))
		if errno == 0 {
			f()
		}
		done <- errno
	}
	go run()
	require.Zero(t, <-done)
}

// dialSocket connects on the calling thread.
func dialSocket(path string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return net.FileConn(f)
}

// openFolder is a folder that everybody may enter, with a short name.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "alknet") //nolint:usetesting // t.TempDir cannot be entered by others
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// Another user is kept out by the socket's mode, and by its being looked at
// when the mode does not.
func TestControlRefusesAnotherUser(t *testing.T) {
	h := home(openFolder(t))
	c := serveScripted(t, h, &scripted{})
	path, _ := h.socket()

	var err error
	asNobody(t, func() { _, err = dialSocket(path) })
	require.ErrorIs(t, err, unix.EACCES)

	require.NoError(t, os.Chmod(path, 0o666))
	var answer []byte
	var failed error
	asNobody(t, func() {
		var conn net.Conn
		if conn, err = dialSocket(path); err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /v1/status HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
		answer, failed = io.ReadAll(conn)
	})
	require.NoError(t, err)
	require.Empty(t, answer, failed)

	_, err = c.call(t.Context(), request{Input: json.RawMessage(`1`)})
	require.NoError(t, err, "the owner is let in still")
}

// Where somebody else listens nothing is asked.
func TestControlRefusesAnotherUsersSocket(t *testing.T) {
	h := home(openFolder(t))
	serveScripted(t, h, &scripted{})
	path, _ := h.socket()
	require.NoError(t, os.Chmod(path, 0o666))
	var err, dialled error
	asNobody(t, func() {
		var conn net.Conn
		if conn, dialled = dialSocket(path); dialled != nil {
			return
		}
		defer conn.Close()
		err = checkServer(path, conn)
	})
	require.NoError(t, dialled)
	require.ErrorContains(t, err, "another user, 0, listens on")
}

func TestControlRefusesASymbolicLink(t *testing.T) {
	h := home(openFolder(t))
	path, _ := h.socket()
	elsewhere := home(openFolder(t))
	serveScripted(t, elsewhere, &scripted{})
	other, _ := elsewhere.socket()
	require.NoError(t, os.Symlink(other, path))
	_, err := newClient(h).call(t.Context(), request{Input: json.RawMessage(`1`)})
	require.ErrorContains(t, err, "control.sock is no socket but L")
}

// A node makes its socket in the place of a link, and leaves alone what that
// points to.
func TestControlReplacesASymbolicLink(t *testing.T) {
	h := home(openFolder(t))
	path, _ := h.socket()
	victim := filepath.Join(string(h), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
	require.NoError(t, os.Symlink(victim, path))
	_, err := serveScripted(t, h, &scripted{}).call(t.Context(), request{Input: json.RawMessage(`1`)})
	require.NoError(t, err)
	text, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "precious", string(text))
}

// The folder for the sockets of homes with long paths can be taken by others
// before it is made: then it is not used.
func TestControlOfALongHomeInAFolderThatIsTaken(t *testing.T) {
	long := home(filepath.Join(openFolder(t), strings.Repeat("x", 120)))
	folder := fmt.Sprintf("/tmp/alknet-p2p-%d", nobody)
	for name, take := range map[string]func() error{
		"is not a folder":         func() error { return os.Symlink(t.TempDir(), folder) },
		"belongs to another user": func() error { return os.Mkdir(folder, 0o777) },
		"is open to other users": func() error {
			return errors.Join(os.Mkdir(folder, 0o700), os.Chown(folder, nobody, nobody), os.Chmod(folder, 0o770))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() == 0 {
				_, err := os.Lstat(folder)
				require.ErrorIs(t, err, os.ErrNotExist, "in use")
				require.NoError(t, take())
				t.Cleanup(func() { _ = os.Remove(folder) })
			}
			var path string
			var err error
			asNobody(t, func() {
				path, _ = long.socket()
				_, err = serveControl(long, &scripted{}, nil, slog.New(slog.DiscardHandler))
			})
			require.True(t, strings.HasPrefix(path, folder), path)
			require.ErrorContains(t, err, name)
		})
	}
}

func TestDescends(t *testing.T) {
	self := os.Getpid()
	parents := map[int]int{10: 9, 9: self, 8: 1, 7: 6}
	parent := func(pid int) (int, error) {
		if up, ok := parents[pid]; ok {
			return up, nil
		}
		return 0, os.ErrNotExist
	}
	for pid, want := range map[int]bool{
		10: true, 9: true, 8: false,
		7: true, // its parent is gone: nobody knows
		5: true,
	} {
		require.Equal(t, want, descends(pid, parent), pid)
	}
	require.True(t, descends(4, func(int) (int, error) { return 4, nil }), "for ever")
}
