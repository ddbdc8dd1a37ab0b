package vault

import "errors"

// Errors of this package, to be matched with errors.Is. Their texts are stable
// and carry no secret; what wraps them adds facts such as a file's name or a
// word's position.
var (
	// ErrLocked is returned by whatever needs the seed while there is none.
	ErrLocked = errors.New("vault is locked; call Unlock first")
	// ErrAlreadyUnlocked is returned by a second unlock.
	ErrAlreadyUnlocked = errors.New("vault is already unlocked")
	// ErrClosed is returned by an unlock after Close.
	ErrClosed = errors.New("vault is closed")
	// ErrWiped is returned by the use of a secret after its Wipe.
	ErrWiped = errors.New("secret has been wiped")
	// ErrMnemonic is returned for a phrase or BIP-39 passphrase that is not
	// valid.
	ErrMnemonic = errors.New("mnemonic error")
	// ErrDerivation is returned when a key cannot be computed.
	ErrDerivation = errors.New("derivation error")
	// ErrEncryption is returned when something cannot be sealed, or sealed
	// data cannot be read or opened; whether the key is another one or the data
	// was changed is not told.
	ErrEncryption = errors.New("encryption error")
	// ErrInvalidPath is returned for a path outside the grammar, or one that
	// the call must not derive; also while the vault is locked.
	ErrInvalidPath = errors.New("invalid path")

	// ErrNoVault is returned when the home holds no vault.
	ErrNoVault = errors.New("there is no vault")
	// ErrExists is returned by Create when the home holds a vault.
	ErrExists = errors.New("there is a vault already")
	// ErrFileInUse is returned when another process is writing the vault.
	ErrFileInUse = errors.New("vault file is in use by another process")
	// ErrInsecurePermissions is returned when somebody else could read or
	// replace a file.
	ErrInsecurePermissions = errors.New("insecure permissions")
	// ErrWrongPassphrase is returned when the vault file does not open with
	// the passphrase.
	ErrWrongPassphrase = errors.New("wrong passphrase")
	// ErrPassphrase is returned for a file passphrase that cannot be used.
	ErrPassphrase = errors.New("unusable passphrase")
	// ErrBIP39PassphraseMissing is returned when the vault was made with a
	// BIP-39 passphrase and none is given.
	ErrBIP39PassphraseMissing = errors.New("the vault needs its BIP-39 passphrase")
	// ErrWrongIdentity is returned when the seed gives another identity than
	// the vault file names: most likely the BIP-39 passphrase is another one.
	ErrWrongIdentity = errors.New("wrong identity")
	// ErrCorruptFile is returned for a vault file or sidecar that is damaged.
	ErrCorruptFile = errors.New("corrupt file")
	// ErrUnsupported is returned for a vault file of a format or derivation
	// profile that this version does not know.
	ErrUnsupported = errors.New("unsupported vault format")
	// ErrWorkFactor is returned for a scrypt work factor out of range.
	ErrWorkFactor = errors.New("scrypt work factor out of range")
	// ErrGeneration is returned by RotateIdentity when the identity is at that
	// generation already, or past it.
	ErrGeneration = errors.New("the identity is not behind that generation")

	// ErrNoCredential is returned when the store has no credential of a name.
	ErrNoCredential = errors.New("there is no such credential")
	// ErrCredentialName is returned for a name that a credential cannot have.
	ErrCredentialName = errors.New("unusable credential name")
	// ErrKeyVersion is returned for data sealed with a key version below the
	// store's minimum, and for a rotation to an older version.
	ErrKeyVersion = errors.New("key version is too old")
	// ErrStoreFull is returned when a credential would make the store larger
	// than it may be.
	ErrStoreFull = errors.New("credential store is full")
)
