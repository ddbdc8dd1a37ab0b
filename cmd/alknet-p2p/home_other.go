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
