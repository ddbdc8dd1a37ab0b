//go:build !linux

package main

// renameNew renames a file to a name that must not be taken.
func renameNew(from, to string) error { return linkNew(from, to) }
