package lockfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// put gives the draft the name path, and does not lose what somebody who asks for
// no lock saved there since the last look: what was there gets the draft's name,
// and is put back if it is not what it should be. Then, and if there is a file
// that did not exist or none that did, the error is errChanged. Whoever is killed
// in between leaves what was there under the draft's name, until the next update.
func put(draft, path string, existed bool, unchanged func(name string) bool) error {
	if !existed {
		err := rename(draft, path, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			return errChanged
		}
		return err
	}
	ours, err := os.Lstat(draft)
	if err != nil {
		return err
	}
	err = rename(draft, path, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, unix.ENOENT) && !exists(path):
		return errChanged
	case err != nil || !exists(draft) || unchanged(draft):
		return err // the draft is gone where there is no exchange
	}
	return putBack(draft, path, ours)
}

// putBack puts back what somebody saved, and who may save again meanwhile: until
// what comes out is what was put there last, which nobody needs.
func putBack(saved, path string, put os.FileInfo) error {
	for {
		back, err := os.Lstat(saved)
		if err != nil {
			return err
		}
		err = rename(saved, path, unix.RENAME_EXCHANGE)
		if errors.Is(err, unix.ENOENT) { // removed: that was the last word
			return errChanged
		}
		if err != nil {
			return errors.Join(err, os.Rename(saved, path))
		}
		out, err := os.Lstat(saved)
		if err != nil {
			return err
		}
		if os.SameFile(out, put) && out.Size() == put.Size() && out.ModTime().Equal(put.ModTime()) {
			return errChanged
		}
		put = back
	}
}

// rename is os.Rename where the file system, or the kernel, has no such flags.
func rename(from, to string, flags uint) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
