package vault_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

// children are what tests have done in processes of their own, which can be
// killed and looked into. Each returns its exit code.
var children = map[string]func(args []string) int{
	"open":      openChild,
	"harden":    hardenChild,
	"change":    changeChild,
	"writer":    writerChild,
	"full":      mountChild(fullDisk),
	"read-only": mountChild(readOnlyHome),
}

func runChild(part string, args []string) int { return children[part](args) }

// child is a command that runs a part of children.
func child(t testing.TB, part string, args ...string) *exec.Cmd {
	t.Helper()
	require.NotNil(t, children[part])
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), childVar+"="+part)
	cmd.Stderr = os.Stderr
	return cmd
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
	fmt.Fprintln(os.Stdout, "open", v.MemoryLocked())
	if _, err := in.ReadBytes('\n'); err != nil {
		return fail(err)
	}
	_ = v.Close()
	fmt.Fprintln(os.Stdout, "closed")
	_, _ = io.Copy(io.Discard, in)
	return 0
}

func hardenChild([]string) int {
	if err := vault.HardenProcess(); err != nil {
		return fail(err)
	}
	fmt.Fprintln(os.Stdout, "hardened")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// change is a call that changes files, for a process that dies in it.
type change struct {
	// do changes a home from its old state to the new one.
	do func(home string) error
	// state opens the home and says which one it is in: "old", "new", or what
	// is wrong.
	state func(home string) string
}

// changeChild makes a change, or the vault of a home.
func changeChild(args []string) int {
	name, home := args[0], args[1]
	do := changes()[name].do
	if name == "create" {
		do = func(home string) error {
			m, err := vault.ParseMnemonic([]byte(about))
			if err == nil {
				_, err = vault.Create(home, m, []byte(passphrase), vault.FileOptions{WorkFactor: cheap})
			}
			return err
		}
	}
	if err := do(home); err != nil {
		return fail(err)
	}
	return 0
}

func changes() map[string]change {
	old, other := []byte(passphrase), []byte("other")
	mnemonic := func() *vault.Mnemonic {
		m, err := vault.ParseMnemonic([]byte(about))
		if err != nil {
			panic(err)
		}
		return m
	}
	// seen is what somebody finds who opens the home: files that do not agree
	// have been made to by then.
	seen := func(home string, passphrase []byte) string {
		v, err := vault.Open(home, passphrase, nil)
		if err != nil {
			return err.Error()
		}
		defer v.Close()
		info, err := vault.ReadInfo(home)
		if err != nil {
			return err.Error()
		}
		key, err := v.PublicKey(v.IdentityPath())
		if err != nil {
			return err.Error()
		}
		if vault.FingerprintOf(key) != info.Identity {
			return "the sidecar is of another vault"
		}
		list, err := vault.NewCredentialStore(home).List()
		if err != nil {
			return err.Error()
		}
		text := fmt.Appendf(nil, "device %d, generation %d, version %d:", info.Device, info.Generation, info.KeyVersion)
		for _, c := range list {
			secret, err := vault.NewCredentialStore(home).Open(v, c.Name)
			if err != nil {
				return err.Error()
			}
			text = fmt.Appendf(text, " %s=%s/%d", c.Name, secret, c.KeyVersion)
		}
		return string(text)
	}
	among := func(text string, states map[string]string) string {
		if state, ok := states[text]; ok {
			return state
		}
		return text
	}
	withVault := func(do func(*vault.Vault, *vault.CredentialStore) error) func(string) error {
		return func(home string) error {
			v, err := vault.Open(home, old, nil)
			if err != nil {
				return err
			}
			defer v.Close()
			return do(v, vault.NewCredentialStore(home))
		}
	}
	const before = "device 0, generation 0, version 2: a=of a/2 b=of b/2"
	return map[string]change{
		"overwrite": {
			func(home string) error {
				_, err := vault.Create(home, mnemonic(), other, vault.FileOptions{WorkFactor: cheap, Overwrite: true, Device: 1})
				return err
			},
			func(home string) string {
				if text := seen(home, old); text == before {
					return "old"
				}
				return among(seen(home, other), map[string]string{"device 1, generation 0, version 2: a=of a/2 b=of b/2": "new"})
			},
		},
		"passphrase": {
			func(home string) error { return vault.ChangePassphrase(home, old, other, 0) },
			func(home string) string {
				if text := seen(home, old); text == before {
					return "old"
				}
				return among(seen(home, other), map[string]string{before: "new"})
			},
		},
		"identity": {
			func(home string) error {
				_, err := vault.RotateIdentity(home, old, nil, 1)
				return err
			},
			func(home string) string {
				return among(seen(home, old), map[string]string{before: "old", "device 0, generation 1, version 2: a=of a/2 b=of b/2": "new"})
			},
		},
		"seal": {
			withVault(func(v *vault.Vault, s *vault.CredentialStore) error { return s.Seal(v, "c", []byte("of c")) }),
			func(home string) string {
				return among(seen(home, old), map[string]string{before: "old", before + " c=of c/2": "new"})
			},
		},
		"delete": {
			withVault(func(_ *vault.Vault, s *vault.CredentialStore) error { return s.Delete("b") }),
			func(home string) string {
				return among(seen(home, old), map[string]string{before: "old", "device 0, generation 0, version 2: a=of a/2": "new"})
			},
		},
		"rotate": {
			withVault(func(v *vault.Vault, s *vault.CredentialStore) error {
				_, err := s.Rotate(v, 3, vault.RotateOptions{})
				return err
			}),
			func(home string) string {
				return among(seen(home, old), map[string]string{
					before: "old",
					// New credentials are sealed with the new version, and the
					// rotation is run again.
					"device 0, generation 0, version 3: a=of a/2 b=of b/2": "old",
					"device 0, generation 0, version 3: a=of a/3 b=of b/3": "new",
				})
			},
		},
	}
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
