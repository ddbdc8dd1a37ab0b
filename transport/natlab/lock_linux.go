package natlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// lock is a file whose flock says that the owner of a lab is alive. The kernel
// drops it when the owner dies, however it dies.
type lock struct{ file *os.File }

// takeLock takes the lock of path; it is errHeld if a living process has it.
// Without create, a file that does not exist is fs.ErrNotExist.
func takeLock(path string, create bool) (*lock, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	for {
		f, err := os.OpenFile(path, flags, 0o600)
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
		// The file may have been removed by its owner between open and flock.
		held, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock: %w", err)
		}
		named, err := os.Stat(path)
		if err == nil && os.SameFile(held, named) {
			return &lock{f}, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lock: %w", err)
		}
	}
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
