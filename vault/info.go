package vault

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Info is what may be known of a vault without its passphrase. It is the
// content of the sidecar file vault.json.
type Info struct {
	// Identity is the fingerprint of the node's key, "ed25519:<64 hex>".
	Identity string `json:"identity"`
	// PeerID is the same key as libp2p writes it, "12D3KooW…".
	PeerID string `json:"peer_id"`
	// KeyVersion is the AES key version that new data is sealed with.
	KeyVersion uint32 `json:"key_version"`
	// Device is the index of this node among those that share the mnemonic.
	Device uint32 `json:"device"`
	// Generation of the identity.
	Generation uint32 `json:"generation"`
	// Next is the commitment of the identity to its next generation, in 64
	// lower-case hex digits; empty when there is no next one.
	Next string `json:"next,omitempty"`
}

// newInfo describes an unlocked vault.
func newInfo(v *Vault) (Info, error) {
	public, err := v.PublicKey(v.IdentityPath())
	if err != nil {
		return Info{}, err
	}
	info := Info{
		Identity:   FingerprintOf(public),
		PeerID:     PeerIDOf(public),
		KeyVersion: CurrentKeyVersion,
		Device:     v.device,
		Generation: v.generation,
	}
	if v.generation < MaxIndex {
		next, err := v.NextPublicKey()
		if err != nil {
			return Info{}, err
		}
		commitment := CommitmentOf(next)
		info.Next = hex.EncodeToString(commitment[:])
	}
	return info, nil
}

// encode returns the sidecar's content.
func (i Info) encode() ([]byte, error) {
	data, err := json.Marshal(i)
	return append(data, '\n'), err
}

// decodeInfo reads a sidecar. Members that it does not know are ignored.
func decodeInfo(data []byte) (Info, error) {
	var i Info
	o, err := parseObject(data)
	if err != nil {
		return Info{}, err
	}
	if i.Identity, err = member[string](o, "identity"); err != nil {
		return Info{}, err
	}
	if i.PeerID, err = member[string](o, "peer_id"); err != nil {
		return Info{}, err
	}
	if i.KeyVersion, err = member[uint32](o, "key_version"); err != nil {
		return Info{}, err
	}
	if i.Device, err = member[uint32](o, "device"); err != nil {
		return Info{}, err
	}
	if i.Generation, err = member[uint32](o, "generation"); err != nil {
		return Info{}, err
	}
	if _, there := o["next"]; there { // sidecars of before have none
		if i.Next, err = member[string](o, "next"); err != nil {
			return Info{}, err
		}
		if b, err := hex.DecodeString(i.Next); err != nil || len(b) != sha256.Size || hex.EncodeToString(b) != i.Next {
			return Info{}, fmt.Errorf("%q is not 64 lower-case hex digits", "next")
		}
	}
	public, ok := parseFingerprint(i.Identity)
	if !ok {
		return Info{}, fmt.Errorf("%q is not ed25519: and 64 lower-case hex digits", "identity")
	}
	if i.PeerID != PeerIDOf(public) {
		return Info{}, fmt.Errorf("%q and %q name different keys", "identity", "peer_id")
	}
	if _, err := EncryptionPath(i.KeyVersion); err != nil {
		return Info{}, err
	}
	if _, err := IdentityPath(i.Device, i.Generation); err != nil {
		return Info{}, err
	}
	return i, nil
}
