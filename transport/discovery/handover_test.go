package discovery

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

type handOverVectors struct {
	Valid []struct {
		Name       string `json:"name"`
		OldSeed    string `json:"old_seed"`
		NewSeed    string `json:"new_seed"`
		Old        string `json:"old"`
		New        string `json:"new"`
		Next       string `json:"next"`
		Generation uint32 `json:"generation"`
		Issued     int64  `json:"issued"`
		Expiry     int64  `json:"expiry"`
		Commitment string `json:"commitment"`
		Sealed     string `json:"sealed"`
	} `json:"valid"`
	Invalid []struct {
		Name       string `json:"name"`
		Error      string `json:"error"`
		Commitment string `json:"commitment"`
		Sealed     string `json:"sealed"`
	} `json:"invalid"`
}

// signer is the standard library's form of testKey(b).
func signer(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

// handOver is one from testKey(from) to testKey(to), issued now.
func handOver(t testing.TB, from, to byte, change ...func(*HandOver)) *HandOver {
	t.Helper()
	now := time.Now()
	h := &HandOver{Old: testID(from), New: testID(to), Generation: uint32(to), Issued: now, Expiry: now.Add(time.Hour)}
	for _, f := range change {
		f(h)
	}
	raw, err := SealHandOver(h, signer(from), signer(to))
	require.NoError(t, err)
	opened, err := OpenHandOver(raw)
	require.NoError(t, err)
	return opened
}

func commitmentOf(t testing.TB, p peer.ID) [32]byte {
	t.Helper()
	c, err := Commitment(p)
	require.NoError(t, err)
	return c
}

func TestHandOverVectors(t *testing.T) {
	var vectors handOverVectors
	readVectors(t, "handovers.json", &vectors)
	require.NotEmpty(t, vectors.Valid)
	for _, v := range vectors.Valid {
		t.Run(v.Name, func(t *testing.T) {
			want := HandOver{
				Old:        peerOf(unhex(t, v.Old)),
				New:        peerOf(unhex(t, v.New)),
				Next:       [32]byte(unhex(t, v.Next)),
				Generation: v.Generation,
				Issued:     time.UnixMilli(v.Issued).UTC(),
				Expiry:     time.UnixMilli(v.Expiry).UTC(),
			}
			sealed, err := SealHandOver(&want, ed25519.NewKeyFromSeed(unhex(t, v.OldSeed)), ed25519.NewKeyFromSeed(unhex(t, v.NewSeed)))
			require.NoError(t, err)
			require.Equal(t, v.Sealed, hexOf(sealed))
			require.Len(t, sealed, HandOverBytes)
			got, err := OpenHandOver(sealed)
			require.NoError(t, err)
			require.Equal(t, sealed, got.Sealed())
			got.sealed = nil
			require.Equal(t, want, *got)
			commitment := commitmentOf(t, want.New)
			require.Equal(t, v.Commitment, hexOf(commitment[:]))
			require.NoError(t, got.Follows(commitment))
		})
	}
	errs := vectorErrors()
	errs["not committed"] = ErrNotCommitted
	require.NotEmpty(t, vectors.Invalid)
	for _, v := range vectors.Invalid {
		t.Run(v.Name, func(t *testing.T) {
			require.Contains(t, errs, v.Error)
			key := handOverKey([32]byte(unhex(t, v.Commitment)))
			require.ErrorIs(t, Validator{Network: testNetwork}.Validate(key, unhex(t, v.Sealed)), errs[v.Error])
		})
	}
}

func TestSealHandOverRefuses(t *testing.T) {
	now := time.Now()
	for name, h := range map[string]*HandOver{
		"generation 0": {Old: testID(1), New: testID(2), Issued: now, Expiry: now},
		"no old key":   {New: testID(2), Generation: 1, Issued: now, Expiry: now},
		"another key":  {Old: testID(1), New: testID(3), Generation: 1, Issued: now, Expiry: now},
	} {
		_, err := SealHandOver(h, signer(1), signer(2))
		require.Error(t, err, name)
	}
}

// Whatever a thief of the old key signs, it does not stand where the hand-over
// to the committed key is looked for; the true ones are ordered by issue, so that
// a revocation replaces what it revokes.
func TestHandOverValidator(t *testing.T) {
	first := handOver(t, 1, 2)
	revoked := handOver(t, 1, 2, func(h *HandOver) { h.Issued = h.Issued.Add(time.Minute); h.Expiry = h.Issued })
	thief := handOver(t, 1, 66, func(h *HandOver) { h.Generation = 1000; h.Issued = h.Issued.Add(2 * time.Minute) })
	key := handOverKey(commitmentOf(t, testID(2)))
	v := Validator{Network: testNetwork}
	require.NoError(t, v.Validate(key, first.Sealed()))
	require.ErrorIs(t, v.Validate(key, thief.Sealed()), ErrNotCommitted)
	require.ErrorIs(t, v.Validate(RecordKey(testID(1)), first.Sealed()), ErrMalformed)
	require.Error(t, v.Validate(key, sealed(t, 2).Envelope()))
	future := handOver(t, 1, 2, func(h *HandOver) { h.Issued = h.Issued.Add(MaxRecordAhead + time.Minute); h.Expiry = h.Issued })
	require.ErrorIs(t, v.Validate(key, future.Sealed()), ErrRecordAhead)
	i, err := v.Select(key, [][]byte{first.Sealed(), revoked.Sealed(), thief.Sealed(), first.Sealed()})
	require.NoError(t, err)
	require.Equal(t, 1, i)
	_, err = v.Select(key, [][]byte{thief.Sealed()})
	require.ErrorIs(t, err, ErrMalformed)
}

// A relay takes and gives hand-overs by their commitment.
func TestAddrServerHandOvers(t *testing.T) {
	s := newTestServer(time.Now)
	h := handOver(t, 1, 2)
	c := commitmentOf(t, h.New)
	kind, _ := s.answer(testID(9), addrGetHandOver, c[:])
	require.EqualValues(t, addrNotFound, kind)
	kind, _ = s.answer(testID(9), addrPutHandOver, h.Sealed())
	require.EqualValues(t, addrStored, kind)
	kind, body := s.answer(testID(9), addrGetHandOver, c[:])
	require.EqualValues(t, addrFound, kind)
	require.Equal(t, h.Sealed(), body)

	later := handOver(t, 1, 2, func(h *HandOver) { h.Issued = h.Issued.Add(time.Second) })
	kind, _ = s.answer(testID(9), addrPutHandOver, later.Sealed())
	require.EqualValues(t, addrStored, kind)
	kind, body = s.answer(testID(9), addrPutHandOver, h.Sealed())
	require.EqualValues(t, addrFound, kind, "an older one")
	require.Equal(t, later.Sealed(), body)

	forged := bytes.Clone(h.Sealed())
	forged[len(forged)-1] ^= 1
	kind, body = s.answer(testID(9), addrPutHandOver, forged)
	require.EqualValues(t, addrRefused, kind)
	require.Equal(t, []byte{refusedSigner}, body)
	kind, _ = s.answer(testID(9), addrGetHandOver, c[:31])
	require.EqualValues(t, addrRefused, kind)
}

// A node's hand-over is found at its relay and in the DHT, also by a node that
// speaks to its relay only.
func TestHandOverIsFound(t *testing.T) {
	relay, second, a, b := newHost(t, 1), newHost(t, 4), newHost(t, 2), newHost(t, 3)
	start(t, Config{Host: relay, Relay: true, DHTServer: true})
	ds := start(t, Config{Host: second, Relay: true, DHTServer: true, Bootstrap: []peer.AddrInfo{infoOf(relay)}})
	home := []peer.AddrInfo{infoOf(relay)}
	h := handOver(t, 77, 2)
	da := start(t, Config{
		Host: a, Bootstrap: home, HandOvers: [][]byte{h.Sealed()},
		Content: func() Content { return Content{Relays: home} },
	})
	require.NoError(t, da.Publish(t.Context()))
	c := commitmentOf(t, a.ID())
	found := func(d *Discovery) {
		t.Helper()
		eventually(t, func() error {
			got, err := d.FindHandOver(t.Context(), c)
			if err == nil && got == nil {
				err = errors.New("not found")
			}
			if err == nil {
				require.Equal(t, h.Sealed(), got.Sealed())
			}
			return err
		})
	}
	found(start(t, Config{Host: b, Bootstrap: home}))
	found(ds)
	hidden, dialled := newHidden(t, 5)
	require.NoError(t, hidden.Connect(t.Context(), infoOf(second)))
	found(start(t, Config{Host: hidden, RelaysOnly: true, OwnRelays: func() []peer.AddrInfo { return []peer.AddrInfo{infoOf(second)} }}))
	onlyDialled(t, hidden, dialled, second.ID())

	none, err := ds.FindHandOver(t.Context(), commitmentOf(t, testID(99)))
	require.NoError(t, err)
	require.Nil(t, none)
}

func FuzzHandOver(f *testing.F) {
	var vectors handOverVectors
	readVectors(f, "handovers.json", &vectors)
	for _, v := range vectors.Valid {
		f.Add(unhex(f, v.Sealed))
	}
	for _, v := range vectors.Invalid {
		f.Add(unhex(f, v.Sealed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := OpenHandOver(raw)
		if err != nil {
			return
		}
		require.Equal(t, raw, h.Sealed())
		body, err := h.body()
		require.NoError(t, err)
		require.Equal(t, raw[:len(body)], body, "one encoding each")
	})
}
