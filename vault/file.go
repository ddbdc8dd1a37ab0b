package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"filippo.io/age"
	"github.com/gofrs/flock"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	// DefaultWorkFactor is the scrypt work factor of a new vault file: 256 MiB
	// of memory and about a second for each try.
	DefaultWorkFactor = 18
	// MaxWorkFactor is the largest one that is written or read: 1 GiB.
	MaxWorkFactor = 20

	vaultFile   = "vault.age"
	sidecarFile = "vault.json"
	lockFile    = "vault.lock"

	maxFile = 64 << 10 // of any file read here, bytes
)

// FileOptions are the choices of Create. It shows as [REDACTED] wherever it is
// printed.
type FileOptions struct {
	redacted
	// Device is the index of this node among those that share the mnemonic, 0
	// to MaxIndex. Two nodes that run at the same time must not share it.
	Device uint32
	// Generation of the identity, 0 for a new one; higher when a rotated
	// identity is restored.
	Generation uint32
	// WorkFactor is the binary logarithm of scrypt's cost, 1 to MaxWorkFactor;
	// 0 means DefaultWorkFactor. Each step doubles time and memory. Go below
	// 15 in tests only.
	WorkFactor int
	// BIP39Passphrase is the "25th word". It is not stored, so Open needs it
	// again; nil or empty for none.
	BIP39Passphrase []byte
	// Overwrite replaces a vault that is there already: its keys are lost
	// unless its phrase is known.
	Overwrite bool
}

// Create seals a mnemonic under a passphrase into the vault file of a home
// directory, makes the home if need be, and writes the sidecar beside it. The
// passphrase is one line of 1 to 1024 bytes, else ErrPassphrase. ErrExists when
// there is a vault and o.Overwrite is not set; ErrFileInUse when another process
// is writing it; ErrInsecurePermissions when the home is not private. Mnemonic
// and passphrase stay the caller's, who wipes them.
func Create(home string, m *Mnemonic, passphrase []byte, o FileOptions) (*Info, error) {
	info, err := create(home, m, passphrase, o)
	if err != nil {
		return nil, fmt.Errorf("create vault: %w", err)
	}
	return info, nil
}

// Open decrypts the vault file of a home, and returns the vault unlocked, its
// identity checked against the file. The BIP-39 passphrase is the one given to
// Create, or nil. A sidecar that is missing or differs is written again. Errors:
// ErrNoVault, ErrWrongPassphrase, ErrCorruptFile, ErrUnsupported, ErrWorkFactor,
// ErrBIP39PassphraseMissing, ErrWrongIdentity, ErrInsecurePermissions. Both
// passphrases stay the caller's, who wipes them. Close the vault when done.
func Open(home string, passphrase, bip39Passphrase []byte) (*Vault, error) {
	v, err := open(home, passphrase, bip39Passphrase)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	return v, nil
}

// ReadInfo reads the sidecar of a home: whose vault it is. It needs no
// passphrase. Errors: ErrNoVault, ErrCorruptFile, ErrInsecurePermissions.
func ReadInfo(home string) (*Info, error) {
	info, err := readInfo(home)
	if err != nil {
		return nil, fmt.Errorf("read vault info: %w", err)
	}
	return &info, nil
}

func create(home string, m *Mnemonic, passphrase []byte, o FileOptions) (*Info, error) {
	if o.WorkFactor == 0 {
		o.WorkFactor = DefaultWorkFactor
	}
	if o.WorkFactor < 1 || o.WorkFactor > MaxWorkFactor {
		return nil, fmt.Errorf("%w: %d is not from 1 to %d", ErrWorkFactor, o.WorkFactor, MaxWorkFactor)
	}
	if err := checkPassphrase(passphrase); err != nil {
		return nil, err
	}
	info, err := identify(m, o)
	if err != nil {
		return nil, err
	}

	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	unlock, err := lockHome(home)
	if err != nil {
		return nil, err
	}
	defer unlock()
	_, err = os.Lstat(filepath.Join(home, vaultFile))
	switch {
	case err == nil && !o.Overwrite:
		return nil, fmt.Errorf("%w in %s", ErrExists, home)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}

	plain, err := payload{
		phrase:             m,
		hasBIP39Passphrase: len(o.BIP39Passphrase) > 0,
		identity:           info.Identity,
		device:             o.Device,
		generation:         o.Generation,
		created:            time.Now(),
	}.encode()
	if err != nil {
		return nil, err
	}
	defer wipe.Bytes(plain)
	sealed, err := seal(plain, passphrase, o.WorkFactor)
	if err != nil {
		return nil, err
	}
	// The vault first: the sidecar can be written again from it.
	if err := replaceFile(filepath.Join(home, vaultFile), sealed); err != nil {
		return nil, err
	}
	if err := writeInfo(home, info); err != nil {
		return nil, err
	}
	return &info, nil
}

// identify derives the identity that a new vault will have.
func identify(m *Mnemonic, o FileOptions) (Info, error) {
	v, err := New(Config{Device: o.Device, Generation: o.Generation})
	if err != nil {
		return Info{}, err
	}
	defer v.Close()
	if err := v.Unlock(m, o.BIP39Passphrase); err != nil {
		return Info{}, err
	}
	return newInfo(v)
}

func open(home string, passphrase, bip39Passphrase []byte) (*Vault, error) {
	if err := checkPassphrase(passphrase); err != nil {
		return nil, err
	}
	sealed, err := readFile(home, vaultFile)
	if err != nil {
		return nil, err
	}
	plain, err := unseal(sealed, passphrase, MaxWorkFactor)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", vaultFile, err)
	}
	defer wipe.Bytes(plain)
	p, err := decodePayload(plain)
	if errors.Is(err, ErrUnsupported) {
		return nil, fmt.Errorf("%s: %w", vaultFile, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorruptFile, vaultFile, err)
	}
	defer p.phrase.Wipe()
	if p.hasBIP39Passphrase && len(bip39Passphrase) == 0 {
		return nil, ErrBIP39PassphraseMissing
	}

	v, err := New(Config{Device: p.device, Generation: p.generation})
	if err != nil {
		return nil, err
	}
	if err := v.adopt(home, p, bip39Passphrase); err != nil {
		_ = v.Close()
		return nil, err
	}
	return v, nil
}

// adopt unlocks the vault with what its file held.
func (v *Vault) adopt(home string, p *payload, bip39Passphrase []byte) error {
	if err := v.Unlock(p.phrase, bip39Passphrase); err != nil {
		return err
	}
	info, err := newInfo(v)
	if err != nil {
		return err
	}
	if info.Identity != p.identity {
		return fmt.Errorf("%w: the seed gives %s, the vault file names %s", ErrWrongIdentity, info.Identity, p.identity)
	}
	return repairInfo(home, info)
}

// repairInfo writes the sidecar when it does not say what the vault says, as
// after a crash between the two writes. The key version is the sidecar's own.
func repairInfo(home string, info Info) error {
	have, err := readInfo(home)
	if err != nil && !errors.Is(err, ErrCorruptFile) {
		return err
	}
	if err == nil && have.Identity == info.Identity {
		info.KeyVersion = have.KeyVersion
	}
	if err == nil && have == info {
		return nil
	}
	unlock, err := lockHome(home)
	if err != nil {
		return err
	}
	defer unlock()
	return writeInfo(home, info)
}

func readInfo(home string) (Info, error) {
	data, err := readFile(home, sidecarFile)
	if errors.Is(err, ErrNoVault) {
		if _, err := os.Lstat(filepath.Join(home, vaultFile)); err == nil {
			return Info{}, fmt.Errorf("%w: %s is missing; opening the vault writes it again", ErrCorruptFile, sidecarFile)
		}
	}
	if err != nil {
		return Info{}, err
	}
	info, err := decodeInfo(data)
	if err != nil {
		return Info{}, fmt.Errorf("%w: %s: %w", ErrCorruptFile, sidecarFile, err)
	}
	return info, nil
}

func writeInfo(home string, info Info) error {
	data, err := info.encode()
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(home, sidecarFile), data)
}

// lockHome takes the lock under which the files of a private home are written.
func lockHome(home string) (unlock func(), err error) {
	if err := checkHome(home); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(home, lockFile))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	if !locked {
		return nil, ErrFileInUse
	}
	return func() { _ = lock.Close() }, nil
}

// readFile reads a file of a home, both of which must be private.
func readFile(home, name string) ([]byte, error) {
	err := checkHome(home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoVault, home)
	}
	if err != nil {
		return nil, err
	}
	f, err := openPrivate(filepath.Join(home, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoVault, home)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrCorruptFile, name, maxFile)
	}
	return data, nil
}

// seal encrypts to age's scrypt recipient.
func seal(plain, passphrase []byte, workFactor int) ([]byte, error) {
	// age keeps a copy of the passphrase of its own, so this one matters little.
	recipient, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, err
	}
	recipient.SetWorkFactor(workFactor)
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipient)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return sealed.Bytes(), nil
}

// unseal decrypts what seal or the age command made. The caller wipes the
// result. Errors are our own throughout: age's quote a file that is none of its
// kind, and somebody may have kept a phrase there.
func unseal(sealed, passphrase []byte, maxWorkFactor int) ([]byte, error) {
	identity, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, ErrPassphrase
	}
	identity.SetMaxWorkFactor(maxWorkFactor)
	r, err := age.Decrypt(bytes.NewReader(sealed), boundedIdentity{identity, maxWorkFactor})
	var noMatch *age.NoIdentityMatchError
	switch {
	case errors.Is(err, ErrWorkFactor):
		return nil, err
	case errors.As(err, &noMatch) && len(noMatch.StanzaTypes) == 1 && noMatch.StanzaTypes[0] == "scrypt":
		return nil, ErrWrongPassphrase
	case err != nil:
		return nil, fmt.Errorf("%w: it is no intact age file sealed with a passphrase", ErrCorruptFile)
	}

	plain := make([]byte, maxPayload+1)
	for n := 0; n < len(plain); {
		read, err := r.Read(plain[n:])
		n += read
		if errors.Is(err, io.EOF) {
			return plain[:n], nil
		}
		if err != nil {
			wipe.Bytes(plain)
			return nil, fmt.Errorf("%w: its sealed content is damaged", ErrCorruptFile)
		}
	}
	wipe.Bytes(plain)
	return nil, fmt.Errorf("%w: its sealed content is larger than %d bytes", ErrCorruptFile, maxPayload)
}

// boundedIdentity tells a work factor that is too large from other faults,
// before any work is done.
type boundedIdentity struct {
	*age.ScryptIdentity
	maxWorkFactor int
}

// Unwrap implements age.Identity.
func (i boundedIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if len(stanzas) == 1 && stanzas[0].Type == "scrypt" && len(stanzas[0].Args) == 2 {
		if logN, err := strconv.Atoi(stanzas[0].Args[1]); err == nil && logN > i.maxWorkFactor {
			return nil, fmt.Errorf("%w: %d is above %d", ErrWorkFactor, logN, i.maxWorkFactor)
		}
	}
	return i.ScryptIdentity.Unwrap(stanzas)
}
