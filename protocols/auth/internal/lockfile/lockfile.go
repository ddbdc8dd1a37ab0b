// Package lockfile keeps a small text in a file that several processes read
// and change: a change is made under a lock and replaces the file at once, so
// that no reader sees half of it and no writer loses another's, and it is
// noticed by those who watch.
package lockfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

const (
	fileMode  = 0o600
	lockRetry = 20 * time.Millisecond
)

// ErrTooLarge: the text is longer than was allowed.
var ErrTooLarge = errors.New("larger than allowed")

// Read returns the text, of at most max bytes; nil when there is no file.
func Read(path string, maxBytes int) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(maxBytes)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxBytes {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, ErrTooLarge, maxBytes)
	}
	if text == nil {
		text = []byte{}
	}
	return text, nil
}

// Update lets edit make a new text, of at most max bytes, and writes it, mode
// 0600 and synced, before it returns. It waits for other writers until ctx
// ends; what edit reads meanwhile none of them changes. An editor asks for no
// lock: if the file is another at the end than at the beginning, edit is called
// again. When it fails the file stays as it was. Whatever ends the process, the
// file is the old one or the new.
func Update(ctx context.Context, path string, maxBytes int, edit func() ([]byte, error)) error {
	// The lock is a file of its own: the other is replaced by each write.
	lock := flock.New(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock"), flock.SetPermissions(fileMode))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	defer func() { _ = lock.Close() }()
	for {
		err := update(path, maxBytes, edit)
		switch {
		case err == nil || !errors.Is(err, errChanged):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("write %s: %w", path, context.Cause(ctx))
		}
	}
}

// errChanged: somebody who asks for no lock wrote the file meanwhile.
var errChanged = errors.New("changed meanwhile")

func update(path string, maxBytes int, edit func() ([]byte, error)) error {
	old, oldErr := Read(path, maxBytes)
	text, err := edit()
	if err != nil {
		return err
	}
	if len(text) > maxBytes {
		return fmt.Errorf("%s: %w: more than %d bytes", path, ErrTooLarge, maxBytes)
	}
	err = removeDrafts(path)
	if err == nil {
		err = replace(path, text, old != nil || oldErr != nil, func(name string) bool {
			now, err := Read(name, maxBytes)
			return bytes.Equal(now, old) && (now == nil) == (old == nil) && (err == nil) == (oldErr == nil)
		})
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// removeDrafts deletes what writes that were cut off have left behind: who has
// the lock is the only one to write.
func removeDrafts(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() && isDraft(entry.Name(), filepath.Base(path)) {
			if err := os.Remove(filepath.Join(filepath.Dir(path), entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// isDraft reports whether replace gives such names to what it writes: the
// file's with a number. Those of editors (.peers.json.swp) are not like that.
func isDraft(name, file string) bool {
	number, ok := strings.CutPrefix(name, "."+file)
	number = strings.TrimPrefix(number, ".") // on Windows
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}
