package discovery

import (
	"bytes"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// sealed is a record by testKey(key), issued now.
func sealed(t testing.TB, key byte, change ...func(*Record)) *Record {
	t.Helper()
	now := uint64(time.Now().UnixMilli())
	r := &Record{
		Network: testNetwork,
		Peer:    testID(key),
		Seq:     now,
		Relays:  []peer.AddrInfo{{ID: testID(200), Addrs: addrsOf("/ip4/203.0.114.9/tcp/4242")}},
	}
	for _, f := range change {
		f(r)
	}
	if r.Expiry.IsZero() {
		r.Expiry = time.UnixMilli(int64(r.Seq)).Add(MaxRecordLife)
	}
	raw, err := Seal(testKey(key), r)
	require.NoError(t, err)
	opened, err := openRecord(raw, r.Network, r.Peer)
	require.NoError(t, err)
	return opened
}

// PATH-37.
func TestRecordVectors(t *testing.T) {
	var vectors recordVectors
	readVectors(t, "records.json", &vectors)
	require.NotEmpty(t, vectors.Valid)
	for _, v := range vectors.Valid {
		t.Run(v.Name, func(t *testing.T) {
			seed := unhex(t, v.Seed)
			want := &Record{
				Network:    v.Network,
				Peer:       peerOf(unhex(t, v.Key)),
				Next:       [32]byte(unhex(t, v.Next)),
				Seq:        v.Seq,
				Expiry:     time.UnixMilli(v.Expiry).UTC(),
				Generation: v.Generation,
				Relays:     relaysOf(t, v.Relays),
				Addrs:      addrsOf(v.Addrs...),
			}
			if h := unhex(t, v.HandOver); len(h) > 0 {
				want.HandOver = h
			}
			payload, err := (*payload)(want).MarshalRecord()
			require.NoError(t, err)
			require.Equal(t, unhex(t, v.Payload), payload)
			raw, err := Seal(testKey(seed[0]), want)
			require.NoError(t, err)
			require.Equal(t, unhex(t, v.Envelope), raw)
			got, err := OpenRecord(raw, v.Network, want.Peer, time.UnixMilli(int64(v.Seq)))
			require.NoError(t, err)
			require.Equal(t, raw, got.Envelope())
			got.envelope = nil
			require.Equal(t, want, got)
		})
	}
	require.NotEmpty(t, vectors.Invalid)
	for _, v := range vectors.Invalid {
		t.Run(v.Name, func(t *testing.T) {
			raw, p, now := unhex(t, v.Envelope), peerOf(unhex(t, v.Key)), time.UnixMilli(v.Now)
			_, err := OpenRecord(raw, v.Network, p, now)
			require.ErrorIs(t, err, vectorErrors()[v.Error])

			// The DHT refuses the same.
			validator := Validator{Network: v.Network, Now: func() time.Time { return now }}
			require.ErrorIs(t, validator.Validate(RecordKey(p), raw), vectorErrors()[v.Error])
		})
	}
}

func TestSealRefuses(t *testing.T) {
	good := func() *Record {
		return &Record{Network: testNetwork, Peer: testID(1), Seq: 1, Expiry: time.UnixMilli(2)}
	}
	_, err := Seal(testKey(1), good())
	require.NoError(t, err)
	for name, change := range map[string]func(*Record){
		"another's name": func(r *Record) { r.Peer = testID(2) },
		"no network":     func(r *Record) { r.Network = "" },
		"no expiry":      func(r *Record) { r.Expiry = time.Time{} },
		"long life":      func(r *Record) { r.Expiry = time.UnixMilli(1).Add(MaxRecordLife + time.Millisecond) },
		"hand-over":      func(r *Record) { r.HandOver = make([]byte, MaxHandOverBytes+1) },
		"address":        func(r *Record) { r.Addrs = addrsOf("/ip4/127.0.0.1/tcp/1/p2p-circuit") },
		"address twice":  func(r *Record) { r.Addrs = addrsOf("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1") },
		"relay twice":    func(r *Record) { r.Relays = []peer.AddrInfo{{ID: testID(2)}, {ID: testID(2)}} },
		"relay's key":    func(r *Record) { r.Relays = []peer.AddrInfo{{ID: "x"}} },
		"relays":         func(r *Record) { r.Relays = make([]peer.AddrInfo, MaxRelays+1) },
	} {
		r := good()
		change(r)
		_, err := Seal(testKey(1), r)
		require.Error(t, err, name)
	}
}

// PATH-37: highest seq, ties by bytes; what is not a record of the key never
// counts.
func TestRecordOrder(t *testing.T) {
	old := sealed(t, 1, func(r *Record) { r.Seq-- })
	a := sealed(t, 1, func(r *Record) { r.Seq = old.Seq + 1 })
	b := sealed(t, 1, func(r *Record) { r.Seq = a.Seq; r.Generation = 1 })
	if bytes.Compare(a.Envelope(), b.Envelope()) > 0 {
		a, b = b, a
	}
	require.True(t, a.Newer(nil))
	require.True(t, a.Newer(old))
	require.False(t, old.Newer(a))
	require.True(t, b.Newer(a))
	require.False(t, a.Newer(b))
	require.False(t, a.Newer(a))

	v := Validator{Network: testNetwork}
	key := RecordKey(testID(1))
	best, err := v.Select(key, [][]byte{nil, a.Envelope(), old.Envelope(), b.Envelope(), sealed(t, 2).Envelope()})
	require.NoError(t, err)
	require.Equal(t, 3, best)
	_, err = v.Select(key, [][]byte{sealed(t, 2).Envelope()})
	require.Error(t, err)
	_, err = v.Select("/pk/x", [][]byte{a.Envelope()})
	require.Error(t, err)
	require.Error(t, v.Validate("/alknet/short", a.Envelope()))
	require.Error(t, v.Validate(key[1:], a.Envelope()))
	require.NoError(t, v.Validate(key, a.Envelope()))
}

func FuzzOpenRecord(f *testing.F) {
	var vectors recordVectors
	readVectors(f, "records.json", &vectors)
	for _, v := range vectors.Valid {
		f.Add(unhex(f, v.Envelope))
	}
	for _, v := range vectors.Invalid {
		f.Add(unhex(f, v.Envelope))
	}
	now := time.UnixMilli(1_800_000_000_000)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := openAnyRecord(raw, "main", now)
		if err != nil {
			return
		}
		again, err := openRecord(r.Envelope(), "main", r.Peer)
		require.NoError(t, err)
		require.Equal(t, r, again)
		require.Equal(t, raw, r.Envelope())
	})
}

// FuzzRecordPayload gets past the signature.
func FuzzRecordPayload(f *testing.F) {
	var vectors recordVectors
	readVectors(f, "records.json", &vectors)
	for _, v := range vectors.Valid {
		f.Add(unhex(f, v.Payload))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := new(payload)
		if r.UnmarshalRecord(raw) != nil {
			return
		}
		again, err := r.MarshalRecord()
		require.NoError(t, err)
		require.Equal(t, raw, again)
	})
}

// PATH-25: what a clock that was wrong let in does not stand against what is true,
// once the clock is right.
func TestPATH25RecordFromTheFutureGivesWay(t *testing.T) {
	now := time.Now()
	later := now.Add(2 * 365 * 24 * time.Hour)
	future := sealed(t, 1, func(r *Record) { r.Seq = uint64(later.UnixMilli()) })
	present := sealed(t, 1)
	c, table := openTestCache(t, ""), newTable(10, 1<<20)
	c.putRecord(future, later)
	c.putRecord(present, later)
	require.Equal(t, future, c.record(testID(1)))
	require.Nil(t, table.put(future.value(), later))
	require.Equal(t, future.Envelope(), table.put(present.value(), later))

	c.putRecord(present, now)
	require.Equal(t, present, c.record(testID(1)))
	require.Nil(t, table.put(present.value(), now))
	require.Equal(t, present.Envelope(), table.get(RecordKey(testID(1)), now))
}
