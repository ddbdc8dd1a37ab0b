package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zalando/go-keyring"

	"github.com/alkdev/alknet-p2p/vault"
)

const zeroWords = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

// newTestVault makes a home with the vault of the test vectors' words.
func newTestVault(t *testing.T, passphrase string, o vault.FileOptions) home {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "home")
	words, err := vault.ParseMnemonic([]byte(zeroWords))
	require.NoError(t, err)
	o.WorkFactor = 10
	_, err = vault.Create(dir, words, []byte(passphrase), o)
	require.NoError(t, err)
	return home(dir)
}

// runs runs a command as a person types it.
func (p *person) runs(a *app, args ...string) <-chan error {
	done := make(chan error, 1)
	go func() {
		root := newRoot(a)
		root.SetArgs(args)
		done <- root.ExecuteContext(p.t.Context())
	}()
	return done
}

// Three tries at the passphrase, each after a longer wait.
func TestThreeTries(t *testing.T) {
	a, _, p := newTerminal(t)
	h := newTestVault(t, "right", vault.FileOptions{})
	done := p.runs(a, "--home", string(h), "key", "--device", "1")
	for range 2 {
		p.expect(`Passphrase of the vault: `)
		p.typesSecret("wrong")
		p.expect(`That is not it\.`)
	}
	p.expect(`Passphrase of the vault: `)
	p.typesSecret("right")
	require.NoError(t, <-done)
	require.NotContains(t, p.all(), "right")

	// The third wrong one is the last.
	synctest.Test(t, func(t *testing.T) {
		begin, n := time.Now(), 0
		err := a.tryThrice(t.Context(), func() error { n++; return vault.ErrWrongPassphrase })
		require.ErrorIs(t, err, vault.ErrWrongPassphrase)
		require.Equal(t, 3, n)
		require.Equal(t, 3*time.Second, time.Since(begin), "one second, then two")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, a.tryThrice(ctx, func() error { return vault.ErrWrongPassphrase }), context.Canceled)
	})
}

func TestPassphraseInTheKeyring(t *testing.T) {
	keyring.MockInit()
	a, out, p := newTerminal(t)
	h := newTestVault(t, "old", vault.FileOptions{})
	passwd := func(args ...string) {
		done := p.runs(a, append([]string{"--home", string(h), "vault", "passwd"}, args...)...)
		if len(args) > 0 {
			p.expect(`Passphrase of the vault: `)
			p.typesSecret("old")
		}
		p.expect(`The new passphrase: `)
		p.typesSecret("new")
		p.expect(`The same again: `)
		p.typesSecret("new")
		require.NoError(t, <-done)
	}
	passwd("--keyring")
	out.Reset()
	require.NoError(t, <-p.runs(a, "--home", string(h), "key", "--device", "1"), "nobody is asked")
	require.Contains(t, out.String(), "12D3KooWHa9oZWzHVGCLe2ZqY9edtDpCKcQEFtByYsdUzgkF8ZvH")

	// A vault file from elsewhere: what the keyring has does not open it.
	other := newTestVault(t, "other", vault.FileOptions{})
	sealed, err := os.ReadFile(filepath.Join(string(other), "vault.age"))
	require.NoError(t, err)
	mine, err := os.ReadFile(filepath.Join(string(h), "vault.age"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(string(h), "vault.age"), sealed, 0o600))
	done := p.runs(a, "--home", string(h), "key", "--device", "1")
	p.expect(`The passphrase in the system's keyring does not open this vault`)
	p.expect(`Passphrase of the vault: `)
	p.typesSecret("other")
	require.NoError(t, <-done)
	require.NoError(t, os.WriteFile(filepath.Join(string(h), "vault.age"), mine, 0o600))

	// A change without --keyring takes the old one out.
	passwd()
	require.NoFileExists(t, h.keyring())
	info, err := vault.ReadInfo(string(h))
	require.NoError(t, err)
	_, err = keyring.Get(keyringService, info.Identity)
	require.ErrorIs(t, err, keyring.ErrNotFound)
}

// A vault whose words have a passphrase asks for that too; init asks for a new
// one twice.
func TestPassphraseOfTheWords(t *testing.T) {
	a, out, p := newTerminal(t)
	dir := filepath.Join(t.TempDir(), "home")
	done := p.runs(a, "--home", dir, "init", "--restore", "-", "--bip39-passphrase", "--work-factor", "10")
	p.expect(`The words`)
	p.typesSecret(zeroWords)
	p.expect(`The passphrase that belongs to the words: `)
	p.typesSecret("TREZOR")
	p.expect(`seal the key with: `)
	p.typesSecret("x")
	p.expect(`again: `)
	p.typesSecret("x")
	require.NoError(t, <-done)
	require.Contains(t, out.String(), "12D3KooWFKpPjLctH3yUPtcDnxTw4uUKthuDVfU3yrSv9cfjeyRs")

	done = p.runs(a, "--home", dir, "key", "--device", "1")
	p.expect(`Passphrase of the vault: `)
	p.typesSecret("x")
	p.expect(`The passphrase that belongs to the words: `)
	p.typesSecret("TREZOR")
	require.NoError(t, <-done)

	done = p.runs(a, "--home", dir, "vault", "verify", "--bip39-passphrase")
	p.expect(`The words`)
	p.typesSecret(zeroWords)
	p.expect(`The passphrase that belongs to the words: `)
	p.typesSecret("other")
	require.ErrorContains(t, <-done, "these words give ed25519:")
	require.NotContains(t, p.all(), "TREZOR")
}

// A credential is typed without being seen, and shown on the terminal; the kit
// is shown there too.
func TestSecretsOnATerminal(t *testing.T) {
	a, _, p := newTerminal(t)
	a.out = a.in
	h := newTestVault(t, "x", vault.FileOptions{})
	withPassphrase := func(args ...string) <-chan error {
		done := p.runs(a, append([]string{"--home", string(h), "vault"}, args...)...)
		p.expect(`Passphrase of the vault: `)
		p.typesSecret("x")
		return done
	}
	done := withPassphrase("seal", "github")
	p.expect(`The secret of github \(it is not shown\): `)
	p.typesSecret("ghp_s3cr3t")
	p.expect(`Sealed github\.`)
	require.NoError(t, <-done)
	require.NotContains(t, p.all(), "ghp_s3cr3t")

	done = withPassphrase("open", "github")
	p.expect(`ghp_s3cr3t\r\n`)
	require.NoError(t, <-done)

	done = withPassphrase("export-kit")
	p.expect(` 11 abandon   12 about`)
	p.expect(`alknet-p2p init --restore -`)
	require.NoError(t, <-done)
	require.Error(t, <-p.runs(a, "--home", string(h), "--json", "vault", "export-kit"), "the kit is not JSON")
}
