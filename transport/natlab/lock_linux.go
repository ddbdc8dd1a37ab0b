package natlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock is a file whose flock says that the owner of a lab is alive. The kernel
// drops it when the owner dies, however it dies.
type lock struct{ file *os.File }

// newLock makes the lock of path, which must not exist: it is fs.ErrExist then.
// The file has its name only when it is locked already, so that nobody takes a
// lab that is just beginning for a dead one.
func newLock(path string) (*lock, error) {
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make lock in %s: %w", filepath.Dir(path), err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	link := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.Linkat(unix.AT_FDCWD, link, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
		f.Close()
		return nil, fmt.Errorf("name lock %s: %w", path, err)
	}

	return &lock{f}, nil
}

// takeLock takes over the lock of path from a dead process; a living one's is
// errHeld.
func takeLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errHeld
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// Its owner may have removed the file between open and flock, and a new
	// owner may have made another one of that name.
	held, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	named, err := os.Stat(path)
	if err != nil || !os.SameFile(held, named) {
		f.Close()
		return nil, errHeld
	}

	return &lock{f}, nil
}

// release removes the file and gives the lock up.
func (l *lock) release() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close())
}

// abandon gives the lock up and leaves the file, as a process that dies does.
func (l *lock) abandon() error { return l.file.Close() }

// capable says what this process lacks for building labs.
func capable() error {
	var data [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&head, &data[0]); err != nil {
		return fmt.Errorf("%w: ask for capabilities: %w", ErrUnavailable, err)
	}
	const need = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN
	if data[0].Effective&need != need {
		return fmt.Errorf("%w: not root (CAP_NET_ADMIN and CAP_SYS_ADMIN)", ErrUnavailable)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}

	return nil
}
