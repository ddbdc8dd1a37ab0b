package discovery

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// value is what relays and the DHT keep for others: a sealed record or
// hand-over, which was opened.
type value struct {
	key    string // in the DHT
	raw    []byte
	order  uint64    // the higher one replaces the lower one under the same key
	expiry time.Time // zero for never
}

// value returns what it takes to hand a record on: parsed addresses are
// several times the size of the envelope.
func (r *Record) value() value {
	return value{key: RecordKey(r.Peer), raw: r.envelope, order: r.Seq, expiry: r.Expiry}
}

func (h *HandOver) value() value {
	c, _ := Commitment(h.New) // an opened one has an Ed25519 key
	return value{key: handOverKey(c), raw: h.sealed, order: uint64(h.Issued.UnixMilli())}
}

// newer says whether v replaces old; of two with the same order the one with the
// greater bytes does.
func (v value) newer(old value) bool {
	if v.order != old.order {
		return v.order > old.order
	}
	return bytes.Compare(v.raw, old.raw) > 0
}

// ahead says whether v is from the future. One that is held was taken by a clock
// that was wrong then, and would stand against every true one until its time.
func (v value) ahead(now time.Time) bool {
	return int64(v.order) > now.Add(MaxRecordAhead).UnixMilli()
}

// openValue opens what stands under key in the DHT of a network, or is to. It
// checks everything but the clock.
func openValue(key string, raw []byte, network string) (v value, check func(now time.Time) error, err error) {
	if c, ok := strings.CutPrefix(key, handOverNamespace); ok && len(c) == 32 {
		h, err := openCommitted(raw, [32]byte([]byte(c)))
		if err != nil {
			return value{}, nil, err
		}
		return h.value(), h.checkClock, nil
	}
	p, err := recordPeer(key)
	if err != nil {
		return value{}, nil, err
	}
	r, err := openRecord(raw, network, p)
	if err != nil {
		return value{}, nil, err
	}
	return r.value(), r.check, nil
}

// Validator checks and orders the records and hand-overs in the DHT of one
// network; it is a go-libp2p-record Validator. It refuses every other kind of
// value.
type Validator struct {
	Network string
	Now     func() time.Time // nil = time.Now
}

// Validate implements record.Validator.
func (v Validator) Validate(key string, raw []byte) error {
	_, check, err := openValue(key, raw, v.Network)
	if err != nil {
		return err
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	return check(now())
}

// Select implements record.Validator: the index of the newest value.
func (v Validator) Select(key string, values [][]byte) (int, error) {
	var best value
	index := -1
	for i, raw := range values {
		if o, _, err := openValue(key, raw, v.Network); err == nil && (index < 0 || o.newer(best)) {
			best, index = o, i
		}
	}
	if index < 0 {
		return 0, fmt.Errorf("%w: neither an address record nor a hand-over among the values", ErrMalformed)
	}
	return index, nil
}
