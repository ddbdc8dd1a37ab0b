package relay_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"testing"

	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/stretchr/testify/require"
)

// frameVector is one frame and its bytes.
type frameVector struct {
	Name    string `json:"name"`
	Type    int    `json:"type"`
	Key     string `json:"key"`
	Flags   int    `json:"flags"`
	Payload string `json:"payload"`
	Wire    string `json:"wire"`
}

func (v frameVector) frame(t testing.TB) relay.Frame {
	return relay.Frame{
		Type: relay.FrameType(v.Type), Key: relay.Key(unhex(t, v.Key)),
		Flags: byte(v.Flags), Payload: unhex(t, v.Payload),
	}
}

// greetingVector is one greeting and its bytes.
type greetingVector struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // hello or welcome
	JSON string `json:"json"`
	Wire string `json:"wire"`
}

const (
	framesFile    = "testdata/frames.json"
	greetingsFile = "testdata/greetings.json"
)

var update = flag.Bool("update", false, "write the vectors anew")

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func load[T any](t testing.TB, file string) (vectors []T) {
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &vectors))
	require.NotEmpty(t, vectors)
	return vectors
}

func save(t *testing.T, file string, vectors any) {
	raw, err := json.MarshalIndent(vectors, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append(raw, '\n'), 0o644))
}

func TestFrameVectors(t *testing.T) {
	if *update {
		writeFrames(t)
	}
	for _, v := range load[frameVector](t, framesFile) {
		raw, err := relay.AppendFrame(nil, v.frame(t))
		require.NoError(t, err, v.Name)
		require.Equal(t, v.Wire, hex.EncodeToString(raw), v.Name)
		f, n, err := relay.ParseFrame(append(raw, "more"...))
		require.NoError(t, err, v.Name)
		require.Len(t, raw, n, v.Name)
		require.Equal(t, v.frame(t), f, v.Name)
		for cut := range raw {
			_, _, err := relay.ParseFrame(raw[:cut])
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, v.Name)
		}
	}
}

func writeFrames(t *testing.T) {
	var peer relay.Key
	for i := range peer {
		peer[i] = byte(i)
	}
	var out []frameVector
	for _, s := range []struct {
		name string
		f    relay.Frame
	}{
		{"data", relay.Frame{Type: relay.FrameData, Key: peer, Flags: 2, Payload: []byte("packet")}},
		{"empty data", relay.Frame{Type: relay.FrameData, Key: peer}},
		{"disco", relay.Frame{Type: relay.FrameDisco, Key: peer, Payload: []byte("probe")}},
		{"peer gone", relay.Frame{Type: relay.FramePeerGone, Key: peer}},
		{"ping", relay.Frame{Type: relay.FramePing, Payload: []byte{1, 2, 3, 4, 5, 6, 7, 8}}},
		{"pong", relay.Frame{Type: relay.FramePong, Payload: []byte{1, 2, 3, 4, 5, 6, 7, 8}}},
		{"health", relay.Frame{Type: relay.FrameHealth, Payload: []byte("disk is full")}},
		{"go away, draining", relay.Frame{Type: relay.FrameGoAway, Payload: []byte{byte(relay.GoAwayDraining)}}},
		{"rate hint of 10 Mbit/s", relay.Frame{Type: relay.FrameRateHint, Payload: []byte{0, 0, 0, 0, 0, 0x13, 0x12, 0xd0}}},
		{"attest to the key", relay.Frame{Type: relay.FrameAttest, Key: peer}},
		{"attested, 198.51.100.7", relay.Frame{Type: relay.FrameAttest, Key: peer, Payload: []byte{10: 0xff, 11: 0xff, 12: 198, 13: 51, 14: 100, 15: 7}}},
	} {
		raw, err := relay.AppendFrame(nil, s.f)
		require.NoError(t, err)
		out = append(out, frameVector{
			s.name, int(s.f.Type), hex.EncodeToString(s.f.Key[:]), int(s.f.Flags),
			hex.EncodeToString(s.f.Payload), hex.EncodeToString(raw),
		})
	}
	save(t, framesFile, out)
}

func TestGreetingVectors(t *testing.T) {
	if *update {
		writeGreetings(t)
	}
	for _, v := range load[greetingVector](t, greetingsFile) {
		var raw []byte
		switch v.Kind {
		case "hello":
			h, err := relay.ParseHello([]byte(v.JSON))
			require.NoError(t, err, v.Name)
			raw, err = relay.AppendHello(nil, h)
			require.NoError(t, err, v.Name)
		case "welcome":
			w, err := relay.ParseWelcome([]byte(v.JSON))
			require.NoError(t, err, v.Name)
			raw, err = relay.AppendWelcome(nil, w)
			require.NoError(t, err, v.Name)
		default:
			t.Fatal(v.Kind)
		}
		require.Equal(t, v.Wire, hex.EncodeToString(raw), v.Name)
	}
}

func writeGreetings(t *testing.T) {
	var out []greetingVector
	add := func(name, kind string, raw []byte, err error) {
		require.NoError(t, err)
		out = append(out, greetingVector{name, kind, string(raw[2:]), hex.EncodeToString(raw)})
	}
	id := relay.BootID([]byte{0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	raw, err := relay.AppendHello(nil, relay.Hello{Version: 1, BootID: id, Mode: relay.ModeHome})
	add("a client that wants a home", "hello", raw, err)
	raw, err = relay.AppendHello(nil, relay.Hello{Version: 1, Features: []string{"later"}, BootID: id, Mode: relay.ModeConnect})
	add("a client that only sends", "hello", raw, err)
	raw, err = relay.AppendWelcome(nil, relay.Welcome{
		Version: 1, Observed: "/ip4/198.51.100.7/tcp/40000", Time: 1700000000000,
		Limits: relay.Limits{Rate: relay.DefaultRate, Burst: relay.DefaultBurst, Disco: relay.DefaultDiscoRate}, Records: [][]byte{[]byte("record")},
	})
	add("a stranger is served", "welcome", raw, err)
	raw, err = relay.AppendWelcome(nil, relay.Welcome{Version: 1, Time: 1700000000000})
	add("a known client is served", "welcome", raw, err)
	raw, err = relay.AppendWelcome(nil, relay.Welcome{Version: 1, Refused: relay.GoAwayDenied, Time: 1700000000000})
	add("a client is refused", "welcome", raw, err)
	save(t, greetingsFile, out)
}

func TestAppendRefuses(t *testing.T) {
	_, err := relay.AppendFrame(nil, relay.Frame{Type: relay.FrameData, Payload: make([]byte, relay.MaxPayload+1)})
	require.ErrorIs(t, err, relay.ErrFrame)
	_, err = relay.AppendHello(nil, relay.Hello{Version: 1, Features: []string{string(make([]byte, 5000))}})
	require.ErrorIs(t, err, relay.ErrFrame)
	_, err = relay.AppendWelcome(nil, relay.Welcome{Version: 1, Observed: string(make([]byte, 5000)), Records: [][]byte{{1}}})
	require.ErrorIs(t, err, relay.ErrFrame)
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for r := relay.GoAwayDraining; r <= relay.GoAwayVersion; r++ {
		require.NotContains(t, r.String(), "reason")
		require.False(t, seen[r.String()])
		seen[r.String()] = true
	}
	require.Equal(t, []string{"up", "suspect", "dead"}, []string{relay.StateUp.String(), relay.StateSuspect.String(), relay.StateDead.String()})
}

func FuzzParseFrame(f *testing.F) {
	for _, v := range load[frameVector](f, framesFile) {
		f.Add(unhex(f, v.Wire))
	}
	f.Add(append([]byte{0xff, 0xff, 200}, make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		frame, n, err := relay.ParseFrame(raw)
		if err != nil {
			require.True(t, errors.Is(err, relay.ErrFrame) || errors.Is(err, io.ErrUnexpectedEOF))
			return
		}
		require.LessOrEqual(t, n, len(raw))
		back, err := relay.AppendFrame(nil, frame)
		if len(frame.Payload) > relay.MaxPayload {
			require.ErrorIs(t, err, relay.ErrFrame)
			require.True(t, frame.Type < relay.FrameData || frame.Type > relay.FrameAttest)
			return
		}
		require.NoError(t, err)
		require.Equal(t, raw[:n], back)
	})
}

// FuzzReader gives a stream of frames to the reader in pieces: it must see what
// ParseFrame sees, less the unknown types.
func FuzzReader(f *testing.F) {
	var all []byte
	for _, v := range load[frameVector](f, framesFile) {
		all = append(all, unhex(f, v.Wire)...)
	}
	f.Add(all, uint8(7))
	f.Add(append(append([]byte{0, 40, 99}, make([]byte, 39)...), all...), uint8(255))
	f.Add(all[:len(all)-1], uint8(1))
	f.Fuzz(func(t *testing.T, raw []byte, piece uint8) {
		r := relay.NewFrameReader(&pieces{raw, int(piece) + 1})
		for rest := raw; ; {
			want, n, wantErr := relay.ParseFrame(rest)
			if wantErr == nil && (want.Type < relay.FrameData || want.Type > relay.FrameAttest) {
				rest = rest[n:]
				continue
			}
			got, err := r.Next()
			if wantErr != nil {
				require.Error(t, err)
				require.Equal(t, len(rest) == 0, errors.Is(err, io.EOF))
				return
			}
			require.NoError(t, err)
			require.Equal(t, want, got)
			rest = rest[n:]
		}
	})
}

// pieces gives its bytes a few at a time.
type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.size, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

func FuzzGreeting(f *testing.F) {
	for _, v := range load[greetingVector](f, greetingsFile) {
		f.Add([]byte(v.JSON))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, err := relay.ParseHello(raw); err == nil {
			if out, err := relay.AppendHello(nil, h); err == nil { // may be longer than what was read
				again, err := relay.ParseHello(out[2:])
				require.NoError(t, err)
				require.Equal(t, h, again)
			}
		}
		if w, err := relay.ParseWelcome(raw); err == nil {
			out, err := relay.AppendWelcome(nil, w)
			if err != nil {
				return
			}
			again, err := relay.ParseWelcome(out[2:])
			require.NoError(t, err)
			once, err := relay.AppendWelcome(nil, again)
			require.NoError(t, err)
			require.True(t, bytes.Equal(out, once))
		}
	})
}
