package vault

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/alkdev/alknet-p2p/vault/internal/slip10"
)

// Path is a derivation path in text, "m" and then one index for each level. An
// index is a decimal number up to MaxIndex, hardened when ' or h follows; the
// canonical form, which ParsePath returns, has '. Any string can be converted
// to a Path, so every call that takes one checks it and may return
// ErrInvalidPath.
type Path string

// The paths in use. m/74'/1' is taken by a branch of old: never use it.
const (
	// Identity is the node's network identity: device 0, generation 0.
	Identity Path = "m/74'/0'/0'/0'"
	// DevicePrefix stands before the device's index; it is no key itself.
	DevicePrefix Path = "m/74'/0'/0'"
	// SSHHost is the SSH host key.
	SSHHost Path = "m/74'/0'/1'/0'"
	// Encryption is the AES key of version 2, the current one.
	Encryption Path = "m/74'/2'/0'/0'"
	// Ethereum is the Ethereum signing key of BIP-44.
	Ethereum Path = "m/44'/60'/0'/0/0"

	encryptionPrefix Path = "m/74'/2'"
)

const (
	// MaxIndex is the largest index, device or generation.
	MaxIndex = slip10.Hardened - 1
	// MaxDepth is the largest number of indices in a path.
	MaxDepth = 255
	// CurrentKeyVersion is the AES key version that new data is sealed with.
	CurrentKeyVersion = 2

	maxPathLen = len("m") + MaxDepth*len("/2147483647'")
)

// DevicePath is the identity path of a device in generation 0; device 0 is
// Identity. A device above MaxIndex is ErrInvalidPath.
func DevicePath(device uint32) (Path, error) { return IdentityPath(device, 0) }

// IdentityPath is the identity path of a device in a generation: DevicePath in
// generation 0, and the generation's index below it from then on. The chain
// code needed for the next generation never leaves the vault, so a stolen key
// does not give its successors. Values above MaxIndex are ErrInvalidPath.
func IdentityPath(device, generation uint32) (Path, error) {
	if device > MaxIndex {
		return "", fmt.Errorf("%w: device above %d", ErrInvalidPath, MaxIndex)
	}
	if generation > MaxIndex {
		return "", fmt.Errorf("%w: generation above %d", ErrInvalidPath, MaxIndex)
	}
	if generation == 0 {
		return DevicePrefix.hardened(device), nil
	}
	return DevicePrefix.hardened(device).hardened(generation), nil
}

// EncryptionPath is the path of the AES key of a version, 2 to MaxIndex+2; any
// other version is ErrInvalidPath.
func EncryptionPath(version uint32) (Path, error) {
	if version < 2 || version-2 > MaxIndex {
		return "", fmt.Errorf("%w: no key of version %d", ErrInvalidPath, version)
	}
	return (encryptionPrefix + "/0'").hardened(version - 2), nil
}

// ParsePath checks text against the grammar and returns it in canonical form.
func ParsePath(text string) (Path, error) {
	indices, err := Path(text).indices()
	if err != nil {
		return "", err
	}
	return formatPath(indices), nil
}

// hardened appends a hardened index.
func (p Path) hardened(index uint32) Path {
	return p + "/" + Path(strconv.FormatUint(uint64(index), 10)) + "'"
}

// indices parses the path. Errors name the position of an index and not its
// text, which may be anything.
func (p Path) indices() ([]uint32, error) {
	if len(p) > maxPathLen {
		return nil, fmt.Errorf("%w: more than %d characters", ErrInvalidPath, maxPathLen)
	}
	levels := strings.Split(string(p), "/")
	if levels[0] != "m" {
		return nil, fmt.Errorf("%w: does not start with m", ErrInvalidPath)
	}
	levels = levels[1:]
	if len(levels) > MaxDepth {
		return nil, fmt.Errorf("%w: more than %d indices", ErrInvalidPath, MaxDepth)
	}
	indices := make([]uint32, len(levels))
	for i, level := range levels {
		index, ok := parseIndex(level)
		if !ok {
			return nil, fmt.Errorf("%w: index %d is not a number from 0 to %d, with an optional '", ErrInvalidPath, i+1, MaxIndex)
		}
		indices[i] = index
	}
	return indices, nil
}

func parseIndex(text string) (uint32, bool) {
	digits := strings.TrimSuffix(text, "'")
	if digits == text {
		digits = strings.TrimSuffix(text, "h")
	}
	if digits == "" || digits[0] < '0' || digits[0] > '9' || (digits[0] == '0' && len(digits) > 1) {
		return 0, false // strconv would take a sign and leading zeros
	}
	index, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return 0, false
	}
	if digits != text {
		return uint32(index) | slip10.Hardened, true
	}
	return uint32(index), true
}

func formatPath(indices []uint32) Path {
	text := []byte("m")
	for _, index := range indices {
		text = append(text, '/')
		text = strconv.AppendUint(text, uint64(index&^slip10.Hardened), 10)
		if index >= slip10.Hardened {
			text = append(text, '\'')
		}
	}
	return Path(text)
}

// keyPath checks that a key may be at p, and returns the canonical path and its
// indices.
func keyPath(p Path) (Path, []uint32, error) {
	indices, err := p.indices()
	if err != nil {
		return "", nil, err
	}
	if len(indices) == 0 {
		return "", nil, fmt.Errorf("%w: the master key is not for use", ErrInvalidPath)
	}
	return formatPath(indices), indices, nil
}

// hardenedPath is keyPath for keys of SLIP-0010, whose steps are all hardened.
func hardenedPath(p Path) (Path, []uint32, error) {
	canonical, indices, err := keyPath(p)
	if err == nil && slices.ContainsFunc(indices, func(i uint32) bool { return i < slip10.Hardened }) {
		err = fmt.Errorf("%w: the path of such a key is hardened throughout", ErrInvalidPath)
	}
	return canonical, indices, err
}

// ed25519Path checks that an Ed25519 key may be derived at p. The branch of the
// AES keys is closed to it, so that no signing key is ever one of them.
func ed25519Path(p Path) (Path, []uint32, error) {
	canonical, indices, err := hardenedPath(p)
	switch {
	case err != nil:
		return "", nil, err
	case canonical == DevicePrefix:
		return "", nil, fmt.Errorf("%w: %s is a prefix, not a key", ErrInvalidPath, DevicePrefix)
	case canonical == encryptionPrefix || below(canonical, encryptionPrefix):
		return "", nil, fmt.Errorf("%w: %s is for encryption keys", ErrInvalidPath, encryptionPrefix)
	}
	return canonical, indices, nil
}

// encryptionPath checks that an AES key may be derived at p: in its own branch
// only.
func encryptionPath(p Path) (Path, []uint32, error) {
	canonical, indices, err := hardenedPath(p)
	switch {
	case err != nil:
		return "", nil, err
	case !below(canonical, encryptionPrefix):
		return "", nil, fmt.Errorf("%w: encryption keys are below %s", ErrInvalidPath, encryptionPrefix)
	}
	return canonical, indices, nil
}

// below reports whether p is in the branch of prefix, and not prefix itself.
func below(p, prefix Path) bool { return strings.HasPrefix(string(p), string(prefix)+"/") }
