package vault

import "unsafe"

// UnlockSeed unlocks v with a seed that no phrase gives, as official vectors
// have.
func UnlockSeed(v *Vault, seed []byte) error { return v.state.unlock(append([]byte(nil), seed...)) }

// SealData seals under a key of v with the nonce and salt that d has, as
// vectors need.
func SealData(v *Vault, d *EncryptedData, plaintext []byte) error {
	keys, err := v.encryptionKeys(d.KeyVersion)
	if err != nil {
		return err
	}
	defer keys[0].Wipe()
	return sealData(keys[0], d, plaintext)
}

// NamedSecret is what a store seals.
var NamedSecret = namedSecret

// SeedAddress is where the seed of v lies.
func SeedAddress(v *Vault) (address uint64) {
	_ = v.state.seed.use(func(b []byte) { address = uint64(uintptr(unsafe.Pointer(&b[0]))) })
	return address
}
