package auth_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// peerA is the peer ID of keyA (NODE-50: RFC 8032, test 1).
const peerA = "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"

func TestNODE50Vector(t *testing.T) {
	id, err := auth.PeerFromFingerprint(keyA)
	require.NoError(t, err)
	require.Equal(t, peerA, id.String())
	fp, err := auth.FingerprintFromPeer(id)
	require.NoError(t, err)
	require.Equal(t, keyA, fp)
	for _, text := range []string{keyA, peerA} {
		got, err := auth.ParseKey(text)
		require.NoError(t, err)
		require.Equal(t, id, got)
	}
}

// NODE-29: compared exactly, no normalisation.
func TestNODE29ParseKeyRefuses(t *testing.T) {
	for _, text := range []string{
		"", "ed25519:", keyA[:len(keyA)-1], keyA + "0", strings.ToUpper(keyA), "ED25519" + keyA[7:], "ed25519:" + strings.ToUpper(keyA[8:]),
		keyA[8:], " " + keyA, keyA + "\n", "ed25519:" + strings.Repeat("g", 64), cert,
		peerA[:len(peerA)-1], peerA + "1", "12D3KooW", " " + peerA, "worker-a",
		"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", // an RSA key's peer ID
	} {
		_, err := auth.ParseKey(text)
		require.Error(t, err, "%q", text)
	}
}

// NODE-51: other keys have no fingerprint.
func TestNODE51OtherKeyTypes(t *testing.T) {
	_, pub, err := crypto.GenerateSecp256k1Key(rand.Reader)
	require.NoError(t, err)
	id, err := peer.IDFromPublicKey(pub)
	require.NoError(t, err)
	_, err = auth.FingerprintFromPeer(id)
	require.ErrorContains(t, err, "not ed25519")
	_, pub, err = crypto.GenerateECDSAKeyPair(rand.Reader)
	require.NoError(t, err)
	id, err = peer.IDFromPublicKey(pub)
	require.NoError(t, err)
	_, err = auth.FingerprintFromPeer(id)
	require.Error(t, err)
	_, err = auth.FingerprintFromPeer("")
	require.Error(t, err)
}

// What is accepted has one spelling of each kind and converts without loss.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{keyA, keyB, peerA, cert, "12D3KooW", "ed25519:", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := auth.ParseKey(text)
		if err != nil {
			return
		}
		fp, err := auth.FingerprintFromPeer(id)
		require.NoError(t, err)
		require.Contains(t, []string{fp, id.String()}, text)
		back, err := auth.PeerFromFingerprint(fp)
		require.NoError(t, err)
		require.Equal(t, id, back)
	})
}

func TestNODE27PeerName(t *testing.T) {
	for _, name := range []string{"a", "worker-a", "A.b_c-9", "12D3KooW", "locale", strings.Repeat("x", 64), "deadbeef"} {
		got, err := auth.ParsePeerName(name)
		require.NoError(t, err, name)
		require.Equal(t, auth.PeerName(name), got)
	}
	for name, why := range map[string]string{
		"":                                     "empty",
		strings.Repeat("x", 65):                "longer",
		"a/b":                                  "characters",
		"a b":                                  "characters",
		"é":                                    "characters",
		"a:b":                                  "characters",
		"local":                                "reserved",
		"6ba7b810-9dad-11d1-80b4-00c04fd430c8": "UUID",
		"6BA7B810-9DAD-11D1-80B4-00C04FD430C8": "UUID",
		"6ba7b8109dad11d180b400c04fd430c8":     "UUID",
		peerA:                                  "peer ID",
		"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N": "peer ID",
	} {
		_, err := auth.ParsePeerName(name)
		require.ErrorContains(t, err, why, name)
	}
}
