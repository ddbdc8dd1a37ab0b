package vault_test

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alkdev/alknet-p2p/vault"
)

// A home directory gets a vault, which is opened again for the node's key.
func Example() {
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	home := filepath.Join(dir, "home")

	m, err := vault.ParseMnemonic([]byte("abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"))
	if err != nil {
		panic(err)
	}
	defer m.Wipe()
	// A low work factor, so that the example is quick.
	info, err := vault.Create(home, m, []byte("file passphrase"), vault.FileOptions{WorkFactor: 10})
	if err != nil {
		panic(err)
	}
	fmt.Println(info.PeerID)

	v, err := vault.Open(home, []byte("file passphrase"), nil)
	if err != nil {
		panic(err)
	}
	defer v.Close()
	key, err := v.IdentityKey()
	if err != nil {
		panic(err)
	}
	defer key.Wipe()
	var private ed25519.PrivateKey
	if err := key.Use(func(seed []byte) { private = ed25519.NewKeyFromSeed(seed) }); err != nil {
		panic(err)
	}
	fmt.Println(vault.FingerprintOf(private.Public().(ed25519.PublicKey)) == info.Identity)
	fmt.Println(m, key.KeyType)
	// Output:
	// 12D3KooWRQEJLrVRqJc1bRCiNQ7uMMFn2YeMjJWqX9raYnUQhkR1
	// true
	// [REDACTED] Ed25519
}

// A signer does not give its key away, and stops when the vault is locked.
func ExampleVault_Signer() {
	v, err := vault.New(vault.Config{})
	if err != nil {
		panic(err)
	}
	defer v.Close()
	m, err := v.UnlockNew(vault.DefaultWords, nil)
	if err != nil {
		panic(err)
	}
	m.Wipe() // after showing it, once

	signer, err := v.Signer(vault.SSHHost)
	if err != nil {
		panic(err)
	}
	signature, err := signer.Sign(nil, []byte("message"), nil)
	fmt.Println(len(signature), err)
	v.Lock()
	_, err = signer.Sign(nil, []byte("message"), nil)
	fmt.Println(err)
	// Output:
	// 64 <nil>
	// vault is locked; call Unlock first
}
