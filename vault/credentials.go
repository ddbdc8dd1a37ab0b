package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	// MaxCredentials is how many credentials a store holds.
	MaxCredentials = 1024

	credentialsFile   = "credentials.json"
	credentialsFormat = "alknet-credentials/1" //nolint:gosec // G101: the name of a format
	maxCredentialName = 128                    // bytes
	maxStore          = 8 << 20                // bytes
)

// CredentialStore keeps sealed credentials by name in the file credentials.json
// of a home: EncryptedData as it is, which the store itself cannot open. Every
// change is one atomic write under the home's lock; ErrFileInUse when another
// process holds it. Nothing is cached, so several processes may use one store.
// It is safe for concurrent use.
type CredentialStore struct{ home string }

// Credential is what a store says of a credential without opening it.
type Credential struct {
	// Name is 1 to 128 ASCII letters, digits and characters of "._-:/@".
	Name string
	// KeyVersion is the one it is sealed with; 0 when its entry is damaged.
	KeyVersion uint32
}

// Rotation is what a rotation did, or would do.
type Rotation struct {
	// To is the key version rotated to.
	To uint32
	// Rotated are the credentials that were sealed again, in order.
	Rotated []string
	// Failed are the ones that could not be opened, with the reason. They stay
	// as they are.
	Failed map[string]error
	// Below counts the credentials in the file that are sealed with a version
	// below To, or cannot be read: it is read again for that. The rotation is
	// complete when it is 0.
	Below int
}

// RotateOptions are the choices of a rotation.
type RotateOptions struct {
	// DryRun opens every credential and changes nothing.
	DryRun bool
	// Force allows an older version than the present one.
	Force bool
}

// NewCredentialStore is the store of a home. It touches no file.
func NewCredentialStore(home string) *CredentialStore { return &CredentialStore{home: home} }

// List returns the credentials by name. A home without the file has none.
// Errors: ErrCorruptFile, ErrUnsupported, ErrInsecurePermissions.
func (s *CredentialStore) List() ([]Credential, error) {
	f, err := s.read()
	if err != nil {
		return nil, fmt.Errorf("list credentials: %w", err)
	}
	list := make([]Credential, 0, len(f.sealed))
	for _, name := range f.names() {
		list = append(list, Credential{Name: name, KeyVersion: f.version(name)})
	}
	return list, nil
}

// MinVersion is the lowest key version that the store takes or gives out.
func (s *CredentialStore) MinVersion() (uint32, error) {
	f, err := s.read()
	if err != nil {
		return 0, fmt.Errorf("read credentials: %w", err)
	}
	return f.minVersion, nil
}

// Get returns a credential as it is sealed. Errors: ErrNoCredential,
// ErrEncryption for a damaged entry, ErrKeyVersion for one below the store's
// minimum, and those of List.
func (s *CredentialStore) Get(name string) (*EncryptedData, error) {
	d, err := s.get(name)
	if err != nil {
		return nil, fmt.Errorf("credential %q: %w", name, err)
	}
	return d, nil
}

// Put stores a credential, in place of one of that name. It must have been
// sealed with its name, as Seal does, to be opened by Open. Errors:
// ErrCredentialName, ErrKeyVersion below the store's minimum, ErrStoreFull,
// ErrFileInUse, and those of List.
func (s *CredentialStore) Put(name string, d *EncryptedData) error {
	err := s.change(func(f *credentials) error { return f.put(name, d) })
	if err != nil {
		return fmt.Errorf("store credential %q: %w", name, err)
	}
	return nil
}

// Delete removes a credential. Errors: ErrNoCredential, ErrFileInUse, and those
// of List.
func (s *CredentialStore) Delete(name string) error {
	err := s.change(func(f *credentials) error {
		if _, ok := f.sealed[name]; !ok {
			return ErrNoCredential
		}
		delete(f.sealed, name)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete credential %q: %w", name, err)
	}
	return nil
}

// Seal seals a secret together with its name and stores it, in place of one of
// that name. The key version is that of the home's sidecar. The secret is UTF-8,
// and stays the caller's, who wipes it. The errors are those of Put, ReadInfo and
// Vault.Encrypt.
func (s *CredentialStore) Seal(v *Vault, name string, secret []byte) error {
	err := s.change(func(f *credentials) error {
		info, err := readInfo(s.home)
		if err != nil {
			return err
		}
		if err := checkCredentialName(name); err != nil {
			return err
		}
		if !utf8.Valid(secret) {
			return fmt.Errorf("%w: a credential must be UTF-8", ErrEncryption)
		}
		plaintext := namedSecret(name, secret)
		defer wipe.Bytes(plaintext)
		d, err := v.Encrypt(plaintext, max(info.KeyVersion, f.minVersion))
		if err != nil {
			return err
		}
		return f.put(name, d)
	})
	if err != nil {
		return fmt.Errorf("seal credential %q: %w", name, err)
	}
	return nil
}

// Open returns the secret of a credential, which must have been sealed under
// that name: one that was moved to another does not open (ErrEncryption). The
// caller wipes it. The errors are those of Get and Vault.Decrypt.
func (s *CredentialStore) Open(v *Vault, name string) ([]byte, error) {
	secret, err := s.open(v, name)
	if err != nil {
		return nil, fmt.Errorf("open credential %q: %w", name, err)
	}
	return secret, nil
}

// Rotate seals every credential below a key version again with that version,
// which new ones are sealed with from then on. All that opens is written at
// once, so a rotation that was cut off has happened or has not, and one that left
// something behind is run again. When nothing below the version is left it
// becomes the store's minimum. To an older version than the present one is
// ErrKeyVersion unless o.Force is set: then all others are sealed again. The
// other errors are those of Put and ReadInfo, ErrInvalidPath for a version
// without a key, and ErrLocked.
func (s *CredentialStore) Rotate(v *Vault, to uint32, o RotateOptions) (*Rotation, error) {
	r, err := s.rotate(v, to, o)
	if err != nil {
		return nil, fmt.Errorf("rotate credentials: %w", err)
	}
	return r, nil
}

func (s *CredentialStore) get(name string) (*EncryptedData, error) {
	f, err := s.read()
	if err != nil {
		return nil, err
	}
	raw, ok := f.sealed[name]
	if !ok {
		return nil, ErrNoCredential
	}
	d, err := ParseEncryptedData(raw)
	if err != nil {
		return nil, err
	}
	return d, f.checkVersion(d.KeyVersion)
}

func (s *CredentialStore) open(v *Vault, name string) ([]byte, error) {
	d, err := s.get(name)
	if err != nil {
		return nil, err
	}
	plaintext, err := v.Decrypt(d)
	if err != nil {
		return nil, err
	}
	defer wipe.Bytes(plaintext)
	return secretNamed(name, plaintext)
}

func (s *CredentialStore) rotate(v *Vault, to uint32, o RotateOptions) (*Rotation, error) {
	if _, err := EncryptionPath(to); err != nil {
		return nil, err
	}
	if !v.IsUnlocked() {
		return nil, ErrLocked
	}
	unlock, err := lockHome(s.home)
	if err != nil {
		return nil, err
	}
	defer unlock()
	info, err := readInfo(s.home)
	if err != nil {
		return nil, err
	}
	f, err := s.read()
	if err != nil {
		return nil, err
	}
	r := &Rotation{To: to, Failed: make(map[string]error)}
	newest := max(info.KeyVersion, f.minVersion)
	for _, name := range f.names() {
		newest = max(newest, f.version(name))
	}
	if to < newest && !o.Force {
		return nil, fmt.Errorf("%w: version %d is in use, and %d is older", ErrKeyVersion, newest, to)
	}
	for _, name := range f.names() {
		if f.version(name) == to {
			continue
		}
		if err := f.rotate(v, name, to); err != nil {
			r.Failed[name] = err
			continue
		}
		r.Rotated = append(r.Rotated, name)
	}
	if o.DryRun {
		r.Below = f.below(to)
		return r, nil
	}

	// First what new credentials are sealed with: cut off after that, only old
	// ones are below.
	info.KeyVersion = to
	if err := writeInfo(s.home, info); err != nil {
		return nil, err
	}
	f.minVersion = min(f.minVersion, to)
	if f.below(to) == 0 {
		f.minVersion = to
	}
	if err := s.write(f); err != nil {
		return nil, err
	}
	written, err := s.read()
	if err != nil {
		return nil, err
	}
	r.Below = written.below(to)
	return r, nil
}

// change reads the file, changes it and writes it, under the lock.
func (s *CredentialStore) change(f func(*credentials) error) error {
	unlock, err := lockHome(s.home)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := s.read()
	if err != nil {
		return err
	}
	if err := f(c); err != nil {
		return err
	}
	return s.write(c)
}

func (s *CredentialStore) read() (*credentials, error) {
	data, err := readFile(s.home, credentialsFile, maxStore)
	if errors.Is(err, fs.ErrNotExist) {
		return &credentials{minVersion: CurrentKeyVersion, sealed: make(object)}, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := decodeCredentials(data)
	if errors.Is(err, ErrUnsupported) {
		return nil, fmt.Errorf("%s: %w", credentialsFile, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorruptFile, credentialsFile, err)
	}
	return f, nil
}

func (s *CredentialStore) write(f *credentials) error {
	data := f.encode()
	if len(f.sealed) > MaxCredentials || len(data) > maxStore {
		return fmt.Errorf("%w: at most %d credentials of %d bytes in all", ErrStoreFull, MaxCredentials, maxStore)
	}
	return replaceFile(filepath.Join(s.home, credentialsFile), data)
}

// credentials is the content of the file. What is sealed stays as it was
// written, member for member.
type credentials struct {
	minVersion uint32
	sealed     object
}

func decodeCredentials(data []byte) (*credentials, error) {
	o, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	if err := expect(o, "format", credentialsFormat); err != nil {
		return nil, err
	}
	var f credentials
	if f.minVersion, err = member[uint32](o, "min_version"); err != nil {
		return nil, err
	}
	if _, err := EncryptionPath(f.minVersion); err != nil {
		return nil, err
	}
	if f.sealed, err = parseObject(o["credentials"]); err != nil {
		return nil, fmt.Errorf("%q: %w", "credentials", err)
	}
	if len(f.sealed) > MaxCredentials {
		return nil, fmt.Errorf("more than %d credentials", MaxCredentials)
	}
	for name := range f.sealed {
		if err := checkCredentialName(name); err != nil {
			return nil, err
		}
	}
	return &f, nil
}

// encode returns the file's content, a credential on each line.
func (f *credentials) encode() []byte {
	data := fmt.Appendf(nil, "{\"format\":%q,\"min_version\":%d,\"credentials\":{", credentialsFormat, f.minVersion)
	for i, name := range f.names() {
		if i > 0 {
			data = append(data, ',')
		}
		data = fmt.Appendf(data, "\n%q:%s", name, f.sealed[name])
	}
	return append(data, "}}\n"...)
}

func (f *credentials) names() []string { return slices.Sorted(maps.Keys(f.sealed)) }

// version is the key version of a credential, 0 for a damaged one.
func (f *credentials) version(name string) uint32 {
	d, err := parseEncrypted(f.sealed[name])
	if err != nil {
		return 0
	}
	return d.KeyVersion
}

// below counts what is sealed with an older version, or damaged.
func (f *credentials) below(version uint32) int {
	n := 0
	for name := range f.sealed {
		if f.version(name) < version {
			n++
		}
	}
	return n
}

func (f *credentials) checkVersion(version uint32) error {
	if version < f.minVersion {
		return fmt.Errorf("%w: %d, and the store's minimum is %d", ErrKeyVersion, version, f.minVersion)
	}
	return nil
}

func (f *credentials) put(name string, d *EncryptedData) error {
	if err := checkCredentialName(name); err != nil {
		return err
	}
	if d == nil {
		return errCannotOpen
	}
	raw, err := d.MarshalJSON()
	if err != nil {
		return err
	}
	if _, err := ParseEncryptedData(raw); err != nil {
		return err
	}
	if err := f.checkVersion(d.KeyVersion); err != nil {
		return err
	}
	f.sealed[name] = raw
	return nil
}

func (f *credentials) rotate(v *Vault, name string, to uint32) error {
	d, err := ParseEncryptedData(f.sealed[name])
	if err != nil {
		return err
	}
	rotated, err := v.Rotate(d, to)
	if err != nil {
		return err
	}
	f.sealed[name], err = rotated.MarshalJSON()
	return err
}

func checkCredentialName(name string) error {
	if name == "" || len(name) > maxCredentialName {
		return fmt.Errorf("%w: it has 1 to %d characters", ErrCredentialName, maxCredentialName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '-', c == ':', c == '/', c == '@':
		default:
			return fmt.Errorf("%w: it has letters, digits and ._-:/@ only", ErrCredentialName)
		}
	}
	return nil
}

// namedSecret is what is sealed: {"n":name,"v":secret}. It is put together by
// hand, in one buffer, as the payload of the vault file is. The caller wipes it.
func namedSecret(name string, secret []byte) []byte {
	const longest = len(`\u0000`)
	b := make([]byte, 0, len(`{"n":"","v":""}`)+len(name)+longest*len(secret))
	b = append(b, `{"n":"`...)
	b = append(b, name...)
	b = append(b, `","v":"`...)
	for _, c := range secret {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, `"}`...)
}

// secretNamed is the secret in what namedSecret made, if the name is the one
// given. The caller wipes it.
func secretNamed(name string, plaintext []byte) ([]byte, error) {
	unnamed := fmt.Errorf("%w: it was not sealed as a credential", ErrEncryption)
	o, err := parseObject(plaintext)
	if err != nil {
		return nil, unnamed
	}
	defer wipeObject(o)
	have, err := member[string](o, "n")
	if err != nil {
		return nil, unnamed
	}
	if have != name {
		return nil, fmt.Errorf("%w: it was sealed under another name", ErrEncryption)
	}
	secret, ok := unquote(o["v"])
	if !ok {
		return nil, unnamed
	}
	return secret, nil
}

// unquote decodes a valid JSON string without a copy that cannot be wiped.
func unquote(raw json.RawMessage) ([]byte, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, false
	}
	raw = raw[1 : len(raw)-1]
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			b = append(b, raw[i])
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := hex4(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low := rune(utf8.RuneError)
				if len(raw) > i+6 && raw[i+1] == '\\' && raw[i+2] == 'u' {
					low = hex4(raw[i+3:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			b = utf8.AppendRune(b, r)
		default: // " \ /
			b = append(b, raw[i])
		}
	}
	return b, true
}

// hex4 reads the four hex digits of a valid escape.
func hex4(b []byte) rune {
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}
