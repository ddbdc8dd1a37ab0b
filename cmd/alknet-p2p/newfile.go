package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// writeSecretFile makes a file that only this user can read; it must not be
// there yet. Whatever ends the process, the file is there as a whole or not at
// all.
func writeSecretFile(path string, write func(io.Writer) error) error {
	draft, err := writeDraft(path, write)
	if err != nil {
		return err
	}
	if err := renameNew(draft, path); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	return syncFolder(filepath.Dir(path))
}

// replaceFile writes a file that only this user can read. Whatever ends the
// process, the file is the old one or the new.
func replaceFile(path string, text []byte) error {
	draft, err := writeDraft(path, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	if err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	return syncFolder(filepath.Dir(path))
}

// writeDraft writes what a file will hold into one beside it, which only this
// user can read, and syncs it.
func writeDraft(path string, write func(io.Writer) error) (draft string, err error) {
	removeDrafts(path)
	f, err := os.CreateTemp(filepath.Dir(path), draftPrefix(path)+"*")
	if err != nil {
		return "", err
	}
	err = errors.Join(write(f), f.Sync(), f.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func draftPrefix(path string) string { return "." + filepath.Base(path) + ".draft" }

// removeDrafts deletes what writes of a file that were cut off have left, as
// far as this user may: nothing depends on it.
func removeDrafts(path string) {
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, entry := range entries {
		if entry.Type().IsRegular() && strings.HasPrefix(entry.Name(), draftPrefix(path)) {
			_ = os.Remove(filepath.Join(filepath.Dir(path), entry.Name()))
		}
	}
}

// linkNew is renameNew for systems and file systems that have no such call.
func linkNew(from, to string) error {
	switch err := os.Link(from, to); {
	case err == nil:
		return os.Remove(from)
	case isTaken(to):
		return err
	}
	return os.Rename(from, to) // there are no links either
}

// isTaken reports whether something stands at a path, so that nothing can be
// written there.
func isTaken(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
