package vault_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
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

// An API key is sealed, kept, and opened under its name only.
func ExampleCredentialStore() {
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	home := filepath.Join(dir, "home")
	m, err := vault.NewMnemonic(vault.DefaultWords)
	if err != nil {
		panic(err)
	}
	defer m.Wipe()
	if _, err := vault.Create(home, m, []byte("file passphrase"), vault.FileOptions{WorkFactor: 10}); err != nil {
		panic(err)
	}
	v, err := vault.Open(home, []byte("file passphrase"), nil)
	if err != nil {
		panic(err)
	}
	defer v.Close()

	store := vault.NewCredentialStore(home)
	if err := store.Seal(v, "github", []byte("ghp_secret")); err != nil {
		panic(err)
	}
	rotation, err := store.Rotate(v, 3, vault.RotateOptions{})
	if err != nil {
		panic(err)
	}
	fmt.Println(rotation.Rotated, rotation.Below)
	list, err := store.List()
	if err != nil {
		panic(err)
	}
	fmt.Println(list)
	secret, err := store.Open(v, "github")
	if err != nil {
		panic(err)
	}
	fmt.Println(len(secret))
	clear(secret)
	// Output:
	// [github] 0
	// [{github 3}]
	// 10
}

// What is sealed may be kept anywhere, as JSON.
func ExampleVault_Encrypt() {
	v, err := vault.New(vault.Config{})
	if err != nil {
		panic(err)
	}
	defer v.Close()
	m, err := v.UnlockNew(12, nil)
	if err != nil {
		panic(err)
	}
	m.Wipe()
	sealed, err := v.Encrypt([]byte("a secret"), vault.CurrentKeyVersion)
	if err != nil {
		panic(err)
	}
	text, err := json.Marshal(sealed)
	if err != nil {
		panic(err)
	}
	read, err := vault.ParseEncryptedData(text)
	if err != nil {
		panic(err)
	}
	secret, err := v.Decrypt(read)
	fmt.Println(string(secret), err)
	// Output: a secret <nil>
}

// The next identity is the one that the present one commits to; both keys sign
// the hand-over.
func ExampleRotateIdentity() {
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	home := filepath.Join(dir, "home")
	m, err := vault.NewMnemonic(vault.DefaultWords)
	if err != nil {
		panic(err)
	}
	defer m.Wipe()
	before, err := vault.Create(home, m, []byte("file passphrase"), vault.FileOptions{WorkFactor: 10})
	if err != nil {
		panic(err)
	}
	after, err := vault.RotateIdentity(home, []byte("file passphrase"), nil, before.Generation+1)
	if err != nil {
		panic(err)
	}
	v, err := vault.Open(home, []byte("file passphrase"), nil)
	if err != nil {
		panic(err)
	}
	defer v.Close()
	newKey, err := v.IdentitySigner(after.Device, after.Generation)
	if err != nil {
		panic(err)
	}
	commitment := vault.CommitmentOf(newKey.Public().(ed25519.PublicKey))
	fmt.Println(hex.EncodeToString(commitment[:]) == before.Next)
	// Output: true
}
