package vault

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The peer ID is computed here without libp2p, so libp2p must agree.
func TestPeerIDIsLibp2ps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		public := ed25519.PublicKey(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "public"))
		key, err := crypto.UnmarshalEd25519PublicKey(public)
		require.NoError(t, err)
		id, err := peer.IDFromPublicKey(key)
		require.NoError(t, err)
		require.Equal(t, id.String(), PeerIDOf(public))
	})
}

func TestBase58(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "00": "1", "0000": "11", "39": "z", "3a": "21", "0000287fb4cd": "11233QC4",
		"48656c6c6f20576f726c6421": "2NEpo7TZRRrLZSi2U",
	} {
		b, err := hex.DecodeString(in)
		require.NoError(t, err)
		require.Equal(t, want, base58(b))
	}
}

func TestFingerprint(t *testing.T) {
	public := make(ed25519.PublicKey, ed25519.PublicKeySize)
	public[0] = 0xab
	text := FingerprintOf(public)
	parsed, ok := parseFingerprint(text)
	require.True(t, ok)
	require.Equal(t, public, parsed)
	for _, bad := range []string{
		"", "ed25519:", text[:len(text)-1], text + "0", text[len(fingerprintPrefix):], " " + text,
		"Ed25519:" + text[len(fingerprintPrefix):], fingerprintPrefix + "AB" + text[len(fingerprintPrefix)+2:],
		fingerprintPrefix + "xy" + text[len(fingerprintPrefix)+2:],
	} {
		_, ok := parseFingerprint(bad)
		require.False(t, ok, bad)
	}
}

// The table in SPEC.md against the vectors.
func TestSpecTable(t *testing.T) {
	spec, err := os.ReadFile("SPEC.md")
	require.NoError(t, err)
	row := regexp.MustCompile("(?m)^\\| (\\d), (\\d) \\| `([0-9a-f]{64})` \\| `(\\w+)` \\| (?:`([0-9a-f]{64})` )?\\|$")
	rows := row.FindAllStringSubmatch(string(spec), -1)
	require.Len(t, rows, 5)
	for _, row := range rows {
		device, err := strconv.ParseUint(row[1], 10, 32)
		require.NoError(t, err)
		generation, err := strconv.ParseUint(row[2], 10, 32)
		require.NoError(t, err)
		v := unlockedVault(t, Config{Device: uint32(device), Generation: uint32(generation)})
		public, err := v.PublicKey(v.IdentityPath())
		require.NoError(t, err)
		require.NoError(t, v.Close())
		require.Equal(t, row[3], hex.EncodeToString(public))
		require.Equal(t, row[4], PeerIDOf(public))
		if generation > 0 {
			commitment := sha256.Sum256(append([]byte("alknet-next-v1"), public...))
			require.Equal(t, row[5], hex.EncodeToString(commitment[:]))
		}
	}
}
