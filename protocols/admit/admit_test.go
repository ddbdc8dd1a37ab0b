package admit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/admit"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
)

type vectors struct {
	Requests []struct {
		Ticket string `json:"ticket"`
		Hex    string `json:"hex"`
	} `json:"requests"`
	Malformed []struct {
		Hex string `json:"hex"`
		Why string `json:"why"`
	} `json:"malformed"`
	Answers []struct {
		Hex    string `json:"hex"`
		Result string `json:"result"`
	} `json:"answers"`
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	text, err := os.ReadFile("testdata/exchanges.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &v))
	require.NotEmpty(t, v.Requests)
	require.NotEmpty(t, v.Malformed)
	require.NotEmpty(t, v.Answers)
	return v
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	require.NoError(t, err)
	return b
}

func TestRequestVectors(t *testing.T) {
	v := readVectors(t)
	for _, c := range v.Requests {
		b, err := admit.AppendRequest(nil, auth.TokenFromText(c.Ticket))
		require.NoError(t, err)
		require.Equal(t, c.Hex, hex.EncodeToString(b))
		require.LessOrEqual(t, len(b), admit.MaxRequest)
		token, err := admit.ReadRequest(bytes.NewReader(b))
		require.NoError(t, err)
		require.Equal(t, c.Ticket, token.Reveal())
	}
	for _, c := range v.Malformed {
		_, err := admit.ReadRequest(bytes.NewReader(unhex(t, c.Hex)))
		require.Error(t, err, c.Why)
	}
	_, err := admit.AppendRequest(nil, auth.TokenFromText(string(make([]byte, 1022))))
	require.Error(t, err)
	_, err = admit.AppendRequest(nil, auth.Token{})
	require.Error(t, err)
	require.LessOrEqual(t, ticket.MaxText+3, admit.MaxRequest, "every ticket fits")
}

// What is accepted is written back as itself, and nothing after it was read.
func FuzzReadRequest(f *testing.F) {
	v := readVectors(f)
	for _, c := range v.Requests {
		f.Add(unhex(f, c.Hex))
	}
	for _, c := range v.Malformed {
		f.Add(unhex(f, c.Hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		token, err := admit.ReadRequest(r)
		if err != nil {
			return
		}
		again, err := admit.AppendRequest(nil, token)
		require.NoError(t, err)
		require.Equal(t, b[:len(b)-r.Len()], again)
		require.LessOrEqual(t, len(again), admit.MaxRequest)
	})
}

// testHost is the glue between a plain libp2p host and the door.
type testHost struct{ host.Host }

func newHost(t *testing.T) (testHost, ed25519.PrivateKey) {
	t.Helper()
	_, raw, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	key, err := crypto.UnmarshalEd25519PrivateKey(bytes.Clone(raw))
	require.NoError(t, err)
	h, err := libp2p.New(libp2p.Identity(key), libp2p.NoTransports, libp2p.Transport(libp2pquic.NewTransport),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return testHost{h}, raw
}

func (h testHost) OpenStream(ctx context.Context, p peer.ID, id protocol.ID) (network.Stream, error) {
	return h.NewStream(ctx, p, id)
}

func (h testHost) know(o testHost) { h.Peerstore().AddAddrs(o.ID(), o.Addrs(), time.Hour) }

func (h testHost) fingerprint(t *testing.T) string {
	t.Helper()
	fp, err := auth.FingerprintFromPeer(h.ID())
	require.NoError(t, err)
	return fp
}

func openDoor(t *testing.T, h testHost, redeem func(context.Context, auth.Token, string) error) *door {
	t.Helper()
	d, err := admit.Open(admit.Config{Host: h, Redeem: redeem})
	require.NoError(t, err)
	t.Cleanup(d.Close)
	return &door{d, h}
}

// door is one of a host.
type door struct {
	*admit.Door
	host testHost
}

// empty waits until nobody stands at the door: an answer is read before its
// stream has gone.
func (d *door) empty(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return d.Standing() == 0 }, 10*time.Second, time.Millisecond)
}

// knock knocks once nobody else does.
func (d *door) knock(t *testing.T, from testHost, token auth.Token) error {
	t.Helper()
	d.empty(t)
	return admit.Knock(t.Context(), from, d.host.ID(), token)
}

// NODE-68: a ticket lets the key in that brings it, and no other: not even a relay's
// that has seen the whole exchange.
func TestKnock(t *testing.T) {
	node, key := newHost(t)
	holder, _ := newHost(t)
	thief, _ := newHost(t)
	holder.know(node)
	thief.know(node)
	store := new(ticket.Memory)
	keeper, err := ticket.NewKeeper(key.Public().(ed25519.PublicKey), "main", store)
	require.NoError(t, err)
	d := openDoor(t, node, keeper.Redeem)

	made, token, err := ticket.Sign(key, ticket.Terms{Network: "main", Only: []string{"disk/free"}, Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	require.ErrorIs(t, d.knock(t, holder, token), admit.ErrRefused, "not on record")
	require.NoError(t, store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Record(made, "") }))
	require.False(t, keeper.Guest(holder.fingerprint(t)))

	require.NoError(t, d.knock(t, holder, token))
	require.True(t, keeper.Guest(holder.fingerprint(t)))
	require.ErrorIs(t, d.knock(t, thief, token), admit.ErrRefused)
	require.False(t, keeper.Guest(thief.fingerprint(t)))
	require.ErrorIs(t, d.knock(t, thief, auth.NewToken()), admit.ErrRefused)
	require.NoError(t, d.knock(t, holder, token), "again")

	require.NoError(t, store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Revoke(made.ID.String()) }))
	require.False(t, keeper.Guest(holder.fingerprint(t)))
	require.ErrorIs(t, d.knock(t, holder, token), admit.ErrRefused)
}

// Of many keys that knock at once with one ticket the first is let in.
func TestKnockInParallel(t *testing.T) {
	node, key := newHost(t)
	store := new(ticket.Memory)
	keeper, err := ticket.NewKeeper(key.Public().(ed25519.PublicKey), "main", store)
	require.NoError(t, err)
	openDoor(t, node, keeper.Redeem)
	made, token, err := ticket.Sign(key, ticket.Terms{Network: "main", Only: []string{"disk/free"}, Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	require.NoError(t, store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Record(made, "") }))

	const many = 8
	results := make(chan error, many)
	var all sync.WaitGroup
	for range many {
		h, _ := newHost(t)
		h.know(node)
		all.Go(func() { results <- admit.Knock(t.Context(), h, node.ID(), token) })
	}
	all.Wait()
	close(results)
	in := 0
	for err := range results {
		if err == nil {
			in++
			continue
		}
		require.ErrorIs(t, err, admit.ErrRefused)
	}
	require.Equal(t, 1, in)
}

// The answers of the door, as a client reads them.
func TestAnswerVectors(t *testing.T) {
	client, _ := newHost(t)
	server, _ := newHost(t)
	client.know(server)
	answers := make(chan []byte, 1)
	server.SetStreamHandler(admit.Protocol, func(st network.Stream) {
		_, _ = admit.ReadRequest(st)
		_, _ = st.Write(<-answers)
		_ = st.Close()
	})
	for _, c := range readVectors(t).Answers {
		answers <- unhex(t, c.Hex)
		err := admit.Knock(t.Context(), client, server.ID(), auth.TokenFromText("x"))
		switch c.Result {
		case "admitted":
			require.NoError(t, err)
		case "refused":
			require.ErrorIs(t, err, admit.ErrRefused)
		case "busy":
			require.ErrorIs(t, err, admit.ErrBusy)
		default:
			require.ErrorContains(t, err, "not understood")
		}
	}
}

// NODE-68: what is no request within 1 KiB and 3 s gets no answer.
func TestDoorIsNarrow(t *testing.T) {
	client, _ := newHost(t)
	server, _ := newHost(t)
	client.know(server)
	d := openDoor(t, server, func(context.Context, auth.Token, string) error { return errors.New("never") })
	reset := func(err error) *network.StreamError {
		t.Helper()
		var r *network.StreamError
		require.ErrorAs(t, err, &r)
		require.True(t, r.Remote)
		return r
	}
	for _, b := range [][]byte{{2, 0, 1, 'x'}, {1, 3, 254}, {1, 255, 255}, {1, 0, 0}} {
		st, err := client.OpenStream(t.Context(), server.ID(), admit.Protocol)
		require.NoError(t, err)
		_, err = st.Write(b)
		require.NoError(t, err)
		_, err = io.ReadAll(st)
		require.EqualValues(t, protocols.CodeProtocolViolation, reset(err).ErrorCode)
		d.empty(t)
	}

	// Two streams of one key may wait; a third may not, nor may they for long.
	began := time.Now()
	var slow []network.Stream
	for range 2 {
		st, err := client.OpenStream(t.Context(), server.ID(), admit.Protocol)
		require.NoError(t, err)
		_, err = st.Write([]byte{1, 0})
		require.NoError(t, err)
		slow = append(slow, st)
	}
	require.Eventually(t, func() bool { return d.Standing() == 2 }, 2*time.Second, time.Millisecond)
	third, err := client.OpenStream(t.Context(), server.ID(), admit.Protocol)
	require.NoError(t, err)
	_, err = third.Write([]byte{1})
	if err == nil {
		_, err = third.Read(make([]byte, 1))
	}
	require.EqualValues(t, protocols.CodeOverloaded, reset(err).ErrorCode)
	for _, st := range slow {
		_, err := st.Read(make([]byte, 1))
		require.EqualValues(t, protocols.CodeAborted, reset(err).ErrorCode)
	}
	require.GreaterOrEqual(t, time.Since(began), 3*time.Second)
	require.Less(t, time.Since(began), 8*time.Second)

	// Closing ends those who still stand there.
	st, err := client.OpenStream(t.Context(), server.ID(), admit.Protocol)
	require.NoError(t, err)
	_, err = st.Write([]byte{1})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return d.Standing() == 1 }, 10*time.Second, time.Millisecond)
	d.Close()
	d.Close()
	_, err = st.Read(make([]byte, 1))
	require.Error(t, err)
}

// Beyond its rate a door looks at no ticket, and says so.
func TestDoorHasARate(t *testing.T) {
	client, _ := newHost(t)
	server, _ := newHost(t)
	client.know(server)
	var looked atomic.Int32
	d := openDoor(t, server, func(context.Context, auth.Token, string) error {
		looked.Add(1)
		return errors.New("no")
	})
	d.SetRate(0, 3)
	for range 3 {
		require.ErrorIs(t, d.knock(t, client, auth.TokenFromText("x")), admit.ErrRefused)
	}
	require.ErrorIs(t, d.knock(t, client, auth.TokenFromText("x")), admit.ErrBusy)
	require.EqualValues(t, 3, looked.Load())
}

func TestOpenRefuses(t *testing.T) {
	_, err := admit.Open(admit.Config{})
	require.Error(t, err)
}
