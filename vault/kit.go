package vault

import (
	"fmt"
	"time"
)

// Kit is what a recovery kit is printed from: all that restores a vault on
// another machine, but for a BIP-39 passphrase.
type Kit struct {
	// Mnemonic is the phrase; the caller wipes it.
	Mnemonic *Mnemonic
	// BIP39Passphrase tells that one belongs to the phrase. It is kept nowhere.
	BIP39Passphrase bool
	// Profile names the derivation, "slip10".
	Profile string
	// Identity is the fingerprint that the phrase gives, with Device and
	// Generation.
	Identity           string
	Device, Generation uint32
	// Created is when the vault was made.
	Created time.Time
}

// ReadKit decrypts the vault file of a home for its phrase. It is the one way to
// see a phrase again: for the recovery kit, and for a check of the words that
// somebody wrote down. The errors are those of Open, but for ErrWrongIdentity
// and ErrBIP39PassphraseMissing.
func ReadKit(home string, passphrase []byte) (*Kit, error) {
	f, err := load(home, passphrase)
	if err != nil {
		return nil, fmt.Errorf("read recovery kit: %w", err)
	}
	return &Kit{
		Mnemonic:        f.payload.phrase,
		BIP39Passphrase: f.payload.hasBIP39Passphrase,
		Profile:         payloadProfile,
		Identity:        f.payload.identity,
		Device:          f.payload.device,
		Generation:      f.payload.generation,
		Created:         f.payload.created,
	}, nil
}
