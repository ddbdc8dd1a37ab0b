//go:build !unix

package main

import (
	"fmt"
	"os"
)

// checkPrivateDir refuses what is no folder; who may enter one is up to the
// access control list it inherits from the user's profile.
func checkPrivateDir(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a folder", dir)
	}
	return err
}

// openAppend opens a file to append to.
func openAppend(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// syncFolder does nothing: a folder cannot be synced here.
func syncFolder(string) error { return nil }
