package disco

import (
	"container/list"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"sync"

	"filippo.io/edwards25519"
	"golang.org/x/crypto/nacl/secretbox"
)

// Kind says how a packet names its sender. It stands in the first byte.
type Kind byte

// The kinds of packets.
const (
	// Relayed packets do not name their sender: the relay does.
	Relayed Kind = 1
	// Direct packets name the sender's key of this boot.
	Direct Kind = 2
	// Introduction packets name the sender's key of this boot in clear and
	// its node key sealed.
	Introduction Kind = 3
)

// The first byte of a packet is 0b00vvvkkk: two zero bits, by which it is never
// taken for QUIC (PATH-8), the version and the kind.
const (
	version   = 1
	firstByte = version << 3

	keySize   = 32
	nonceSize = 24
	sealedKey = keySize + secretbox.Overhead

	info = "alknet-disco-v1"

	// maxCached bounds the peers whose keys are kept, besides pinned ones.
	maxCached = 4096
)

// Overhead is how many bytes a packet of this kind has besides the message.
func (k Kind) Overhead() int {
	n := 1 + nonceSize + secretbox.Overhead
	switch k {
	case Direct:
		n += keySize
	case Introduction:
		n += keySize + sealedKey
	}
	return n
}

// KindOf returns the kind of a packet by its first byte, and whether it is one
// of this package in the version spoken here.
func KindOf(packet []byte) (Kind, bool) {
	if len(packet) == 0 {
		return 0, false
	}
	k := Kind(packet[0] &^ firstByte)
	return k, packet[0]&^7 == firstByte && k >= Relayed && k <= Introduction
}

// Errors of opening, matched with errors.Is.
var (
	// ErrKey: the key is no ed25519 public key, or of low order.
	ErrKey = errors.New("unusable node key")
	// ErrBox: the packet was not sealed by that sender for us.
	ErrBox = errors.New("disco box does not open")
	// ErrUnknownSender: a direct packet of somebody who is not introduced.
	ErrUnknownSender = errors.New("disco sender is not introduced")
	// ErrStale: an introduction of an earlier boot than one that came before.
	ErrStale = errors.New("disco introduction of an earlier boot")
)

// Identity seals packets as one node, and opens those for it. It may be used
// concurrently. It keeps the box keys of the 4,096 peers used last; packets
// that do not open push nobody out of them.
type Identity struct {
	public    [32]byte
	static    *ecdh.PrivateKey
	ephemeral *ecdh.PrivateKey // of this boot
	bootKey   [32]byte         // its public half

	mu       sync.Mutex
	peers    map[[32]byte]*peer // by node key
	byBoot   map[[32]byte]*peer // by the peer's key of its boot
	recent   *list.List         // of *peer that are not pinned, last used first
	capacity int
}

// peer holds the keys shared with one peer.
type peer struct {
	key    [32]byte
	static *ecdh.PublicKey
	place  *list.Element // in recent; nil when pinned

	seal, open [32]byte     // over relays, to and from it
	direct     *directSeals // made when first needed

	// What it introduced; zero before.
	bootKey    [32]byte
	boot       BootID
	openDirect [32]byte
}

// directSeals are the box keys of packets that name our key of this boot.
type directSeals struct{ direct, name, introduction [32]byte }

// NewIdentity makes the identity of a node for one boot.
func NewIdentity(key ed25519.PrivateKey) (*Identity, error) {
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make boot key: %w", err)
	}
	return newIdentity(key, ephemeral)
}

func newIdentity(key ed25519.PrivateKey, ephemeral *ecdh.PrivateKey) (*Identity, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("identity from a key of %d bytes: %w", len(key), ErrKey)
	}
	// RFC 8032, 5.1.5: the scalar is the first half of the hashed seed; X25519
	// clamps it the same way.
	h := sha512.Sum512(key.Seed())
	static, err := ecdh.X25519().NewPrivateKey(h[:32])
	clear(h[:])
	if err != nil {
		return nil, fmt.Errorf("identity: %w", ErrKey)
	}
	return &Identity{
		public:    [32]byte(key.Public().(ed25519.PublicKey)),
		static:    static,
		ephemeral: ephemeral,
		bootKey:   [32]byte(ephemeral.PublicKey().Bytes()),
		peers:     make(map[[32]byte]*peer),
		byBoot:    make(map[[32]byte]*peer),
		recent:    list.New(),
		capacity:  maxCached,
	}, nil
}

// Public is the node key.
func (id *Identity) Public() [32]byte { return id.public }

// Pin keeps the keys shared with the peer, and what it introduced, whoever else
// comes; Unpin lifts it. A peer with a connection is pinned (PATH-14).
func (id *Identity) Pin(key [32]byte) error {
	p, err := id.obtain(key)
	if err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	p = id.insert(p)
	if p.place != nil {
		id.recent.Remove(p.place)
		p.place = nil
	}
	return nil
}

// Unpin lets the keys shared with the peer make room for others again.
func (id *Identity) Unpin(key [32]byte) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if p := id.peers[key]; p != nil && p.place == nil {
		p.place = id.recent.PushFront(p)
		id.evict()
	}
}

// Seal appends to dst a packet that the peer's Open takes, for a relay to
// carry. A Hello becomes an introduction.
func (id *Identity) Seal(dst []byte, to [32]byte, m Message) ([]byte, error) {
	if _, ok := m.(Hello); ok {
		return id.SealIntroduction(dst, to, m)
	}
	return id.sealNonce(dst, Relayed, newNonce(), to, m)
}

// SealDirect appends to dst a packet for a direct path to a peer that knows our
// key of this boot.
func (id *Identity) SealDirect(dst []byte, to [32]byte, m Message) ([]byte, error) {
	return id.sealNonce(dst, Direct, newNonce(), to, m)
}

// SealIntroduction appends to dst a packet that makes our key of this boot
// known to the peer, over a relay or straight. The message is a Hello or Ping.
func (id *Identity) SealIntroduction(dst []byte, to [32]byte, m Message) ([]byte, error) {
	return id.sealNonce(dst, Introduction, newNonce(), to, m)
}

// Open opens a packet that a relay brought from the peer. An introduction is
// remembered.
func (id *Identity) Open(from [32]byte, packet []byte) (Message, error) {
	kind, ok := KindOf(packet)
	switch {
	case !ok || kind == Direct || len(packet) > MaxPacket:
		return nil, fmt.Errorf("open packet from a relay: %w", ErrMalformed)
	case kind == Introduction:
		sender, m, err := id.openIntroduction(packet, &from)
		if err == nil && sender != from {
			err = ErrBox
		}
		if err != nil {
			return nil, err
		}
		return m, nil
	}
	p, err := id.obtain(from)
	if err != nil {
		return nil, err
	}
	m, err := openBox(packet[1:], &p.open)
	if err != nil {
		return nil, err
	}
	id.use(p)
	if _, ok := m.(Hello); ok {
		return nil, fmt.Errorf("hello that is no introduction: %w", ErrMalformed)
	}
	return m, nil
}

// OpenDirect opens a packet that came straight from a peer, and says from whom.
// An introduction is remembered. A direct packet of an unknown sender costs no
// more than a look-up; an introduction costs two X25519 (PATH-14: limit them).
func (id *Identity) OpenDirect(packet []byte) (from [32]byte, m Message, err error) {
	kind, ok := KindOf(packet)
	switch {
	case !ok || kind == Relayed || len(packet) > MaxPacket:
		return from, nil, fmt.Errorf("open direct packet: %w", ErrMalformed)
	case kind == Introduction:
		from, m, err = id.openIntroduction(packet, nil)
	default:
		from, m, err = id.openKnown(packet)
	}
	if err != nil {
		return [32]byte{}, nil, err
	}
	switch m.(type) {
	case CallMeMaybe:
		return [32]byte{}, nil, fmt.Errorf("call-me-maybe on a direct path: %w", ErrMalformed)
	case Hello:
		if kind != Introduction {
			return [32]byte{}, nil, fmt.Errorf("hello that is no introduction: %w", ErrMalformed)
		}
	}
	return from, m, nil
}

func (id *Identity) openKnown(packet []byte) (from [32]byte, m Message, err error) {
	if len(packet) < Direct.Overhead() {
		return from, nil, fmt.Errorf("direct packet of %d bytes: %w", len(packet), ErrMalformed)
	}
	id.mu.Lock()
	p := id.byBoot[[32]byte(packet[1:])]
	if p == nil {
		id.mu.Unlock()
		return from, nil, ErrUnknownSender
	}
	key := p.openDirect
	id.mu.Unlock()
	if m, err = openBox(packet[1+keySize:], &key); err != nil {
		return from, nil, err
	}
	id.use(p)
	return p.key, m, nil
}

// openIntroduction opens the sealed node key, then the message, and remembers
// the sender's key of its boot. If expect is set, other senders are refused
// before their key costs anything.
func (id *Identity) openIntroduction(packet []byte, expect *[32]byte) (from [32]byte, m Message, err error) {
	if len(packet) < Introduction.Overhead() {
		return from, nil, fmt.Errorf("introduction of %d bytes: %w", len(packet), ErrMalformed)
	}
	bootKey, nonce := [32]byte(packet[1:]), [24]byte(packet[1+keySize:])
	sealed, box := packet[1+keySize+nonceSize:][:sealedKey], packet[1+keySize+nonceSize+sealedKey:]

	public, err := ecdh.X25519().NewPublicKey(bootKey[:])
	if err != nil {
		return from, nil, ErrKey
	}
	shared, err := id.static.ECDH(public)
	if err != nil {
		return from, nil, fmt.Errorf("boot key: %w", ErrKey)
	}
	nameKey := boxKey(shared, bootKey[:], bootKey, id.public)
	name, ok := secretbox.Open(nil, sealed, &nonce, &nameKey)
	if !ok {
		return from, nil, ErrBox
	}
	from = [32]byte(name)
	if expect != nil && from != *expect {
		return from, nil, ErrBox
	}
	p, err := id.obtain(from)
	if err != nil {
		return from, nil, err
	}
	static, err := id.static.ECDH(p.static)
	if err != nil {
		return from, nil, ErrKey
	}
	both := append(append([]byte(nil), shared...), static...)
	key := boxKey(both, bootKey[:], from, id.public)
	plain, ok := secretbox.Open(nil, box, &nonce, &key)
	if !ok {
		return from, nil, ErrBox
	}
	if m, err = ParseMessage(plain); err != nil {
		return from, nil, err
	}
	boot, ok := introduces(m)
	if !ok {
		return from, nil, fmt.Errorf("introduction without a boot id: %w", ErrMalformed)
	}
	return from, m, id.learn(p, bootKey, boot, boxKey(shared, bootKey[:], from, id.public))
}

// introduces returns the boot id of a message that may stand in an
// introduction.
func introduces(m Message) (BootID, bool) {
	switch m := m.(type) {
	case Ping:
		return m.BootID, true
	case Hello:
		return m.BootID, true
	}
	return BootID{}, false
}

// learn remembers a peer's key of its boot. Of two boots the later one counts,
// so that a recorded introduction cannot undo a newer one.
func (id *Identity) learn(p *peer, bootKey [32]byte, boot BootID, open [32]byte) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	p = id.insert(p)
	if p.bootKey != [32]byte{} && p.bootKey != bootKey && !p.boot.Before(boot) {
		return ErrStale
	}
	delete(id.byBoot, p.bootKey)
	p.bootKey, p.boot, p.openDirect = bootKey, boot, open
	id.byBoot[bootKey] = p
	return nil
}

// sealNonce seals under a given nonce, which must not have been used before.
func (id *Identity) sealNonce(dst []byte, kind Kind, nonce [nonceSize]byte, to [32]byte, m Message) ([]byte, error) {
	var buf [MaxPacket]byte
	plain, err := m.append(buf[:0])
	if err != nil {
		return dst, fmt.Errorf("seal: %w", err)
	}
	if len(plain)+kind.Overhead() > MaxPacket {
		return dst, fmt.Errorf("seal a message of %d bytes: %w", len(plain), ErrMalformed)
	}
	_, hello := m.(Hello)
	_, introduces := introduces(m)
	_, call := m.(CallMeMaybe)
	if kind == Introduction && !introduces || kind != Introduction && hello || kind == Direct && call {
		return dst, fmt.Errorf("seal a %T in a packet of kind %d: %w", m, kind, ErrMalformed)
	}
	p, err := id.obtain(to)
	if err != nil {
		return dst, err
	}
	p = id.use(p)
	dst = append(dst, firstByte|byte(kind))
	if kind == Relayed {
		dst = append(dst, nonce[:]...)
		return secretbox.Seal(dst, plain, &nonce, &p.seal), nil
	}
	seals, err := id.directSeals(p)
	if err != nil {
		return dst[:len(dst)-1], err
	}
	dst = append(dst, id.bootKey[:]...)
	dst = append(dst, nonce[:]...)
	if kind == Direct {
		return secretbox.Seal(dst, plain, &nonce, &seals.direct), nil
	}
	dst = secretbox.Seal(dst, id.public[:], &nonce, &seals.name)
	return secretbox.Seal(dst, plain, &nonce, &seals.introduction), nil
}

// directSeals returns the box keys under our key of this boot.
func (id *Identity) directSeals(p *peer) (*directSeals, error) {
	id.mu.Lock()
	seals := p.direct
	id.mu.Unlock()
	if seals != nil {
		return seals, nil
	}
	shared, err := id.ephemeral.ECDH(p.static)
	if err != nil {
		return nil, ErrKey
	}
	static, err := id.static.ECDH(p.static)
	if err != nil {
		return nil, ErrKey
	}
	both := append(append([]byte(nil), shared...), static...)
	seals = &directSeals{
		direct:       boxKey(shared, id.bootKey[:], id.public, p.key),
		name:         boxKey(shared, id.bootKey[:], id.bootKey, p.key),
		introduction: boxKey(both, id.bootKey[:], id.public, p.key),
	}
	id.mu.Lock()
	p.direct = seals
	id.mu.Unlock()
	return seals, nil
}

// obtain returns the keys shared with a peer, from the cache or made anew; it
// does not put them there.
func (id *Identity) obtain(key [32]byte) (*peer, error) {
	id.mu.Lock()
	p := id.peers[key]
	id.mu.Unlock()
	if p != nil {
		return p, nil
	}
	static, err := montgomery(key)
	if err != nil {
		return nil, err
	}
	shared, err := id.static.ECDH(static)
	if err != nil {
		return nil, fmt.Errorf("shared key: %w", ErrKey)
	}
	return &peer{
		key:    key,
		static: static,
		seal:   boxKey(shared, nil, id.public, key),
		open:   boxKey(shared, nil, key, id.public),
	}, nil
}

// use puts the peer into the cache, or marks it as used there.
func (id *Identity) use(p *peer) *peer {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.insert(p)
}

// insert is use with mu held. It returns the peer that stands in the cache.
func (id *Identity) insert(p *peer) *peer {
	if old := id.peers[p.key]; old != nil {
		if old.place != nil {
			id.recent.MoveToFront(old.place)
		}
		return old
	}
	// A peer that was pushed out meanwhile comes back without what it
	// introduced, which byBoot has forgotten.
	p.bootKey, p.boot, p.openDirect = [32]byte{}, BootID{}, [32]byte{}
	id.peers[p.key] = p
	p.place = id.recent.PushFront(p)
	id.evict()
	return p
}

func (id *Identity) evict() {
	for id.recent.Len() > id.capacity {
		p := id.recent.Remove(id.recent.Back()).(*peer)
		p.place = nil
		delete(id.peers, p.key)
		if id.byBoot[p.bootKey] == p {
			delete(id.byBoot, p.bootKey)
		}
	}
}

// montgomery maps an ed25519 public key to the X25519 key of the same secret
// (RFC 7748, 4.1) and refuses points of low order.
func montgomery(key [32]byte) (*ecdh.PublicKey, error) {
	point, err := new(edwards25519.Point).SetBytes(key[:])
	if err != nil || [32]byte(point.Bytes()) != key {
		return nil, fmt.Errorf("not a point in its one encoding: %w", ErrKey)
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, fmt.Errorf("point of low order: %w", ErrKey)
	}
	public, err := ecdh.X25519().NewPublicKey(point.BytesMontgomery())
	if err != nil {
		return nil, ErrKey
	}
	return public, nil
}

// boxKey derives the key of boxes from one node to another (PATH-10).
func boxKey(secret, salt []byte, from, to [32]byte) (key [32]byte) {
	b, err := hkdf.Key(sha256.New, secret, salt, info+string(from[:])+string(to[:]), len(key))
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return [32]byte(b)
}

// openBox opens nonce ‖ box.
func openBox(b []byte, key *[32]byte) (Message, error) {
	if len(b) < nonceSize+secretbox.Overhead {
		return nil, fmt.Errorf("box of %d bytes: %w", len(b), ErrMalformed)
	}
	nonce := [nonceSize]byte(b)
	var buf [MaxPacket]byte
	plain, ok := secretbox.Open(buf[:0], b[nonceSize:], &nonce, key)
	if !ok {
		return nil, ErrBox
	}
	return ParseMessage(plain)
}

func newNonce() (nonce [nonceSize]byte) {
	_, _ = rand.Read(nonce[:]) // never fails
	return nonce
}
