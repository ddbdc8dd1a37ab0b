package magic

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-varint"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

// Code is the multicodec of the /alknet address, in the range for private use.
const Code = 0x3a1c0e

// Addr is the address of every peer on the magic transport: /alknet, without a
// value, since the peer ID beside it says all there is to say. It is never
// advertised, signed or stored (PATH-1).
//
// It is made when the package is loaded, the one exception to the rule against
// package state: the table of multiaddr protocols must not change while
// addresses are parsed.
var Addr = register()

func register() ma.Multiaddr {
	err := ma.AddProtocol(ma.Protocol{Name: "alknet", Code: Code, VCode: varint.ToUvarint(Code)})
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return ma.StringCast("/alknet")
}

// IsAddr tells whether the address is the magic transport's.
func IsAddr(a ma.Multiaddr) bool {
	if len(a) == 0 {
		return false
	}
	return a[0].Protocol().Code == Code
}

// Strip returns the addresses without the magic transport's, for whatever is
// about to be advertised.
func Strip(addrs []ma.Multiaddr) []ma.Multiaddr {
	out := make([]ma.Multiaddr, 0, len(addrs))
	for _, a := range addrs {
		if !IsAddr(a) {
			out = append(out, a)
		}
	}
	return out
}

// KeyOf returns the public key within a peer ID; only ed25519 keys have a
// place in relay frames.
func KeyOf(p peer.ID) (relay.Key, error) {
	pub, err := p.ExtractPublicKey()
	if err != nil {
		return relay.Key{}, fmt.Errorf("peer %s: %w", p, err)
	}
	return keyOfPublic(pub)
}

// PeerID is the libp2p name of a node key; it fails when the bytes are no
// point of the curve.
func PeerID(k relay.Key) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "", fmt.Errorf("node key: %w", err)
	}
	return peer.IDFromPublicKey(pub)
}

func keyOfPublic(pub crypto.PubKey) (k relay.Key, err error) {
	if pub.Type() != crypto.Ed25519 {
		return k, errors.New("not an ed25519 key")
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return k, errors.New("not an ed25519 key")
	}
	return relay.Key(raw), nil
}
