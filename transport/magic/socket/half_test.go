package socket

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The halves of testdata are made and read as SPEC.md says.
func TestPATH9HalfVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/halves.json")
	require.NoError(t, err)
	var vectors []struct {
		Name    string
		Packet  string
		ID      uint32
		Halves  []string
		Refused []string
		Second  string
	}
	require.NoError(t, json.Unmarshal(raw, &vectors))
	require.NotEmpty(t, vectors)
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		require.NoError(t, err)
		return b
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			for _, s := range v.Refused {
				_, ok := parseHalf(unhex(s))
				require.False(t, ok, s)
				_, ok = parseSecond(unhex(s))
				require.False(t, ok, s)
			}
			if v.Second != "" {
				require.Equal(t, v.Second, hex.EncodeToString(appendSecond(unhex(v.Packet))))
				packet, ok := parseSecond(unhex(v.Second))
				require.True(t, ok)
				require.Equal(t, v.Packet, hex.EncodeToString(packet))
			}
			if len(v.Halves) == 0 {
				return
			}
			packet := unhex(v.Packet)
			cut := (len(packet) + 1) / 2
			require.Equal(t, []string{
				hex.EncodeToString(appendHalf(nil, half{id: v.ID, b: packet[:cut]})),
				hex.EncodeToString(appendHalf(nil, half{id: v.ID, second: true, b: packet[cut:]})),
			}, v.Halves)
			for _, order := range [][]int{{0, 1}, {1, 0}} { // as they come
				var hs halves
				var out [MaxPacket]byte
				for i, at := range order {
					h, ok := parseHalf(unhex(v.Halves[at]))
					require.True(t, ok)
					n, _, lost, bad := hs.join(h, 0, 1, &out)
					require.False(t, lost || bad)
					if i == 1 {
						require.Equal(t, packet, out[:n])
					} else {
						require.Zero(t, n)
					}
				}
			}
		})
	}
}

// PATH-9: halves that wait are few and do not wait for long; a flood of them
// drops those, and is counted.
func TestPATH9HalvesAreBounded(t *testing.T) {
	var hs halves
	var out [MaxPacket]byte
	b := bytes.Repeat([]byte{0x40}, 700)
	for i := range uint32(halvesHeld) {
		_, _, lost, _ := hs.join(half{id: i, b: b}, 0, 1, &out)
		require.False(t, lost)
	}
	for i := range uint32(1000) {
		_, _, lost, _ := hs.join(half{id: 1000 + i, b: b}, 0, 1, &out)
		require.True(t, lost)
	}
	n, _, _, _ := hs.join(half{id: 0, second: true, b: b}, 0, 1, &out)
	require.Zero(t, n, "it was dropped")
	n, _, _, _ = hs.join(half{id: 1999, second: true, b: b}, 0, 1, &out)
	require.Equal(t, 1400, n)
	late := int64(1 + halfFor + time.Nanosecond)
	n, _, _, _ = hs.join(half{id: 1998, second: true, b: b}, 0, late, &out)
	require.Zero(t, n, "too late")
	hs = halves{}
	hs.join(half{id: 1, b: b}, 0, 1, &out)
	n, _, _, bad := hs.join(half{id: 1, second: true, b: b[:600]}, 0, 1, &out)
	require.True(t, bad, "they are no halves")
	require.Zero(t, n)
	hs.join(half{id: 1, b: b}, 0, 1, &out)
	n, _, _, _ = hs.join(half{id: 1, b: b}, 0, 1, &out)
	require.Zero(t, n, "twice the first")
}

// A mark that either half met is the packet's (RFC 3168, section 5.3).
func TestPATH9HalvesKeepMarks(t *testing.T) {
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	for _, c := range [][3]byte{
		{notECT, notECT, notECT}, {ect0, ect0, ect0}, {ect1, ect1, ect1}, {ect0, ce, ce}, {ce, ect1, ce}, {ce, ce, ce}, {ce, notECT, notECT},
	} {
		require.Equal(t, c[2], joinECN(c[0], c[1]), "%v", c)
	}
}

// FuzzHalf puts together what anybody sends: never more than a packet, nothing
// that does not begin as one of QUIC's, and whatever was split.
func FuzzHalf(f *testing.F) {
	b := bytes.Repeat([]byte{0x40}, maxHalf)
	f.Add(appendHalf(nil, half{id: 1, b: b}), appendHalf(nil, half{id: 1, second: true, b: b}))
	f.Add(appendHalf(nil, half{id: 1, second: true, b: b[:1]}), appendHalf(nil, half{id: 1, b: b[:2]}))
	f.Add(appendHalf(nil, half{id: 1 << 31, b: b}), appendHalf(nil, half{id: 1, b: b}))
	f.Add([]byte{halfByte, 3, 0, 0, 0, 0, 0x40}, []byte{halfByte})
	f.Add(appendSecond(b), []byte{halfByte, secondPort})
	f.Fuzz(func(t *testing.T, x, y []byte) {
		var hs halves
		var out [MaxPacket]byte
		for _, raw := range [][]byte{x, y} {
			if packet, ok := parseSecond(raw); ok {
				require.Equal(t, raw, appendSecond(packet))
				require.NotZero(t, packet[0]&0xc0)
			}
			h, ok := parseHalf(raw)
			if !ok {
				continue
			}
			require.Equal(t, raw, appendHalf(nil, h))
			if n, _, _, _ := hs.join(h, 0, 1, &out); n > 0 {
				require.LessOrEqual(t, n, MaxPacket)
				require.NotZero(t, out[0]&0xc0)
			}
		}
		packet := append([]byte{0x40}, x...)
		packet = packet[:min(len(packet), MaxPacket)]
		cut := (len(packet) + 1) / 2
		if cut == len(packet) {
			return
		}
		hs = halves{}
		first, ok := parseHalf(appendHalf(nil, half{id: 7, b: packet[:cut]}))
		require.True(t, ok)
		second, ok := parseHalf(appendHalf(nil, half{id: 7, second: true, b: packet[cut:]}))
		require.True(t, ok)
		hs.join(second, 0, 1, &out)
		n, _, _, _ := hs.join(first, 0, 1, &out)
		require.Equal(t, packet, out[:n])
	})
}
