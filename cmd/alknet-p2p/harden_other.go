//go:build !unix

package main

// harden does nothing here: there are no core dumps to forbid.
func harden() {}
