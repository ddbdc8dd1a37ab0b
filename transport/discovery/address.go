package discovery

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/crypto/cryptobyte"
)

// Limits of the lists in tickets and address records.
const (
	MaxRelays     = 4  // relays in one ticket or record
	MaxRelayAddrs = 8  // addresses of one relay
	MaxAddrs      = 16 // addresses of the peer itself
)

// maxAddrBytes is the longest address, set by its one-byte length.
const maxAddrBytes = 255

// keyPrefix stands before the 32 key bytes in the peer ID of an Ed25519 key
// (NODE-50): an identity multihash of the key's protobuf.
const keyPrefix = "\x00\x24\x08\x01\x12\x20"

var (
	// ErrMalformed: the bytes or the text are not what SPEC.md allows.
	ErrMalformed = errors.New("malformed")
	// ErrNetworkName: see CheckNetwork.
	ErrNetworkName = errors.New("network name must be 1 to 32 of a-z, 0-9 and -, with no - at either end")
)

// CheckNetwork says whether name can name a network: 1 to 32 bytes of a-z,
// 0-9 and -, not beginning or ending with -. The name is part of protocol IDs
// and of the mDNS service name.
func CheckNetwork(name string) error {
	if len(name) == 0 || len(name) > 32 || name[0] == '-' || name[len(name)-1] == '-' {
		return ErrNetworkName
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return ErrNetworkName
		}
	}
	return nil
}

// CheckAddr says whether an address may stand in a ticket or a record: an IP
// address or a DNS name, a port, and a transport that can be dialled from
// elsewhere. Unspecified, multicast and link-local addresses, circuits, peer
// IDs and /alknet itself (PATH-1) are refused.
func CheckAddr(a ma.Multiaddr) error {
	if len(a) < 2 || len(a.Bytes()) > maxAddrBytes {
		return errors.New("address is too short or too long")
	}
	switch a[0].Code() {
	case ma.P_IP4, ma.P_IP6:
		ip, err := manet.ToIP(a[:1])
		if err != nil {
			return err
		}
		if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
			return fmt.Errorf("address %s cannot be dialled from elsewhere", ip)
		}
	case ma.P_DNS, ma.P_DNS4, ma.P_DNS6:
		if !isDNSName(a[0].Value()) {
			return errors.New("address has a bad DNS name")
		}
	default:
		return errors.New("address must begin with ip4, ip6, dns, dns4 or dns6")
	}
	if c := a[1].Code(); c != ma.P_TCP && c != ma.P_UDP || bytes.Equal(a[1].RawValue(), []byte{0, 0}) {
		return errors.New("address has no port")
	}
	for i := range a[2:] {
		switch c := &a[2+i]; c.Code() {
		case ma.P_QUIC_V1, ma.P_TLS, ma.P_WS, ma.P_WSS, ma.P_WEBTRANSPORT, ma.P_CERTHASH, ma.P_WEBRTC_DIRECT:
		case ma.P_SNI:
			if !isDNSName(c.Value()) {
				return errors.New("address has a bad server name")
			}
		default:
			return fmt.Errorf("address has the protocol %s, which cannot be published", c.Protocol().Name)
		}
	}
	return nil
}

// Trim drops what may not stand in a ticket or a record, and what is over the
// limits, keeping the order: the first relays and addresses win.
func Trim(relays []peer.AddrInfo, addrs []ma.Multiaddr) ([]peer.AddrInfo, []ma.Multiaddr) {
	var kept []peer.AddrInfo
	for _, r := range relays {
		if _, err := rawKey(r.ID); err != nil || len(kept) == MaxRelays || indexPeer(kept, r.ID) >= 0 {
			continue
		}
		kept = append(kept, peer.AddrInfo{ID: r.ID, Addrs: trimAddrs(r.Addrs, MaxRelayAddrs)})
	}
	return kept, trimAddrs(addrs, MaxAddrs)
}

// trimAddrs keeps the first limit addresses that can be published.
func trimAddrs(addrs []ma.Multiaddr, limit int) []ma.Multiaddr {
	var kept []ma.Multiaddr
	for _, a := range addrs {
		if len(kept) < limit && CheckAddr(a) == nil && !containsAddr(kept, a) {
			kept = append(kept, a)
		}
	}
	return kept
}

func containsAddr(addrs []ma.Multiaddr, a ma.Multiaddr) bool {
	return slices.ContainsFunc(addrs, a.Equal)
}

func indexPeer(infos []peer.AddrInfo, p peer.ID) int {
	return slices.IndexFunc(infos, func(i peer.AddrInfo) bool { return i.ID == p })
}

func isDNSName(s string) bool {
	return len(s) > 0 && len(s) <= 253 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// rawKey returns the 32 bytes of the Ed25519 key a peer ID holds.
func rawKey(p peer.ID) ([]byte, error) {
	if len(p) != len(keyPrefix)+32 || string(p[:len(keyPrefix)]) != keyPrefix {
		return nil, errors.New("peer ID does not hold an Ed25519 key")
	}
	return []byte(p[len(keyPrefix):]), nil
}

// peerOf is the inverse of rawKey; key has 32 bytes.
func peerOf(key []byte) peer.ID { return peer.ID(keyPrefix + string(key)) }

// The lists of relays and addresses are the same bytes in tickets and records.

func addKey(b *cryptobyte.Builder, p peer.ID) {
	key, err := rawKey(p)
	if err != nil {
		fail(b, err)
		return
	}
	b.AddBytes(key)
}

func addAddrs(b *cryptobyte.Builder, addrs []ma.Multiaddr, limit int) {
	if len(addrs) > limit {
		fail(b, fmt.Errorf("more than %d addresses", limit))
		return
	}
	b.AddUint8(uint8(len(addrs)))
	for i, a := range addrs {
		if err := CheckAddr(a); err != nil {
			fail(b, err)
			return
		}
		if containsAddr(addrs[:i], a) {
			fail(b, errors.New("address stands twice"))
			return
		}
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(a.Bytes()) })
	}
}

func addRelays(b *cryptobyte.Builder, relays []peer.AddrInfo) {
	if len(relays) > MaxRelays {
		fail(b, fmt.Errorf("more than %d relays", MaxRelays))
		return
	}
	b.AddUint8(uint8(len(relays)))
	for i, r := range relays {
		if indexPeer(relays[:i], r.ID) >= 0 {
			fail(b, errors.New("relay stands twice"))
			return
		}
		addKey(b, r.ID)
		addAddrs(b, r.Addrs, MaxRelayAddrs)
	}
}

func readKey(s *cryptobyte.String) (peer.ID, error) {
	var key []byte
	if !s.ReadBytes(&key, 32) {
		return "", errShort
	}
	return peerOf(key), nil
}

func readAddrs(s *cryptobyte.String, limit int) ([]ma.Multiaddr, error) {
	var n uint8
	if !s.ReadUint8(&n) {
		return nil, errShort
	}
	if int(n) > limit {
		return nil, fmt.Errorf("%w: more than %d addresses", ErrMalformed, limit)
	}
	var addrs []ma.Multiaddr
	for range n {
		var raw cryptobyte.String
		if !s.ReadUint8LengthPrefixed(&raw) {
			return nil, errShort
		}
		a, err := ma.NewMultiaddrBytes(raw)
		if err == nil {
			err = CheckAddr(a)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if !bytes.Equal(a.Bytes(), raw) || containsAddr(addrs, a) {
			return nil, fmt.Errorf("%w: address stands twice or is spelled in another way", ErrMalformed)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

func readRelays(s *cryptobyte.String) ([]peer.AddrInfo, error) {
	var n uint8
	if !s.ReadUint8(&n) {
		return nil, errShort
	}
	if n > MaxRelays {
		return nil, fmt.Errorf("%w: more than %d relays", ErrMalformed, MaxRelays)
	}
	var relays []peer.AddrInfo
	for range n {
		id, err := readKey(s)
		if err != nil {
			return nil, err
		}
		if indexPeer(relays, id) >= 0 {
			return nil, fmt.Errorf("%w: relay stands twice", ErrMalformed)
		}
		addrs, err := readAddrs(s, MaxRelayAddrs)
		if err != nil {
			return nil, err
		}
		relays = append(relays, peer.AddrInfo{ID: id, Addrs: addrs})
	}
	return relays, nil
}

func readNetwork(s *cryptobyte.String) (string, error) {
	var name cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&name) {
		return "", errShort
	}
	if err := CheckNetwork(string(name)); err != nil {
		return "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return string(name), nil
}

func addNetwork(b *cryptobyte.Builder, name string) {
	if err := CheckNetwork(name); err != nil {
		fail(b, err)
		return
	}
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
}

// fail makes the first error that of the whole; SetError would keep the last.
func fail(b *cryptobyte.Builder, err error) {
	if _, earlier := b.Bytes(); earlier == nil {
		b.SetError(err)
	}
}

var errShort = fmt.Errorf("%w: cut short", ErrMalformed)
