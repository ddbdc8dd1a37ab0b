package vault_test

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/alkdev/alknet-p2p/vault"
)

// children are what tests have done in processes of their own, which can be
// killed and looked into. Each returns its exit code.
var children = map[string]func(args []string) int{
	"open":   openChild,
	"harden": hardenChild,
}

// openChild opens a vault with the passphrase on standard input, as a node does,
// and stays until that ends.
func openChild(args []string) int {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fail(err)
	}
	v, err := vault.Open(args[0], line[:len(line)-1], nil)
	if err != nil {
		return fail(err)
	}
	key, err := v.IdentityKey()
	if err != nil {
		return fail(err)
	}
	defer key.Wipe()
	if _, err := v.NextPublicKey(); err != nil {
		return fail(err)
	}
	fmt.Println("open", v.MemoryLocked())
	if _, err := in.ReadBytes('\n'); err != nil {
		return fail(err)
	}
	_ = v.Close()
	fmt.Println("closed")
	_, _ = io.Copy(io.Discard, in)
	return 0
}

func hardenChild([]string) int {
	if err := vault.HardenProcess(); err != nil {
		return fail(err)
	}
	fmt.Println("hardened")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
