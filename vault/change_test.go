package vault_test

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

func TestChangePassphrase(t *testing.T) {
	home, info := create(t, vault.FileOptions{Device: 1, BIP39Passphrase: []byte("TREZOR")})
	sealed, err := os.ReadFile(filepath.Join(home, "vault.age"))
	require.NoError(t, err)
	require.NoError(t, vault.ChangePassphrase(home, []byte(passphrase), []byte("new"), 0))
	_, err = vault.Open(home, []byte(passphrase), []byte("TREZOR"))
	require.ErrorIs(t, err, vault.ErrWrongPassphrase)
	v, err := vault.Open(home, []byte("new"), []byte("TREZOR"))
	require.NoError(t, err)
	require.NoError(t, v.Close())
	after, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, info, after)
	require.Regexp(t, `^age-encryption.org/v1\n-> scrypt [A-Za-z0-9+/]{22} 2\n`, string(sealed))

	// The work factor stays, unless another is given.
	sealed, err = os.ReadFile(filepath.Join(home, "vault.age"))
	require.NoError(t, err)
	require.Regexp(t, `^age-encryption.org/v1\n-> scrypt [A-Za-z0-9+/]{22} 2\n`, string(sealed))
	require.NoError(t, vault.ChangePassphrase(home, []byte("new"), []byte("new"), 3))
	sealed, err = os.ReadFile(filepath.Join(home, "vault.age"))
	require.NoError(t, err)
	require.Regexp(t, `^age-encryption.org/v1\n-> scrypt [A-Za-z0-9+/]{22} 3\n`, string(sealed))

	for name, c := range map[string]struct {
		old, new   string
		workFactor int
		want       error
	}{
		"wrong":              {"old", "x", 0, vault.ErrWrongPassphrase},
		"empty old":          {"", "x", 0, vault.ErrPassphrase},
		"empty":              {"new", "", 0, vault.ErrPassphrase},
		"two lines":          {"new", "a\nb", 0, vault.ErrPassphrase},
		"small work factor":  {"new", "x", -1, vault.ErrWorkFactor},
		"large work factor":  {"new", "x", vault.MaxWorkFactor + 1, vault.ErrWorkFactor},
		"wrong, work factor": {"old", "x", 3, vault.ErrWrongPassphrase},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, vault.ChangePassphrase(home, []byte(c.old), []byte(c.new), c.workFactor), c.want)
			same, err := os.ReadFile(filepath.Join(home, "vault.age"))
			require.NoError(t, err)
			require.Equal(t, sealed, same)
		})
	}
	empty := t.TempDir()
	require.NoError(t, os.Chmod(empty, 0o700))
	require.ErrorIs(t, vault.ChangePassphrase(empty, []byte("a"), []byte("b"), 0), vault.ErrNoVault)
}

func TestRotateIdentity(t *testing.T) {
	home, first := create(t, vault.FileOptions{})
	_, v, s := home, openVault(t, home), vault.NewCredentialStore(home)
	require.NoError(t, s.Seal(v, "a", []byte("x")))
	_, err := s.Rotate(v, 3, vault.RotateOptions{})
	require.NoError(t, err)

	second, err := vault.RotateIdentity(home, []byte(passphrase), nil, 1)
	require.NoError(t, err)
	public, err := hex.DecodeString(second.Identity[len("ed25519:"):])
	require.NoError(t, err)
	commitment := vault.CommitmentOf(public)
	require.Equal(t, first.Next, hex.EncodeToString(commitment[:]), "the one that was committed to")
	require.Equal(t, "12D3KooWM7bREcX48w8bsCoWytPQYTVzZ6n8phnq58XbvachZpp4", second.PeerID)
	require.EqualValues(t, 1, second.Generation)
	require.EqualValues(t, 3, second.KeyVersion, "which the seed's AES keys have, whatever the generation")
	read, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, second, read)

	again := openVault(t, home)
	require.EqualValues(t, "m/74'/0'/0'/0'/1'", again.IdentityPath())
	requireSecret(t, again, s, "a", "x")

	for generation, want := range map[uint32]error{0: vault.ErrGeneration, 1: vault.ErrGeneration, vault.MaxIndex + 1: vault.ErrInvalidPath} {
		_, err = vault.RotateIdentity(home, []byte(passphrase), nil, generation)
		require.ErrorIs(t, err, want)
	}
	_, err = vault.RotateIdentity(home, []byte("wrong"), nil, 2)
	require.ErrorIs(t, err, vault.ErrWrongPassphrase)
	last, err := vault.RotateIdentity(home, []byte(passphrase), nil, vault.MaxIndex)
	require.NoError(t, err)
	require.Empty(t, last.Next)
	openVault(t, home)
}

func TestRotateIdentityNeedsBIP39Passphrase(t *testing.T) {
	home, info := create(t, vault.FileOptions{BIP39Passphrase: []byte("TREZOR")})
	_, err := vault.RotateIdentity(home, []byte(passphrase), nil, 1)
	require.ErrorIs(t, err, vault.ErrBIP39PassphraseMissing)
	_, err = vault.RotateIdentity(home, []byte(passphrase), []byte("trezor"), 1)
	require.ErrorIs(t, err, vault.ErrWrongIdentity)
	same, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, info, same)
	rotated, err := vault.RotateIdentity(home, []byte(passphrase), []byte("TREZOR"), 1)
	require.NoError(t, err)
	require.Equal(t, "12D3KooWRUqA4Q7caXJhiyxuMtqnijdNzT22Uq8k78ysbYgA57Xs", rotated.PeerID)
}

// A power cut between the two writes leaves the sidecar of before. Opening
// writes it again, and the key version, which it alone has, is kept.
func TestSidecarOfTheGenerationBefore(t *testing.T) {
	home, _ := create(t, vault.FileOptions{})
	v := openVault(t, home)
	_, err := vault.NewCredentialStore(home).Rotate(v, 7, vault.RotateOptions{})
	require.NoError(t, err)
	before, err := os.ReadFile(filepath.Join(home, "vault.json"))
	require.NoError(t, err)
	rotated, err := vault.RotateIdentity(home, []byte(passphrase), nil, 2)
	require.NoError(t, err)
	write(t, home, "vault.json", before)
	openVault(t, home)
	read, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, rotated, read)
	require.EqualValues(t, 7, read.KeyVersion)
}

func TestChangesInUse(t *testing.T) {
	home, info := create(t, vault.FileOptions{})
	lock := flock.New(filepath.Join(home, "vault.lock"))
	held, err := lock.TryLock()
	require.NoError(t, err)
	require.True(t, held)
	defer lock.Close()
	require.ErrorIs(t, vault.ChangePassphrase(home, []byte(passphrase), []byte("new"), 0), vault.ErrFileInUse)
	_, err = vault.RotateIdentity(home, []byte(passphrase), nil, 1)
	require.ErrorIs(t, err, vault.ErrFileInUse)
	// Who holds the lock is writing the sidecar: Open leaves it alone.
	require.NoError(t, os.Remove(filepath.Join(home, "vault.json")))
	openVault(t, home)
	require.NoFileExists(t, filepath.Join(home, "vault.json"))
	require.NoError(t, lock.Close())
	openVault(t, home)
	read, err := vault.ReadInfo(home)
	require.NoError(t, err)
	require.Equal(t, info, read)
}

func TestReadKit(t *testing.T) {
	home, info := create(t, vault.FileOptions{Device: 1, Generation: 1, BIP39Passphrase: []byte("x")})
	kit, err := vault.ReadKit(home, []byte(passphrase))
	require.NoError(t, err)
	defer kit.Mnemonic.Wipe()
	require.NoError(t, kit.Mnemonic.Use(func(phrase []byte) { require.Equal(t, about, string(phrase)) }))
	require.WithinDuration(t, time.Now(), kit.Created, time.Hour)
	require.Equal(t, &vault.Kit{
		Mnemonic: kit.Mnemonic, BIP39Passphrase: true, Profile: "slip10",
		Identity: info.Identity, Device: 1, Generation: 1, Created: kit.Created,
	}, kit)
	for _, text := range renderings(kit) {
		require.NotContains(t, text, "abandon")
	}
	_, err = vault.ReadKit(home, []byte("wrong"))
	require.ErrorIs(t, err, vault.ErrWrongPassphrase)
}
