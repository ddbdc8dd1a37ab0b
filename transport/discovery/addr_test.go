package discovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func newTestServer(now func() time.Time) *addrServer {
	return newAddrServer("main", now, slog.New(slog.DiscardHandler), nil, nil)
}

func TestAddrVectors(t *testing.T) {
	var vectors addrVectors
	readVectors(t, "exchanges.json", &vectors)
	require.NotEmpty(t, vectors.Exchanges)
	s := newAddrServer(vectors.Network, func() time.Time { return time.UnixMilli(vectors.Now) }, slog.New(slog.DiscardHandler), nil, nil)
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.serve(testID(1), theirs) })
	for _, v := range vectors.Exchanges {
		_, err := ours.Write(unhex(t, v.Request))
		require.NoError(t, err, v.Name)
		answer := make([]byte, len(v.Answer)/2)
		_, err = io.ReadFull(ours, answer)
		require.NoError(t, err, v.Name)
		require.Equal(t, v.Answer, hexOf(answer), v.Name)
	}
	require.NoError(t, ours.Close())
	wg.Wait()
}

// What is not a message ends the stream; a stream has a limit of requests.
func TestAddrServerHostile(t *testing.T) {
	s := newTestServer(time.Now)
	get := addrMessage(addrGet, make([]byte, 32))
	for name, in := range map[string][]byte{
		"too short":       {0, 1, 1},
		"too long":        binary.BigEndian.AppendUint16(nil, maxAddrMessage+1),
		"other version":   {0, 2, 2, addrGet},
		"cut off":         get[:10],
		"cut in the head": get[:1],
	} {
		stream := &scripted{in: bytes.NewReader(in)}
		require.Error(t, s.serve(testID(1), stream), name)
		require.Zero(t, stream.out.Len(), name)
	}
	stream := &scripted{in: bytes.NewReader(bytes.Repeat(get, addrRequests+1))}
	require.NoError(t, s.serve(testID(1), stream))
	require.Equal(t, addrRequests*len(addrMessage(addrNotFound, nil)), stream.out.Len())
}

// Checking signatures for others has a limit, one peer's below that of all.
func TestAddrServerBusy(t *testing.T) {
	s := newTestServer(time.Now)
	s.puts.all.SetLimit(0) // no more than the burst
	put := sealed(t, 1, func(r *Record) { r.Network = "main" }).Envelope()
	puts := func(p peer.ID) (n int) {
		s.answer(p, addrPut, put) // makes the limiter of p
		limiter, ok := s.puts.byPeer.get(p)
		require.True(t, ok)
		limiter.SetLimit(0)
		for n = 1; ; n++ {
			kind, body := s.answer(p, addrPut, put)
			if kind == addrStored {
				continue
			}
			err := answerError(kind, body)
			require.ErrorIs(t, err, ErrRefused)
			require.ErrorIs(t, err, errBusy)
			return n
		}
	}
	require.LessOrEqual(t, puts(testID(2)), addrOpensBurst+addrOpensPerPeer)
	total := 0
	for k := byte(10); k < 30; k++ {
		total += puts(testID(k))
	}
	require.Less(t, total, addrOpens)
	kind, _ := s.answer(testID(2), addrGet, make([]byte, 32))
	require.EqualValues(t, addrNotFound, kind, "questions are not limited so")
}

// A client believes no answer that is not signed by the key it asked for.
func TestAddrClientHostileAnswers(t *testing.T) {
	now := time.Now()
	old := sealed(t, 1, func(r *Record) { r.Seq -= 1000 })
	mine := sealed(t, 1)
	other := sealed(t, 2)
	for name, c := range map[string]struct {
		answer []byte
		want   error
	}{
		"another's record":  {addrMessage(addrFound, other.Envelope()), ErrWrongSigner},
		"no envelope":       {addrMessage(addrFound, nil), ErrWrongSigner},
		"an older one":      {addrMessage(addrFound, old.Envelope()), ErrMalformed},
		"unknown type":      {addrMessage(77, nil), ErrMalformed},
		"unknown reason":    {addrMessage(addrRefused, []byte{77}), ErrRefused},
		"reason zero":       {addrMessage(addrRefused, []byte{0}), ErrRefused},
		"signer refused":    {addrMessage(addrRefused, []byte{refusedSigner}), ErrWrongSigner},
		"nothing":           {nil, io.ErrUnexpectedEOF},
		"length over limit": {[]byte{0xff, 0xff}, ErrMalformed},
	} {
		client := &addrClient{network: testNetwork, now: func() time.Time { return now }, open: func(context.Context, peer.ID) (network.Stream, error) {
			return &scripted{in: bytes.NewReader(c.answer)}, nil
		}}
		_, err := client.put(t.Context(), testID(9), mine)
		require.Error(t, err, name)
		if name != "no envelope" {
			require.ErrorIs(t, err, c.want, name)
		}
		if name != "an older one" {
			_, err = client.get(t.Context(), testID(9), testID(1))
			require.Error(t, err, name)
		}
	}
	broken := &addrClient{open: func(context.Context, peer.ID) (network.Stream, error) { return nil, errors.New("down") }}
	_, err := broken.get(t.Context(), testID(9), testID(1))
	require.ErrorContains(t, err, "down")
	_, err = broken.get(t.Context(), testID(9), "no key")
	require.Error(t, err)
}

// A relay that takes the question and says nothing does not hold the client
// beyond its context, nor its own Close.
func TestAddrSilentSides(t *testing.T) {
	relay, a := newHost(t, 1), newHost(t, 2)
	relay.SetStreamHandler(ProtocolID, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
	client := &addrClient{network: testNetwork, now: time.Now, open: func(ctx context.Context, p peer.ID) (network.Stream, error) {
		return a.NewStream(ctx, p, ProtocolID)
	}}
	require.NoError(t, a.Connect(t.Context(), infoOf(relay)))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := client.get(ctx, relay.ID(), testID(3))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	s := newTestServer(time.Now)
	relay.SetStreamHandler(ProtocolID, s.handle)
	var streams []network.Stream
	for range addrStreamsPerPeer {
		stream, err := client.open(t.Context(), relay.ID())
		require.NoError(t, err)
		_, err = stream.Write(addrMessage(addrGet, make([]byte, 32)))
		require.NoError(t, err)
		var buf [2 + maxAddrMessage]byte
		kind, _, err := readAddrMessage(stream, &buf)
		require.NoError(t, err)
		require.EqualValues(t, addrNotFound, kind)
		streams = append(streams, stream)
	}
	_, err = client.get(t.Context(), relay.ID(), testID(3))
	require.Error(t, err, "one stream too many was served")
	s.Close()
	for _, stream := range streams {
		_, err := stream.Read(make([]byte, 1))
		require.ErrorIs(t, err, network.ErrReset)
	}
	_, err = client.get(t.Context(), relay.ID(), testID(3))
	require.Error(t, err, "served after Close")
}

// scripted is a stream that reads what it was given.
type scripted struct {
	network.Stream
	in  io.Reader
	out bytes.Buffer
}

func (s *scripted) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *scripted) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *scripted) SetDeadline(time.Time) error { return nil }
func (s *scripted) Reset() error                { return nil }
func (s *scripted) Close() error                { return nil }

func FuzzAddrServer(f *testing.F) {
	var vectors addrVectors
	readVectors(f, "exchanges.json", &vectors)
	var all []byte
	for _, v := range vectors.Exchanges {
		f.Add(unhex(f, v.Request))
		all = append(all, unhex(f, v.Request)...)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newTestServer(func() time.Time { return time.UnixMilli(vectors.Now) })
		stream := &scripted{in: bytes.NewReader(in)}
		_ = s.serve(testID(1), stream)
		// Every answer is a message, and every record given out was put.
		var buf [2 + maxAddrMessage]byte
		for {
			kind, body, err := readAddrMessage(&stream.out, &buf)
			if err != nil {
				require.ErrorIs(t, err, io.EOF)
				return
			}
			if kind == addrFound && !bytes.Contains(in, body) {
				t.Fatal("a record nobody put")
			}
		}
	})
}

func FuzzAddrAnswer(f *testing.F) {
	var vectors addrVectors
	readVectors(f, "exchanges.json", &vectors)
	for _, v := range vectors.Exchanges {
		f.Add(unhex(f, v.Answer))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		client := &addrClient{network: "main", now: func() time.Time { return time.UnixMilli(vectors.Now) }, open: func(context.Context, peer.ID) (network.Stream, error) {
			return &scripted{in: bytes.NewReader(in)}, nil
		}}
		r, err := client.get(t.Context(), testID(9), testID(1))
		if err == nil && r != nil {
			require.Equal(t, testID(1), r.Peer)
		}
	})
}
