package discovery

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2precord "github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/crypto/cryptobyte"
)

const (
	// MaxRecordBytes bounds a sealed record.
	MaxRecordBytes = 2048
	// MaxRecordLife is the longest time from a record's Seq to its Expiry.
	MaxRecordLife = 24 * time.Hour
	// MaxRecordAhead is how far a record's Seq may lie in the future.
	MaxRecordAhead = time.Hour
	// MaxHandOverBytes bounds Record.HandOver.
	MaxHandOverBytes = 256
)

const (
	recordVersion     = 1
	recordDomain      = "alknet-address-record"
	recordPayloadType = "/alknet/address-record"
	recordNamespace   = "/alknet/"
)

// Refusals of OpenRecord besides ErrMalformed (PATH-37), matched with errors.Is.
var (
	// ErrWrongSigner: not signed, as an address record, by the key it is for.
	ErrWrongSigner = errors.New("record is not signed by its key")
	// ErrWrongNetwork: made for another network.
	ErrWrongNetwork = errors.New("record is for another network")
	// ErrRecordAhead: its Seq lies more than MaxRecordAhead in the future.
	ErrRecordAhead = errors.New("record is from the future")
	// ErrRecordExpired: its Expiry has passed.
	ErrRecordExpired = errors.New("record has expired")
)

// Record says where a key can be reached (PATH-37). It is signed by that key
// in a libp2p envelope of its own domain and payload type, so that no other
// envelope the key ever signed, such as the peer records that identify hands
// out, can stand for one.
type Record struct {
	Network string
	Peer    peer.ID
	// Next commits to the next key of this identity, as the SHA-256 over
	// "alknet-next-v1" and the public key; all zero when absent.
	Next [32]byte
	// Seq orders the records of one key: Unix milliseconds of issue, or one
	// more than the last if the clock went back.
	Seq uint64
	// Expiry has millisecond precision, after Seq by at most MaxRecordLife.
	Expiry time.Time
	// Generation counts the keys this identity had before.
	Generation uint32
	// HandOver is at most MaxHandOverBytes, empty in this version: carried and
	// kept, not read.
	HandOver []byte
	Relays   []peer.AddrInfo // at most MaxRelays, best first
	Addrs    []ma.Multiaddr  // at most MaxAddrs, best first

	envelope []byte // as received or sealed
}

// Seal signs r with key, whose peer ID must be r.Peer, and returns the envelope.
func Seal(key crypto.PrivKey, r *Record) ([]byte, error) {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("seal record: %w", err)
	}
	if id != r.Peer {
		return nil, fmt.Errorf("seal record: %w", ErrWrongSigner)
	}
	env, err := libp2precord.Seal((*payload)(r), key)
	if err != nil {
		return nil, fmt.Errorf("seal record: %w", err)
	}
	raw, err := env.Marshal()
	if err != nil {
		return nil, fmt.Errorf("seal record: %w", err)
	}
	if len(raw) > MaxRecordBytes {
		return nil, fmt.Errorf("seal record: %w", errRecordSize)
	}
	return raw, nil
}

// OpenRecord checks a sealed record from anywhere: the key of p signed it, for
// this network, and now it is neither expired nor from the future. The record
// keeps raw.
func OpenRecord(raw []byte, network string, p peer.ID, now time.Time) (*Record, error) {
	r, err := openRecord(raw, network, p)
	if err != nil {
		return nil, err
	}
	if err := r.check(now); err != nil {
		return nil, err
	}
	return r, nil
}

// Envelope returns the sealed bytes a record was opened from, nil for others.
// They must not be changed.
func (r *Record) Envelope() []byte { return r.envelope }

// Newer says whether r replaces old, an opened record of the same key; of two
// with the same Seq the one with the greater bytes does. Anything replaces nil.
func (r *Record) Newer(old *Record) bool {
	return old == nil || r.value().newer(old.value())
}

// replaces says whether r, which is not from the future, is kept and not held: it
// is newer, or held is from the future (PATH-25).
func (r *Record) replaces(held *Record, now time.Time) bool {
	return r.Newer(held) || held.value().ahead(now)
}

// RecordKey is the key of p's record in the DHT.
func RecordKey(p peer.ID) string { return recordNamespace + string(p) }

var errRecordSize = fmt.Errorf("%w: record is over %d bytes", ErrMalformed, MaxRecordBytes)

// openAnyRecord is OpenRecord for whatever key signed the envelope.
func openAnyRecord(raw []byte, network string, now time.Time) (*Record, error) {
	if len(raw) > MaxRecordBytes {
		return nil, errRecordSize
	}
	env, err := libp2precord.UnmarshalEnvelope(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	p, err := peer.IDFromPublicKey(env.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return OpenRecord(raw, network, p, now)
}

// check is the part of OpenRecord that depends on the clock.
func (r *Record) check(now time.Time) error {
	if r.value().ahead(now) {
		return ErrRecordAhead
	}
	if !r.Expiry.After(now) {
		return ErrRecordExpired
	}
	return nil
}

// openRecord checks everything but the clock.
func openRecord(raw []byte, network string, p peer.ID) (*Record, error) {
	if len(raw) > MaxRecordBytes {
		return nil, errRecordSize
	}
	// The cheap refusals come first: the signature costs the most.
	env, err := libp2precord.UnmarshalEnvelope(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := rawKey(p); err != nil || !p.MatchesPublicKey(env.PublicKey) || string(env.PayloadType) != recordPayloadType {
		return nil, ErrWrongSigner
	}
	if again, err := env.Marshal(); err != nil || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("%w: envelope is spelled in another way", ErrMalformed)
	}
	r := new(Record)
	if err := (*payload)(r).UnmarshalRecord(env.RawPayload); err != nil {
		return nil, err
	}
	if r.Peer != p {
		return nil, ErrWrongSigner
	}
	if r.Network != network {
		return nil, ErrWrongNetwork
	}
	if _, err := libp2precord.ConsumeTypedEnvelope(raw, new(payload)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWrongSigner, err)
	}
	r.envelope = bytes.Clone(raw)
	return r, nil
}

// recordPeer is the inverse of RecordKey.
func recordPeer(key string) (peer.ID, error) {
	id, ok := strings.CutPrefix(key, recordNamespace)
	if !ok {
		return "", fmt.Errorf("%w: not the key of an address record", ErrMalformed)
	}
	if _, err := rawKey(peer.ID(id)); err != nil {
		return "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return peer.ID(id), nil
}

// payload is a Record as libp2p's envelope wants it.
type payload Record

// Domain, Codec, MarshalRecord and UnmarshalRecord implement libp2p's
// record.Record.
func (*payload) Domain() string { return recordDomain }
func (*payload) Codec() []byte  { return []byte(recordPayloadType) }

func (r *payload) MarshalRecord() ([]byte, error) {
	if err := r.checkTimes(); err != nil {
		return nil, err
	}
	if len(r.HandOver) > MaxHandOverBytes {
		return nil, errors.New("hand-over is too long")
	}
	var b cryptobyte.Builder
	b.AddUint8(recordVersion)
	addNetwork(&b, r.Network)
	addKey(&b, r.Peer)
	b.AddBytes(r.Next[:])
	b.AddUint64(r.Seq)
	b.AddUint64(uint64(r.Expiry.UnixMilli()))
	b.AddUint32(r.Generation)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(r.HandOver) })
	addRelays(&b, r.Relays)
	addAddrs(&b, r.Addrs, MaxAddrs)
	return b.Bytes()
}

func (r *payload) UnmarshalRecord(raw []byte) error {
	s := cryptobyte.String(raw)
	var version uint8
	if !s.ReadUint8(&version) {
		return errShort
	}
	if version != recordVersion {
		return fmt.Errorf("%w: record version %d is not known", ErrMalformed, version)
	}
	var (
		expiry   uint64
		handOver cryptobyte.String
		err      error
	)
	if r.Network, err = readNetwork(&s); err != nil {
		return err
	}
	if r.Peer, err = readKey(&s); err != nil {
		return err
	}
	if !s.CopyBytes(r.Next[:]) || !s.ReadUint64(&r.Seq) || !s.ReadUint64(&expiry) ||
		!s.ReadUint32(&r.Generation) || !s.ReadUint16LengthPrefixed(&handOver) {
		return errShort
	}
	if len(handOver) > MaxHandOverBytes {
		return fmt.Errorf("%w: hand-over is too long", ErrMalformed)
	}
	if len(handOver) > 0 {
		r.HandOver = bytes.Clone(handOver)
	}
	if expiry > maxTime {
		return fmt.Errorf("%w: expiry is out of range", ErrMalformed)
	}
	r.Expiry = time.UnixMilli(int64(expiry)).UTC()
	if err := r.checkTimes(); err != nil {
		return err
	}
	if r.Relays, err = readRelays(&s); err != nil {
		return err
	}
	if r.Addrs, err = readAddrs(&s, MaxAddrs); err != nil {
		return err
	}
	if !s.Empty() {
		return fmt.Errorf("%w: bytes after the end", ErrMalformed)
	}
	return nil
}

// maxTime is the largest millisecond count in a record, so that sums of times
// cannot overflow (about the year 10889).
const maxTime = 1 << 48

func (r *payload) checkTimes() error {
	issued := int64(r.Seq)
	expiry := r.Expiry.UnixMilli()
	if r.Seq > maxTime || expiry <= issued || expiry > issued+MaxRecordLife.Milliseconds() {
		return fmt.Errorf("%w: expiry does not follow seq by at most %v", ErrMalformed, MaxRecordLife)
	}
	return nil
}
