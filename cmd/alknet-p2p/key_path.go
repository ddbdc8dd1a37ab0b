package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/sha3"

	"github.com/alkdev/alknet-p2p/vault"
)

// pathKeyAnswer is the public key at a path in every form. The type of the key
// follows from the path; forms that it does not have are left out.
type pathKeyAnswer struct {
	Path    string `json:"path"`
	KeyType string `json:"key_type"`
	Hex     string `json:"public_key"`

	NodeKey string `json:"node_key,omitempty"` // Ed25519
	PeerID  string `json:"peer_id,omitempty"`
	SPKI    string `json:"spki,omitempty"` // RFC 7250, hex
	SSH     string `json:"ssh,omitempty"`  // as in authorized_keys

	Uncompressed string `json:"uncompressed,omitempty"` // secp256k1
	Ethereum     string `json:"ethereum,omitempty"`     // address, EIP-55
}

// keyAt prints the public key at a path.
func (a *app) keyAt(ctx context.Context, h home, path vault.Path, f keyFlags) error {
	v, err := a.unlock(ctx, h, f.passphrase)
	if err != nil {
		return err
	}
	defer a.lock(h, v)
	answer, err := publicKeyAt(v, path)
	if errors.Is(err, vault.ErrInvalidPath) {
		return usagef("--path: %s", err)
	}
	if err != nil {
		return err
	}
	return a.show(answer, func(w *bytes.Buffer) {
		rows := [][]string{{"path", answer.Path}, {"type", answer.KeyType}}
		for _, form := range []struct{ name, text string }{
			{"node key", answer.NodeKey},
			{"peer ID", answer.PeerID},
			{"public key", answer.Hex},
			{"uncompressed", answer.Uncompressed},
			{"SPKI", answer.SPKI},
			{"SSH", answer.SSH},
			{"Ethereum", answer.Ethereum},
		} {
			if form.text != "" {
				rows = append(rows, []string{form.name, form.text})
			}
		}
		table(w, rows)
		if f.qr {
			printQR(w, answer.NodeKey+answer.Ethereum) // one of the two
		}
	})
}

// publicKeyAt derives the key of the type that belongs to a path: secp256k1
// below m/44' (BIP-44) and where an index is not hardened, else Ed25519.
func publicKeyAt(v *vault.Vault, path vault.Path) (*pathKeyAnswer, error) {
	answer := &pathKeyAnswer{Path: string(path)}
	hardened := strings.Count(string(path), "'") == strings.Count(string(path), "/")
	if hardened && !strings.HasPrefix(string(path), "m/44'/") {
		public, err := v.PublicKey(path)
		if err != nil {
			return nil, err
		}
		answer.KeyType = string(vault.Ed25519)
		answer.Hex = hex.EncodeToString(public)
		answer.NodeKey, answer.PeerID = vault.FingerprintOf(public), vault.PeerIDOf(public)
		answer.SPKI = "302a300506032b6570032100" + answer.Hex
		answer.SSH = sshKey(public)
		return answer, nil
	}
	public, err := v.EthereumPublicKey(path)
	if err != nil {
		return nil, err
	}
	point, err := secp256k1.ParsePubKey(public)
	if err != nil {
		return nil, err
	}
	answer.KeyType = string(vault.Secp256k1)
	answer.Hex = hex.EncodeToString(public)
	answer.Uncompressed = hex.EncodeToString(point.SerializeUncompressed())
	answer.Ethereum = ethereumAddress(point)
	return answer, nil
}

// sshKey is an Ed25519 key as OpenSSH writes it (RFC 8709).
func sshKey(public ed25519.PublicKey) string {
	const kind = "ssh-ed25519"
	var b cryptobyte.Builder
	b.AddUint32(uint32(len(kind)))
	b.AddBytes([]byte(kind))
	b.AddUint32(uint32(len(public)))
	b.AddBytes(public)
	return kind + " " + base64.StdEncoding.EncodeToString(b.BytesOrPanic())
}

// ethereumAddress is the address of a key with its checksum (EIP-55).
func ethereumAddress(key *secp256k1.PublicKey) string {
	hash := keccak(key.SerializeUncompressed()[1:])
	address := []byte(hex.EncodeToString(hash[len(hash)-20:]))
	for i, nibble := range hex.EncodeToString(keccak(address))[:len(address)] {
		if nibble >= '8' && address[i] >= 'a' {
			address[i] -= 'a' - 'A'
		}
	}
	return "0x" + string(address)
}

func keccak(b []byte) []byte {
	h := sha3.NewLegacyKeccak256()
	_, _ = h.Write(b) // never fails
	return h.Sum(nil)
}
