package disco_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/alkdev/alknet-p2p/transport/magic/disco"
	"github.com/stretchr/testify/require"
)

func newIdentity(t testing.TB) *disco.Identity {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	id, err := disco.NewIdentity(key)
	require.NoError(t, err)
	return id
}

func ping(ms int64) disco.Ping {
	return disco.Ping{TxID: disco.NewTxID(), BootID: disco.NewBootID(time.UnixMilli(ms))}
}

// PATH-10: what a relay brings opens for its receiver, from its sender, only.
func TestPATH10OverRelay(t *testing.T) {
	a, b, c := newIdentity(t), newIdentity(t), newIdentity(t)
	for name, m := range samples() {
		packet, err := a.Seal(nil, b.Public(), m)
		require.NoError(t, err, name)
		back, err := b.Open(a.Public(), packet)
		require.NoError(t, err, name)
		require.Equal(t, m, back, name)

		_, err = b.Open(c.Public(), packet)
		require.ErrorIs(t, err, disco.ErrBox, "%s: another sender", name)
		_, err = c.Open(a.Public(), packet)
		require.ErrorIs(t, err, disco.ErrBox, "%s: another receiver", name)
		_, err = a.Open(b.Public(), packet)
		require.ErrorIs(t, err, disco.ErrBox, "%s: back to its sender", name)
		for i := range packet {
			packet[i] ^= 1
			_, err = b.Open(a.Public(), packet)
			require.Error(t, err, "%s: byte %d changed", name, i)
			packet[i] ^= 1
		}
	}
}

// PATH-8: a first byte of 0b00xxxxxx, so never QUIC.
func TestPATH8FirstByte(t *testing.T) {
	a, b := newIdentity(t), newIdentity(t)
	for kind, seal := range map[disco.Kind]func([]byte, [32]byte, disco.Message) ([]byte, error){
		disco.Relayed: a.Seal, disco.Direct: a.SealDirect, disco.Introduction: a.SealIntroduction,
	} {
		packet, err := seal([]byte("before"), b.Public(), ping(1).Sized(kind, disco.MaxPacket))
		require.NoError(t, err)
		packet, ok := bytes.CutPrefix(packet, []byte("before"))
		require.True(t, ok)
		require.Len(t, packet, disco.MaxPacket) // PATH-9
		require.Zero(t, packet[0]&0b11000000)
		got, ok := disco.KindOf(packet)
		require.True(t, ok)
		require.Equal(t, kind, got)
	}
	for _, first := range []byte{0, 1, 8, 0x0c, 0x0f, 0x11, 0x40, 0x49, 0x89, 0xc9} {
		_, ok := disco.KindOf([]byte{first})
		require.False(t, ok, "%#x", first)
	}
	_, ok := disco.KindOf(nil)
	require.False(t, ok)
}

// PATH-10: the node key is never in clear on a network.
func TestPATH10Direct(t *testing.T) {
	a, b, c := newIdentity(t), newIdentity(t), newIdentity(t)
	p := ping(1)

	direct, err := a.SealDirect(nil, b.Public(), p)
	require.NoError(t, err)
	_, _, err = b.OpenDirect(direct)
	require.ErrorIs(t, err, disco.ErrUnknownSender)

	intro, err := a.SealIntroduction(nil, b.Public(), p)
	require.NoError(t, err)
	public := a.Public()
	require.NotContains(t, string(intro), string(public[:]))
	require.NotContains(t, string(direct), string(public[:]))
	_, _, err = c.OpenDirect(intro)
	require.ErrorIs(t, err, disco.ErrBox)
	for i := range intro {
		intro[i] ^= 1
		_, _, err = b.OpenDirect(intro)
		require.Error(t, err, "byte %d changed", i)
		intro[i] ^= 1
	}
	_, introduced := b.Cached()
	require.Zero(t, introduced, "nothing that fails is remembered")

	from, m, err := b.OpenDirect(intro)
	require.NoError(t, err)
	require.Equal(t, a.Public(), from)
	require.Equal(t, disco.Message(p), m)

	from, m, err = b.OpenDirect(direct)
	require.NoError(t, err)
	require.Equal(t, a.Public(), from)
	require.Equal(t, disco.Message(p), m)
	for i := range direct {
		direct[i] ^= 1
		_, _, err = b.OpenDirect(direct)
		require.Error(t, err, "byte %d changed", i)
		direct[i] ^= 1
	}
}

// PATH-10: introduced sealed over the relay, then used on direct paths.
func TestPATH10HelloOverRelay(t *testing.T) {
	a, b, c := newIdentity(t), newIdentity(t), newIdentity(t)
	hello := disco.Hello{BootID: disco.NewBootID(time.UnixMilli(1))}
	packet, err := a.Seal(nil, b.Public(), hello)
	require.NoError(t, err)
	_, err = b.Open(c.Public(), packet)
	require.ErrorIs(t, err, disco.ErrBox, "the relay names another sender")
	m, err := b.Open(a.Public(), packet)
	require.NoError(t, err)
	require.Equal(t, disco.Message(hello), m)

	direct, err := a.SealDirect(nil, b.Public(), ping(1))
	require.NoError(t, err)
	from, _, err := b.OpenDirect(direct)
	require.NoError(t, err)
	require.Equal(t, a.Public(), from)
	_, err = b.Open(a.Public(), direct)
	require.ErrorIs(t, err, disco.ErrMalformed, "direct packets do not come from relays")
}

// PATH-10, 11: a packet may stand only where it belongs.
func TestMessagesInTheirPlace(t *testing.T) {
	a, b := newIdentity(t), newIdentity(t)
	for name, err := range map[string]error{
		"call-me-maybe straight": second(a.SealDirect(nil, b.Public(), disco.CallMeMaybe{})),
		"hello straight":         second(a.SealDirect(nil, b.Public(), disco.Hello{})),
		"pong as introduction":   second(a.SealIntroduction(nil, b.Public(), disco.Pong{})),
		"too large":              second(a.Seal(nil, b.Public(), disco.Ping{Padding: disco.MaxPacket - 41 - 28})),
	} {
		require.ErrorIs(t, err, disco.ErrMalformed, name)
	}
	relayed, err := a.Seal(nil, b.Public(), ping(1))
	require.NoError(t, err)
	_, _, err = b.OpenDirect(relayed)
	require.ErrorIs(t, err, disco.ErrMalformed)
}

func second[T any](_ T, err error) error { return err }

// A recorded introduction does not undo a newer one.
func TestPATH11IntroductionOfEarlierBoot(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	older, err := disco.NewIdentity(key)
	require.NoError(t, err)
	newer, err := disco.NewIdentity(key)
	require.NoError(t, err)
	b := newIdentity(t)

	recorded, err := older.SealIntroduction(nil, b.Public(), ping(1))
	require.NoError(t, err)
	_, _, err = b.OpenDirect(recorded)
	require.NoError(t, err)
	fresh, err := newer.SealIntroduction(nil, b.Public(), ping(2))
	require.NoError(t, err)
	_, _, err = b.OpenDirect(fresh)
	require.NoError(t, err)
	_, _, err = b.OpenDirect(recorded)
	require.ErrorIs(t, err, disco.ErrStale)

	direct, err := newer.SealDirect(nil, b.Public(), ping(2))
	require.NoError(t, err)
	_, _, err = b.OpenDirect(direct)
	require.NoError(t, err)
	direct, err = older.SealDirect(nil, b.Public(), ping(1))
	require.NoError(t, err)
	_, _, err = b.OpenDirect(direct)
	require.ErrorIs(t, err, disco.ErrUnknownSender)
}

// PATH-10: low-order points and other encodings are refused.
func TestPATH10BadKeys(t *testing.T) {
	a := newIdentity(t)
	for _, text := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000", // identity
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
		"0000000000000000000000000000000000000000000000000000000000000000", // order 4
		"0000000000000000000000000000000000000000000000000000000000000080", // order 4
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = 1, not reduced
		"0200000000000000000000000000000000000000000000000000000000000000", // not on the curve
	} {
		key, err := hex.DecodeString(text)
		require.NoError(t, err)
		_, err = a.Seal(nil, [32]byte(key), ping(1))
		require.ErrorIs(t, err, disco.ErrKey, text)
		_, err = a.Open([32]byte(key), append([]byte{9}, make([]byte, 80)...))
		require.ErrorIs(t, err, disco.ErrKey, text)
		require.ErrorIs(t, a.Pin([32]byte(key)), disco.ErrKey, text)
	}
	// An introduction under a boot key of low order.
	_, _, err := a.OpenDirect(append([]byte{0x0b}, make([]byte, 200)...))
	require.ErrorIs(t, err, disco.ErrKey)

	_, err = disco.NewIdentity(make(ed25519.PrivateKey, 5))
	require.ErrorIs(t, err, disco.ErrKey)
}

// The map of keys is that of RFC 7748, 4.1; the vector is libsodium's
// (ed25519_convert).
func TestPATH10Birational(t *testing.T) {
	key := ed25519.NewKeyFromSeed(unhex(t, "421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee"))
	mapped, err := disco.Montgomery([32]byte(key.Public().(ed25519.PublicKey)))
	require.NoError(t, err)
	require.Equal(t, "f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50", hex.EncodeToString(mapped))

	// The map of public keys agrees with that of private ones.
	for range 20 {
		a, b := newIdentity(t), newIdentity(t)
		packet, err := a.Seal(nil, b.Public(), ping(1))
		require.NoError(t, err)
		_, err = b.Open(a.Public(), packet)
		require.NoError(t, err)
	}
}

// PATH-14: peers with a connection are never pushed out by others.
func TestPATH14PinnedPeersStay(t *testing.T) {
	a := newIdentity(t)
	a.SetCapacity(2)
	introduce := func() *disco.Identity {
		p := newIdentity(t)
		intro, err := p.SealIntroduction(nil, a.Public(), ping(1))
		require.NoError(t, err)
		_, _, err = a.OpenDirect(intro)
		require.NoError(t, err)
		return p
	}
	opens := func(p *disco.Identity) error {
		direct, err := p.SealDirect(nil, a.Public(), ping(1))
		require.NoError(t, err)
		_, _, err = a.OpenDirect(direct)
		return err
	}
	pinned := introduce()
	require.NoError(t, a.Pin(pinned.Public()))
	require.NoError(t, a.Pin(pinned.Public()), "twice is once")
	first, second := introduce(), introduce()
	require.NoError(t, opens(first), "first is now used last")
	third := introduce()
	peers, introduced := a.Cached()
	require.Equal(t, []int{3, 3}, []int{peers, introduced})
	require.NoError(t, opens(pinned))
	require.NoError(t, opens(first))
	require.NoError(t, opens(third))
	require.ErrorIs(t, opens(second), disco.ErrUnknownSender)

	// Boxes that do not open push nobody out.
	for range 5 {
		stranger := newIdentity(t)
		_, err := a.Open(stranger.Public(), append([]byte{9}, make([]byte, 80)...))
		require.ErrorIs(t, err, disco.ErrBox)
	}
	require.NoError(t, opens(first))
	require.NoError(t, opens(third))

	a.Unpin(pinned.Public())
	a.Unpin(newIdentity(t).Public())
	peers, introduced = a.Cached()
	require.Equal(t, []int{2, 2}, []int{peers, introduced})
}

func TestIdentityIsConcurrent(t *testing.T) {
	a, b := newIdentity(t), newIdentity(t)
	b.SetCapacity(3)
	var wg sync.WaitGroup
	for range 8 {
		other := newIdentity(t)
		wg.Go(func() {
			for range 20 {
				for _, from := range []*disco.Identity{a, other} {
					intro, err := from.SealIntroduction(nil, b.Public(), disco.Ping{BootID: disco.BootID{1}})
					if _, _, err2 := b.OpenDirect(intro); err != nil || err2 != nil {
						t.Error(err, err2)
					}
					relayed, err := from.Seal(nil, b.Public(), disco.PathGone{})
					if _, err2 := b.Open(from.Public(), relayed); err != nil || err2 != nil {
						t.Error(err, err2)
					}
				}
			}
		})
	}
	wg.Wait()
}

// vector is one sealed packet with all that went into it.
type vector struct {
	Name      string `json:"name"`
	From      string `json:"from_seed"`
	Ephemeral string `json:"from_boot_secret"`
	To        string `json:"to_seed"`
	Kind      int    `json:"kind"`
	Nonce     string `json:"nonce"`
	Message   string `json:"message"`
	Packet    string `json:"packet"`
}

const vectorFile = "testdata/packets.json"

var update = flag.Bool("update", false, "write the vectors anew")

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	raw, err := os.ReadFile(vectorFile)
	require.NoError(t, err)
	var vectors []vector
	require.NoError(t, json.Unmarshal(raw, &vectors))
	require.NotEmpty(t, vectors)
	for _, v := range vectors {
		from, to := v.identities(t)
		m, err := disco.ParseMessage(unhex(t, v.Message))
		require.NoError(t, err, v.Name)
		packet, err := from.SealAt(disco.Kind(v.Kind), [24]byte(unhex(t, v.Nonce)), to.Public(), m)
		require.NoError(t, err, v.Name)
		require.Equal(t, v.Packet, hex.EncodeToString(packet), v.Name)

		var back disco.Message
		switch disco.Kind(v.Kind) {
		case disco.Relayed:
			back, err = to.Open(from.Public(), packet)
		case disco.Direct:
			intro, err := from.SealIntroduction(nil, to.Public(), disco.Hello{})
			require.NoError(t, err)
			_, err = to.Open(from.Public(), intro)
			require.NoError(t, err)
			fallthrough
		default:
			var sender [32]byte
			sender, back, err = to.OpenDirect(packet)
			require.Equal(t, from.Public(), sender, v.Name)
		}
		require.NoError(t, err, v.Name)
		require.Equal(t, m, back, v.Name)
	}
}

func (v vector) identities(t *testing.T) (from, to *disco.Identity) {
	from, err := disco.NewIdentityAt(ed25519.NewKeyFromSeed(unhex(t, v.From)), unhex(t, v.Ephemeral))
	require.NoError(t, err)
	to, err = disco.NewIdentityAt(ed25519.NewKeyFromSeed(unhex(t, v.To)), bytes.Repeat([]byte{0xee}, 32))
	require.NoError(t, err)
	return from, to
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func writeVectors(t *testing.T) {
	tx := disco.TxID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	boot := disco.BootID([]byte{0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	p := disco.Ping{TxID: tx, BootID: boot}
	call := disco.CallMeMaybe{TxID: tx, BootID: boot, Addrs: []netip.AddrPort{v4, v6}, Homes: [][32]byte{{31: 1}}}
	hard := call
	hard.Network = disco.Network{IPv4: disco.MappingDependent, IPv6: disco.MappingNone}
	hard.Punch = disco.Punch{State: disco.PunchOpen, Ports: []uint16{4242, 40001}}
	blocked := call
	blocked.Network.NoUDP = true
	blocked.TCP = []netip.AddrPort{v6, v4}
	var out []vector
	for _, s := range []struct {
		name string
		kind disco.Kind
		m    disco.Message
	}{
		{"ping over a relay", disco.Relayed, p},
		{"pong over a relay", disco.Relayed, disco.Pong{TxID: tx, BootID: boot}},
		{"call-me-maybe", disco.Relayed, call},
		{"path gone", disco.Relayed, disco.PathGone{TxID: tx, BootID: boot, Addr: v6}},
		{"hello", disco.Introduction, disco.Hello{TxID: tx, BootID: boot}},
		{"cold ping", disco.Introduction, p},
		{"ping of 128 bytes", disco.Direct, p.Sized(disco.Direct, 128)},
		{"pong", disco.Direct, disco.Pong{TxID: tx, BootID: boot, Observed: v4}},
		{"call-me-maybe with extensions", disco.Relayed, hard},
		{"call-me-maybe for TCP", disco.Relayed, blocked},
	} {
		v := vector{
			Name: s.name, Kind: int(s.kind),
			From:      hex.EncodeToString(bytes.Repeat([]byte{0x11}, 32)),
			Ephemeral: hex.EncodeToString(bytes.Repeat([]byte{0x22}, 32)),
			To:        hex.EncodeToString(bytes.Repeat([]byte{0x33}, 32)),
		}
		nonce := [24]byte(bytes.Repeat([]byte{byte(0x40 + len(out))}, 24))
		v.Nonce = hex.EncodeToString(nonce[:])
		plain, err := disco.AppendMessage(nil, s.m)
		require.NoError(t, err)
		v.Message = hex.EncodeToString(plain)
		from, to := v.identities(t)
		packet, err := from.SealAt(s.kind, nonce, to.Public(), s.m)
		require.NoError(t, err)
		v.Packet = hex.EncodeToString(packet)
		out = append(out, v)
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(vectorFile, append(raw, '\n'), 0o644))
}

func FuzzOpen(f *testing.F) {
	a, err := disco.NewIdentityAt(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), bytes.Repeat([]byte{2}, 32))
	require.NoError(f, err)
	b, err := disco.NewIdentityAt(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32)), bytes.Repeat([]byte{4}, 32))
	require.NoError(f, err)
	for _, kind := range []disco.Kind{disco.Relayed, disco.Direct, disco.Introduction} {
		packet, err := a.SealAt(kind, [24]byte{byte(kind)}, b.Public(), disco.Ping{BootID: disco.BootID{1}})
		require.NoError(f, err)
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		_, ours := disco.KindOf(packet)
		m, err := b.Open(a.Public(), packet)
		require.True(t, err != nil || ours && m != nil)
		from, m, err := b.OpenDirect(packet)
		require.True(t, err != nil || ours && m != nil && from == a.Public())
	})
}

func ExampleIdentity() {
	_, aliceKey, _ := ed25519.GenerateKey(rand.Reader)
	_, bobKey, _ := ed25519.GenerateKey(rand.Reader)
	alice, _ := disco.NewIdentity(aliceKey)
	bob, _ := disco.NewIdentity(bobKey)

	packet, _ := alice.Seal(nil, bob.Public(), disco.Ping{TxID: disco.NewTxID(), BootID: disco.NewBootID(time.Now())})
	m, err := bob.Open(alice.Public(), packet)
	fmt.Printf("%T %v\n", m, err)
	// Output: disco.Ping <nil>
}

func BenchmarkSealOpen(b *testing.B) {
	one, two := newIdentity(b), newIdentity(b)
	p := disco.Ping{}.Sized(disco.Relayed, disco.MaxPacket)
	var buf []byte
	b.SetBytes(disco.MaxPacket)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = one.Seal(buf[:0], two.Public(), p)
		if _, err := two.Open(one.Public(), buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenStranger(b *testing.B) {
	id := newIdentity(b)
	e, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(b, err)
	packet := append(append([]byte{0x0b}, e.PublicKey().Bytes()...), make([]byte, 120)...)
	for b.Loop() {
		_, _, _ = id.OpenDirect(packet)
	}
}
