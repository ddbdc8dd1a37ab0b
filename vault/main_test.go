package vault_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/vault"
)

func TestMain(m *testing.M) {
	if part := os.Getenv(childVar); part != "" {
		os.Exit(runChild(part, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// childVar names the part that a test plays in a process of its own.
const childVar = "VAULT_TEST_CHILD"

const about = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

type keyVector struct {
	Name, Passphrase, Path, Private, Public, Fingerprint string
	PeerID                                               string `json:"peer_id"`
}

// vectors are the project's own, all of the phrase about.
type vectors struct {
	Mnemonic string
	Keys     []keyVector
	AES      []struct {
		Passphrase, Private string
		Version             uint32
	}
	Ethereum  struct{ Path, Private, Public string }
	Encrypted struct {
		Plaintext string
		Sealed    []json.RawMessage
	}
	Legacy struct {
		Sealed   json.RawMessage
		Identity string
	}
}

func projectVectors(t testing.TB) *vectors {
	t.Helper()
	data, err := os.ReadFile("testdata/keys.json")
	require.NoError(t, err)
	var file vectors
	require.NoError(t, json.Unmarshal(data, &file))
	require.Equal(t, about, file.Mnemonic)
	require.Len(t, file.Keys, 8)
	require.Len(t, file.AES, 4)
	require.Len(t, file.Encrypted.Sealed, 2)
	return &file
}

func keyVectors(t testing.TB) []keyVector { return projectVectors(t).Keys }

func parse(t testing.TB, text string) *vault.Mnemonic {
	t.Helper()
	m, err := vault.ParseMnemonic([]byte(text))
	require.NoError(t, err)
	t.Cleanup(m.Wipe)
	return m
}

// unlocked returns a vault with the seed of the phrase about.
func unlocked(t testing.TB, c vault.Config) *vault.Vault {
	t.Helper()
	v := locked(t, c)
	require.NoError(t, v.Unlock(parse(t, about), nil))
	return v
}

func locked(t testing.TB, c vault.Config) *vault.Vault {
	t.Helper()
	v, err := vault.New(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v
}

func privateHex(t testing.TB, k *vault.DerivedKey) string {
	t.Helper()
	var text string
	require.NoError(t, k.Use(func(b []byte) { text = hex.EncodeToString(b) }))
	return text
}
