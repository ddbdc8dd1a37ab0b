package vault_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/vault"
)

// A process that is killed at any system call that touches a file leaves the
// old state or the new one, and the next one goes on from there.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	for name, c := range changes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(map[string]int)
			for step := 1; ; step++ {
				home := changeHome(t)
				require.Equal(t, "old", c.state(home))
				killed := runUntil(t, step, name, home)
				state := c.state(home)
				require.Contains(t, []string{"old", "new"}, state, "killed at step %d", step)
				seen[state]++
				if !killed {
					require.Equal(t, "new", state)
					require.Greater(t, step, 5, "few steps were seen")
					break
				}
				if state == "old" {
					require.NoError(t, c.do(home))
					require.Equal(t, "new", c.state(home))
					requireNoLeftovers(t, home)
				}
			}
			require.NotZero(t, seen["old"])
		})
	}
}

// The first vault of a home is there as a whole or not at all.
func TestKilledWhileCreating(t *testing.T) {
	t.Parallel()
	for step := 1; ; step++ {
		home := filepath.Join(t.TempDir(), "home")
		killed := runUntil(t, step, "create", home)
		v, err := vault.Open(home, []byte(passphrase), nil)
		if err == nil {
			require.NoError(t, v.Close())
			_, err = vault.ReadInfo(home)
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, vault.ErrNoVault)
			_, err = vault.ReadInfo(home)
			require.ErrorIs(t, err, vault.ErrNoVault)
			require.True(t, killed)
			_, err = vault.Create(home, parse(t, about), []byte(passphrase), vault.FileOptions{WorkFactor: cheap})
			require.NoError(t, err)
			requireNoLeftovers(t, home)
		}
		if !killed {
			require.Greater(t, step, 5, "few steps were seen")
			break
		}
	}
}

// changeHome is a home in the old state of all changes.
func changeHome(t *testing.T) string {
	t.Helper()
	home, v, s := store(t)
	require.NoError(t, s.Seal(v, "a", []byte("of a")))
	require.NoError(t, s.Seal(v, "b", []byte("of b")))
	return home
}

func requireNoLeftovers(t *testing.T, home string) {
	t.Helper()
	for _, name := range names(t, home) {
		require.NotEqual(t, ".", name[:1])
	}
}

// runUntil makes a change in a process of its own, which is killed as it enters
// its step-th system call that may change a file. It reports whether the
// process got that far.
func runUntil(t *testing.T, step int, args ...string) (killed bool) {
	t.Helper()
	runtime.LockOSThread() // one thread traces
	defer runtime.UnlockOSThread()
	cmd := child(t, "change", args...)
	p, err := os.StartProcess(cmd.Path, cmd.Args, &os.ProcAttr{
		Env: cmd.Env, Files: []*os.File{nil, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if errors.Is(err, syscall.EPERM) {
		t.Skip("processes may not be traced here")
	}
	require.NoError(t, err)
	defer p.Release()

	const only = 0x20000000 | unix.WALL // __WNOTHREAD: what this thread traces
	var status unix.WaitStatus
	_, err = unix.Wait4(p.Pid, &status, only, nil)
	require.NoError(t, err)
	require.True(t, status.Stopped(), "at the start of the program")
	require.NoError(t, unix.PtraceSetOptions(p.Pid, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_EXITKILL))
	require.NoError(t, unix.PtraceSyscall(p.Pid, 0))
	for {
		thread, err := unix.Wait4(-1, &status, only, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		require.NoError(t, err)
		if thread == p.Pid && (status.Exited() || status.Signaled()) {
			if killed {
				require.Equal(t, unix.SIGKILL, status.Signal())
			} else {
				require.Zero(t, status.ExitStatus())
			}
			return killed
		}
		if !status.Stopped() || killed {
			continue
		}
		signal := status.StopSignal()
		switch signal {
		case unix.SIGTRAP | 0x80: // a system call
			if mayWrite(t, thread) {
				step--
			}
			if step == 0 {
				killed = true
				require.NoError(t, unix.Kill(p.Pid, unix.SIGKILL))
				continue
			}
			signal = 0
		case unix.SIGTRAP, unix.SIGSTOP: // a new thread, on either side
			signal = 0
		}
		if err := unix.PtraceSyscall(thread, int(signal)); !errors.Is(err, unix.ESRCH) {
			require.NoError(t, err)
		}
	}
}

// mayWrite reports whether a thread is entering a system call that may change a
// file.
func mayWrite(t *testing.T, thread int) bool {
	t.Helper()
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
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno == unix.ESRCH {
		return false
	}
	require.Zero(t, errno, fmt.Sprint(errno))
	if info.op != entry {
		return false
	}
	switch info.nr {
	case unix.SYS_OPENAT:
		return info.args[2]&(unix.O_CREAT|unix.O_WRONLY|unix.O_RDWR) != 0
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		return info.args[0] > 2
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FCHMOD, unix.SYS_FTRUNCATE, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2,
		unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_FLOCK:
		return true
	}
	return false
}
