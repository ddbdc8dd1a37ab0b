package vault

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
