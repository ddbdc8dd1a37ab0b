package magic_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hub is one relay, in memory, that all hosts of a test are homed at. Each
// pair of hosts has a goroutine of its own, which keeps frames in order.
type hub struct {
	mu      sync.Mutex
	sockets map[relay.Key]*socket.Socket
	wires   map[[2]relay.Key]chan frame
	dark    bool          // loses all frames
	pause   time.Duration // after each frame of a pair
	wg      sync.WaitGroup
}

// set changes the hub for all frames from now on.
func (h *hub) set(dark bool, pause time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dark, h.pause = dark, pause
}

func (h *hub) rest() {
	h.mu.Lock()
	pause := h.pause
	h.mu.Unlock()
	if pause > 0 {
		time.Sleep(pause)
	}
}

type frame struct {
	kind    relay.FrameType
	ecn     byte
	payload []byte
}

var hubKey = relay.Key{1}

func newHub(t *testing.T) *hub {
	h := &hub{sockets: make(map[relay.Key]*socket.Socket), wires: make(map[[2]relay.Key]chan frame)}
	t.Cleanup(func() {
		h.mu.Lock()
		for _, w := range h.wires {
			close(w)
		}
		h.wires = nil
		h.mu.Unlock()
		h.wg.Wait()
	})
	return h
}

type port struct {
	h    *hub
	self relay.Key
}

func (p port) Live() []relay.Key                       { return []relay.Key{hubKey} }
func (p port) Ensure(context.Context, relay.Key) error { return nil }

func (p port) Send(_, to relay.Key, kind relay.FrameType, ecn byte, payload []byte) error {
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	target := p.h.sockets[to]
	if p.h.wires == nil || p.h.dark {
		return nil
	}
	if target == nil {
		self := p.h.sockets[p.self]
		p.h.wg.Go(func() { self.PeerGone(hubKey, to) })
		return nil
	}
	pair := [2]relay.Key{p.self, to}
	w := p.h.wires[pair]
	if w == nil {
		w = make(chan frame, 1024)
		p.h.wires[pair] = w
		p.h.wg.Go(func() {
			for f := range w {
				target.Receive(hubKey, p.self, f.kind, f.ecn, f.payload)
				p.h.rest()
			}
		})
	}
	select {
	case w <- frame{kind, ecn, append([]byte(nil), payload...)}:
	default:
	}
	return nil
}

// newHost is a libp2p host with nothing but the magic transport, given as one
// option.
func (h *hub) newHost(t *testing.T, opts ...libp2p.Option) (host.Host, *magic.Transport) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	self := relay.Key(key.Public().(ed25519.PublicKey))
	sock, err := socket.New(socket.Config{Key: key, Relays: port{h, self}})
	require.NoError(t, err)
	tr, err := magic.New(magic.Config{Key: key, Socket: sock})
	require.NoError(t, err)
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	require.NoError(t, err)
	lh, err := libp2p.New(append([]libp2p.Option{
		libp2p.Identity(priv), libp2p.Transport(tr.Constructor), libp2p.ListenAddrs(magic.Addr),
		libp2p.AddrsFactory(magic.Strip), libp2p.DisableRelay(), libp2p.DisableMetrics(),
	}, opts...)...)
	require.NoError(t, err)
	h.mu.Lock()
	h.sockets[self] = sock
	h.mu.Unlock()
	t.Cleanup(func() {
		require.NoError(t, lh.Close())
		require.NoError(t, tr.Close())
	})
	return lh, tr
}

// PATH-2: the transport is one option of a libp2p program; the swarm dials
// /alknet like any address.
func TestPATH2OneOptionOfAnyHost(t *testing.T) {
	h := newHub(t)
	a, _ := h.newHost(t)
	b, _ := h.newHost(t)
	a.SetStreamHandler("/echo", func(s network.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	b.Peerstore().AddAddr(a.ID(), magic.Addr, peerstore.TempAddrTTL)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := b.NewStream(ctx, a.ID(), "/echo")
	require.NoError(t, err)
	_, err = s.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, s.CloseWrite())
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))

	c := s.Conn()
	require.True(t, c.RemotePublicKey().Equals(a.Peerstore().PubKey(a.ID())))
	require.True(t, magic.IsAddr(c.RemoteMultiaddr()))
	var mc *magic.Conn
	require.True(t, c.As(&mc))
	require.True(t, mc.Outbound())
	var qc *quic.Conn
	require.True(t, c.As(&qc))
	require.False(t, c.As(new(string)))

	// PATH-1: nothing that is advertised names it.
	for _, addr := range append(a.Addrs(), b.Peerstore().Addrs(a.ID())...) {
		if magic.IsAddr(addr) {
			require.Equal(t, []ma.Multiaddr{magic.Addr}, b.Peerstore().Addrs(a.ID()), "put there by the caller")
		}
	}
}

// Reset codes reach the other side as libp2p's own do.
func TestResetCodesSurvive(t *testing.T) {
	h := newHub(t)
	a, _ := h.newHost(t)
	b, _ := h.newHost(t)
	a.SetStreamHandler("/reset", func(s network.Stream) { _ = s.ResetWithError(41003) })
	b.Peerstore().AddAddr(a.ID(), magic.Addr, peerstore.TempAddrTTL)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := b.NewStream(ctx, a.ID(), "/reset")
	require.NoError(t, err)
	_, err = io.ReadAll(s)
	var se *network.StreamError
	require.ErrorAs(t, err, &se)
	require.EqualValues(t, 41003, se.ErrorCode)
	require.True(t, se.Remote)

	closed := make(chan error, 1)
	a.SetStreamHandler("/close", func(s network.Stream) { closed <- s.Conn().CloseWithError(4242) })
	if s, err = b.NewStream(ctx, a.ID(), "/close"); err == nil { // the negotiation may see it first
		_, err = io.ReadAll(s)
	}
	require.NoError(t, <-closed)
	var ce *network.ConnError
	require.ErrorAs(t, err, &ce)
	require.EqualValues(t, 4242, ce.ErrorCode)
}

// A peer nobody knows is unreachable, soon; one that is not ed25519 at once.
func TestUnreachable(t *testing.T) {
	h := newHub(t)
	_, tr := h.newHost(t)
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	require.NoError(t, err)
	nobody, err := peer.IDFromPublicKey(pub)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = tr.Dial(ctx, magic.Addr, nobody)
	require.ErrorIs(t, err, magic.ErrUnreachable)

	_, pub, err = crypto.GenerateECDSAKeyPair(rand.Reader)
	require.NoError(t, err)
	other, err := peer.IDFromPublicKey(pub)
	require.NoError(t, err)
	_, err = tr.Dial(ctx, magic.Addr, other)
	require.Error(t, err)
}

// PATH-3: the hidden host of AutoNAT's dial-back gets a transport that does
// nothing.
func TestPATH3OtherKeysAreInert(t *testing.T) {
	h := newHub(t)
	_, tr := h.newHost(t)
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	require.NoError(t, err)
	inert, err := tr.Constructor(key, nil, nil)
	require.NoError(t, err)
	require.False(t, inert.CanDial(magic.Addr))
	_, err = inert.Dial(t.Context(), magic.Addr, "")
	require.Error(t, err)
	_, err = inert.Listen(magic.Addr)
	require.Error(t, err)
}

// gate refuses one side's secured connections.
type gate struct{ connmgr.ConnectionGater }

func (gate) InterceptPeerDial(peer.ID) bool               { return true }
func (gate) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }
func (gate) InterceptAccept(network.ConnMultiaddrs) bool  { return true }
func (gate) InterceptSecured(d network.Direction, _ peer.ID, _ network.ConnMultiaddrs) bool {
	return d == network.DirOutbound
}

func (gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// PATH-2: the gater is asked as the stock transport asks it.
func TestPATH2GaterRefuses(t *testing.T) {
	h := newHub(t)
	a, _ := h.newHost(t, libp2p.ConnectionGater(gate{}))
	b, _ := h.newHost(t)
	b.Peerstore().AddAddr(a.ID(), magic.Addr, peerstore.TempAddrTTL)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.Connect(ctx, peer.AddrInfo{ID: a.ID()}); err == nil {
		require.Eventually(t, func() bool { return len(b.Network().ConnsToPeer(a.ID())) == 0 }, 5*time.Second, time.Millisecond)
	}
	require.Empty(t, a.Network().Peers())
}

// The address, and keys and peer IDs, both ways.
func TestAddr(t *testing.T) {
	a, err := ma.NewMultiaddr("/alknet")
	require.NoError(t, err)
	require.True(t, magic.IsAddr(a))
	back, err := ma.NewMultiaddrBytes(a.Bytes())
	require.NoError(t, err)
	require.True(t, back.Equal(magic.Addr))
	require.False(t, magic.IsAddr(ma.StringCast("/ip4/1.2.3.4/tcp/1")))
	require.False(t, magic.IsAddr(nil))
	tcp := ma.StringCast("/ip4/1.2.3.4/tcp/1")
	require.Equal(t, []ma.Multiaddr{tcp}, magic.Strip([]ma.Multiaddr{magic.Addr, tcp}))

	// The vectors of SPEC.md.
	require.Equal(t, "8eb8e801", hex.EncodeToString(magic.Addr.Bytes()))
	raw, err := hex.DecodeString("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	require.NoError(t, err)
	require.Equal(t, "[fd21:fe31:dfa1:54a2:6162:6bf8:5404:6fd2]:4242", socket.VirtualAddr(relay.Key(raw)).String())

	pub, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	p, err := magic.PeerID(relay.Key(pub))
	require.NoError(t, err)
	k, err := magic.KeyOf(p)
	require.NoError(t, err)
	require.Equal(t, relay.Key(pub), k)
}

// New refuses what cannot work.
func TestNewChecks(t *testing.T) {
	_, err := magic.New(magic.Config{})
	require.Error(t, err)
	_, err = socket.New(socket.Config{})
	require.Error(t, err)
	require.NotErrorIs(t, err, magic.ErrUnreachable)
}
