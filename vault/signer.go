package vault

import (
	"crypto"
	"crypto/ed25519"
	"io"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

// signer signs with the key at one path of a vault.
type signer struct {
	vault  *Vault
	path   Path
	public ed25519.PublicKey
}

// Public returns an ed25519.PublicKey.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs as [ed25519.PrivateKey.Sign] does; nil opts mean a message that is
// not hashed.
func (s *signer) Sign(rand io.Reader, message []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	if opts == nil {
		opts = crypto.Hash(0)
	}
	key, err := s.vault.DeriveEd25519(s.path)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	useErr := key.Use(func(private []byte) {
		full := ed25519.NewKeyFromSeed(private)
		defer wipe.Bytes(full)
		signature, err = full.Sign(rand, message, opts)
	})
	if useErr != nil {
		return nil, useErr
	}
	return signature, err
}
