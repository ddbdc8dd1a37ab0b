package interop

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

// What a vault derives and seals, Node's cryptography gives as well, from the
// words on: for the phrase of all vectors, and for fresh ones of each length.
func TestVaultInAnotherLanguage(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		if *required {
			t.Fatalf("%v; install Node.js 20 or later", err)
		}
		t.Skipf("%v", err)
	}
	type secretsOf struct {
		name, passphrase string
		phrase           *vault.Mnemonic
	}
	about, err := vault.ParseMnemonic([]byte("abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"))
	require.NoError(t, err)
	cases := []secretsOf{{"vectors", "", about}, {"vectors, with passphrase", "TREZOR", about}, {"NFKD", "pa\u00dfw\u00f6rt \u2167", about}}
	for _, words := range []int{12, 15, 18, 21, 24} {
		phrase, err := vault.NewMnemonic(words)
		require.NoError(t, err)
		cases = append(cases, secretsOf{"fresh", "x", phrase})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v, err := vault.New(vault.Config{})
			require.NoError(t, err)
			defer v.Close()
			require.NoError(t, v.Unlock(c.phrase, []byte(c.passphrase)))
			compareWithNode(t, v, c.phrase, c.passphrase)
		})
	}
}

func compareWithNode(t *testing.T, v *vault.Vault, phrase *vault.Mnemonic, passphrase string) {
	t.Helper()
	const plaintext = "hello, alknet vault! \u00e9\u20ac\U0001f511"
	input := struct {
		Mnemonic   string                 `json:"mnemonic"`
		Passphrase string                 `json:"passphrase"`
		Plaintext  string                 `json:"plaintext"`
		Ed25519    []vault.Path           `json:"ed25519"`
		Secp256k1  []vault.Path           `json:"secp256k1"`
		Versions   []uint32               `json:"versions"`
		Sealed     []*vault.EncryptedData `json:"sealed"`
	}{
		Passphrase: passphrase,
		Plaintext:  plaintext,
		Ed25519:    []vault.Path{vault.Identity, "m/74'/0'/0'/0'/1'", "m/74'/0'/0'/7'", vault.SSHHost, "m/2147483647'"},
		Secp256k1:  []vault.Path{vault.Ethereum, "m/44'/60'/0'/0/7", "m/0", "m/2147483647'/2147483647"},
		Versions:   []uint32{2, 3, 2147483649},
	}
	require.NoError(t, phrase.Use(func(b []byte) { input.Mnemonic = string(b) }))
	for _, version := range input.Versions {
		d, err := v.Encrypt([]byte(plaintext), version)
		require.NoError(t, err)
		input.Sealed = append(input.Sealed, d)
	}

	var output struct {
		Ed25519 map[vault.Path]struct {
			Private, Public, Commitment string
			PeerID                      string `json:"peer_id"`
		}
		Secp256k1 map[vault.Path]struct{ Private, Public string }
		AES       map[uint32]string
		Opened    []string
		Sealed    []*vault.EncryptedData
		Legacy    *vault.EncryptedData
	}
	text, err := json.Marshal(input)
	require.NoError(t, err)
	node := exec.CommandContext(t.Context(), "node", "js/vault.mjs")
	node.Stdin, node.Stderr = bytes.NewReader(text), os.Stderr
	text, err = node.Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &output))

	private := func(key *vault.DerivedKey) (text string) {
		require.NoError(t, key.Use(func(b []byte) { text = hex.EncodeToString(b) }))
		key.Wipe()
		return text
	}
	require.Len(t, output.Ed25519, len(input.Ed25519))
	for path, want := range output.Ed25519 {
		key, err := v.DeriveEd25519(path)
		require.NoError(t, err)
		require.Equal(t, want.Public, hex.EncodeToString(key.Public))
		require.Equal(t, want.PeerID, vault.PeerIDOf(key.Public))
		commitment := vault.CommitmentOf(key.Public)
		require.Equal(t, want.Commitment, hex.EncodeToString(commitment[:]))
		require.Equal(t, want.Private, private(key))
	}
	require.Len(t, output.Secp256k1, len(input.Secp256k1))
	for path, want := range output.Secp256k1 {
		key, err := v.DeriveEthereumKey(path)
		require.NoError(t, err)
		require.Equal(t, want.Public, hex.EncodeToString(key.Public))
		require.Equal(t, want.Private, private(key))
	}
	require.Len(t, output.AES, len(input.Versions))
	for version, want := range output.AES {
		key, err := v.DeriveEncryptionKeyForVersion(version)
		require.NoError(t, err)
		require.Equal(t, want, private(key))
	}
	require.Equal(t, []string{plaintext, plaintext, plaintext}, output.Opened)
	require.Len(t, output.Sealed, len(input.Versions))
	for _, d := range output.Sealed {
		opened, err := v.Decrypt(d)
		require.NoError(t, err)
		require.Equal(t, plaintext, string(opened))
	}
	legacy, err := vault.NewLegacy(phrase, []byte(passphrase), false)
	require.NoError(t, err)
	defer legacy.Wipe()
	opened, err := legacy.Decrypt(output.Legacy)
	require.NoError(t, err)
	require.Equal(t, plaintext, string(opened))
}
