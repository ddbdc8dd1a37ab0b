// Package arch holds the rules of the house as tests: which package may import
// which, what is documented, where state may live, and that the documents at
// the root say what the tree is. It reads the source as text, every file for
// every system, so it needs neither a build nor the network.
package arch
