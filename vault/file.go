package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	vaultFile   = "vault.age"
	sidecarFile = "vault.json"

	maxFile = 64 << 10 // of either, bytes
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

// ChangePassphrase seals the vault file of a home under another passphrase; the
// keys stay. Work factor 0 keeps the file's own. A power cut leaves the file with
// the old passphrase or with the new one. Copies of the old file still open with
// the old one. The errors are those of Open and Create, but for the BIP-39
// passphrase, which is not needed.
func ChangePassphrase(home string, old, passphrase []byte, workFactor int) error {
	if err := changePassphrase(home, old, passphrase, workFactor); err != nil {
		return fmt.Errorf("change passphrase: %w", err)
	}
	return nil
}

// RotateIdentity makes the identity that of a later generation, in the vault
// file and the sidecar, and returns what the sidecar says now. The peers learn of
// it from a hand-over, for which Vault.IdentitySigner has both keys, before and
// after. The generation is named, so that doing it twice rotates once:
// ErrGeneration when the identity is there already; ErrInvalidPath above
// MaxIndex. A power cut leaves the old generation or the new one. The other
// errors are those of Open and Create.
func RotateIdentity(home string, passphrase, bip39Passphrase []byte, generation uint32) (*Info, error) {
	info, err := rotateIdentity(home, passphrase, bip39Passphrase, generation)
	if err != nil {
		return nil, fmt.Errorf("rotate identity: %w", err)
	}
	return info, nil
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
	if err := checkWorkFactor(o.WorkFactor); err != nil {
		return nil, err
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

	f := openFile{workFactor: o.WorkFactor, payload: &payload{
		phrase:             m,
		hasBIP39Passphrase: len(o.BIP39Passphrase) > 0,
		identity:           info.Identity,
		device:             o.Device,
		generation:         o.Generation,
		created:            time.Now(),
	}}
	// The vault first: the sidecar can be written again from it.
	if err := f.save(home, passphrase); err != nil {
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
	f, err := load(home, passphrase)
	if err != nil {
		return nil, err
	}
	defer f.payload.phrase.Wipe()
	v, info, err := f.payload.unlock(bip39Passphrase)
	if err != nil {
		return nil, err
	}
	if err := f.repairInfo(home, v, info); err != nil {
		_ = v.Close()
		return nil, err
	}
	return v, nil
}

func changePassphrase(home string, old, passphrase []byte, workFactor int) error {
	if workFactor != 0 {
		if err := checkWorkFactor(workFactor); err != nil {
			return err
		}
	}
	if err := checkPassphrase(passphrase); err != nil {
		return err
	}
	unlock, err := lockHome(home)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := load(home, old)
	if err != nil {
		return err
	}
	defer f.payload.phrase.Wipe()
	if workFactor != 0 {
		f.workFactor = workFactor
	}
	return f.save(home, passphrase)
}

func rotateIdentity(home string, passphrase, bip39Passphrase []byte, generation uint32) (*Info, error) {
	if generation > MaxIndex {
		return nil, fmt.Errorf("%w: generation above %d", ErrInvalidPath, MaxIndex)
	}
	unlock, err := lockHome(home)
	if err != nil {
		return nil, err
	}
	defer unlock()
	f, err := load(home, passphrase)
	if err != nil {
		return nil, err
	}
	defer f.payload.phrase.Wipe()
	if generation <= f.payload.generation {
		return nil, fmt.Errorf("%w: it is at %d", ErrGeneration, f.payload.generation)
	}
	v, before, err := f.payload.unlock(bip39Passphrase)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	v.generation = generation
	info, err := newInfo(v)
	if err != nil {
		return nil, err
	}
	info.KeyVersion = keyVersion(home, v, before)
	f.payload.generation, f.payload.identity = generation, info.Identity
	// The vault first: the sidecar can be written again from it.
	if err := f.save(home, passphrase); err != nil {
		return nil, err
	}
	return &info, writeInfo(home, info)
}

func checkWorkFactor(n int) error {
	if n < 1 || n > MaxWorkFactor {
		return fmt.Errorf("%w: %d is not from 1 to %d", ErrWorkFactor, n, MaxWorkFactor)
	}
	return nil
}

// openFile is a vault file that its passphrase opened.
type openFile struct {
	sealed     []byte
	workFactor int
	payload    *payload
}

// load opens the vault file; the caller wipes the phrase.
func load(home string, passphrase []byte) (*openFile, error) {
	if err := checkPassphrase(passphrase); err != nil {
		return nil, err
	}
	sealed, err := readVaultFile(home, vaultFile)
	if err != nil {
		return nil, err
	}
	f := &openFile{sealed: sealed}
	return f, undisturbed(func() error { return f.unseal(passphrase) })
}

// unseal reads what the sealed file holds.
func (f *openFile) unseal(passphrase []byte) error {
	plain, workFactor, err := unseal(f.sealed, passphrase, MaxWorkFactor)
	if err != nil {
		return fmt.Errorf("%s: %w", vaultFile, err)
	}
	defer wipe.Bytes(plain)
	f.workFactor = workFactor
	f.payload, err = decodePayload(plain)
	if errors.Is(err, ErrUnsupported) {
		return fmt.Errorf("%s: %w", vaultFile, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorruptFile, vaultFile, err)
	}
	return nil
}

// save writes the vault file, under the lock of its home.
func (f *openFile) save(home string, passphrase []byte) error {
	plain, err := f.payload.encode()
	if err != nil {
		return err
	}
	defer wipe.Bytes(plain)
	sealed, err := seal(plain, passphrase, f.workFactor)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(home, vaultFile), sealed)
}

// unlock makes an unlocked vault of the payload, and checks its identity.
func (p *payload) unlock(bip39Passphrase []byte) (*Vault, Info, error) {
	if p.hasBIP39Passphrase && len(bip39Passphrase) == 0 {
		return nil, Info{}, ErrBIP39PassphraseMissing
	}
	v, err := New(Config{Device: p.device, Generation: p.generation})
	if err != nil {
		return nil, Info{}, err
	}
	if err := v.Unlock(p.phrase, bip39Passphrase); err != nil {
		return nil, Info{}, errors.Join(err, v.Close())
	}
	info, err := newInfo(v)
	if err == nil && info.Identity != p.identity {
		err = fmt.Errorf("%w: the seed gives %s, the vault file names %s", ErrWrongIdentity, info.Identity, p.identity)
	}
	if err != nil {
		return nil, Info{}, errors.Join(err, v.Close())
	}
	return v, info, nil
}

// repairInfo writes the sidecar when it does not say what the vault says, as
// after a power cut between the two writes.
func (f *openFile) repairInfo(home string, v *Vault, info Info) error {
	info.KeyVersion = keyVersion(home, v, info)
	have, err := readInfo(home)
	if err == nil && have == info {
		return nil
	}
	if err != nil && !errors.Is(err, ErrCorruptFile) {
		return err
	}
	unlock, err := lockHome(home)
	if errors.Is(err, ErrFileInUse) {
		return nil // by somebody who is writing the sidecar
	}
	if err != nil {
		return err
	}
	defer unlock()
	// Unless somebody has written another vault file since.
	sealed, err := readVaultFile(home, vaultFile)
	if err != nil || !bytes.Equal(sealed, f.sealed) {
		return err
	}
	return writeInfo(home, info)
}

// keyVersion is what the sidecar says, which alone knows it, if it is one of the
// same seed, of whatever generation; else the default that info has.
func keyVersion(home string, v *Vault, info Info) uint32 {
	have, err := readInfo(home)
	if err != nil {
		return info.KeyVersion
	}
	if have.Identity == info.Identity {
		return have.KeyVersion
	}
	path, err := IdentityPath(have.Device, have.Generation)
	if err != nil {
		return info.KeyVersion
	}
	public, err := v.PublicKey(path)
	if err != nil || FingerprintOf(public) != have.Identity {
		return info.KeyVersion
	}
	return have.KeyVersion
}

func readInfo(home string) (Info, error) {
	data, err := readVaultFile(home, sidecarFile)
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
