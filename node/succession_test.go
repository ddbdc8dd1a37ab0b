package node_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// memoryKeeper follows every proven succession in a registry in memory.
type memoryKeeper struct {
	peers *auth.Peers

	mu   sync.Mutex
	seen []*discovery.HandOver
}

func (k *memoryKeeper) edit(name auth.PeerName, change func(*auth.PeerEntry)) error {
	cfg := k.peers.Config()
	for i := range cfg.Auth.Peers {
		if cfg.Auth.Peers[i].PeerName == name {
			change(&cfg.Auth.Peers[i])
		}
	}
	return k.peers.Reload(cfg)
}

func (k *memoryKeeper) Committed(name auth.PeerName, _, next string) error {
	return k.edit(name, func(e *auth.PeerEntry) { e.Next = next })
}

func (k *memoryKeeper) HandedOver(name auth.PeerName, h *discovery.HandOver) error {
	k.mu.Lock()
	k.seen = append(k.seen, h)
	k.mu.Unlock()
	key, err := auth.FingerprintFromPeer(h.New)
	if err != nil {
		return err
	}
	return k.edit(name, func(e *auth.PeerEntry) {
		e.Fingerprints = []string{key}
		e.Next = commitment(h.Next)
	})
}

func (k *memoryKeeper) handOvers() []*discovery.HandOver {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.seen)
}

func commitment(c [32]byte) string {
	if c == [32]byte{} {
		return ""
	}
	return fmt.Sprintf("sha256:%x", c)
}

// identity is a chain of keys, as a vault derives it.
type identity []ed25519.PrivateKey

func newIdentity(t *testing.T, generations int) (id identity) {
	for range generations {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		id = append(id, key)
	}
	return id
}

func (id identity) peer(t *testing.T, generation int) peer.ID {
	t.Helper()
	key, err := crypto.UnmarshalEd25519PublicKey(id[generation].Public().(ed25519.PublicKey))
	require.NoError(t, err)
	p, err := peer.IDFromPublicKey(key)
	require.NoError(t, err)
	return p
}

func (id identity) fingerprint(t *testing.T, generation int) string {
	t.Helper()
	fp, err := auth.FingerprintFromPeer(id.peer(t, generation))
	require.NoError(t, err)
	return fp
}

// handOver is the one to a generation.
func (id identity) handOver(t *testing.T, to int) []byte {
	t.Helper()
	now := time.Now()
	h := &discovery.HandOver{Old: id.peer(t, to-1), New: id.peer(t, to), Generation: uint32(to), Issued: now, Expiry: now.Add(time.Hour)}
	if to+1 < len(id) {
		next, err := discovery.Commitment(id.peer(t, to+1))
		require.NoError(t, err)
		h.Next = next
	}
	raw, err := discovery.SealHandOver(h, id[to-1], id[to])
	require.NoError(t, err)
	return raw
}

// config makes c that of a generation of the identity.
func (id identity) config(t *testing.T, c *node.Config, generation int) {
	c.Key, c.Generation = id[generation], uint32(generation)
	if generation+1 < len(id) {
		c.NextKey = id[generation+1].Public().(ed25519.PublicKey)
	}
	for to := 1; to <= generation; to++ {
		c.HandOvers = append(c.HandOvers, id.handOver(t, to))
	}
}

// ADR 6: a peer that was away while the other's key changed twice finds it again
// by its name, because it knew what the first key was committed to.
func TestSuccessionIsFollowed(t *testing.T) {
	relay := newRelay(t)
	id := newIdentity(t, 4)
	registry := peers(t, auth.PeerEntry{PeerName: "a", Fingerprints: []string{id.fingerprint(t, 0)}, Enabled: true, Scopes: []string{"x"}})
	keeper := &memoryKeeper{peers: registry}
	b := hidden(t, relay, func(c *node.Config) { c.Peers, c.Successions = registry, keeper })
	start(t, b)

	first := start(t, hidden(t, relay, func(c *node.Config) { id.config(t, c, 0) }))
	require.NoError(t, first.Online(within(t, 10*time.Second)))
	_, err := b.Call(within(t, 10*time.Second), "a", "node/info", nil)
	require.NoError(t, err)
	wanted, err := discovery.Commitment(id.peer(t, 1))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		if e, _ := registry.ByName("a"); e.Next == commitment(wanted) {
			return true
		}
		_, err := b.Call(t.Context(), "nobody", "node/info", nil)
		require.Error(t, err)
		return false
	}, 20*time.Second, 50*time.Millisecond)
	require.NoError(t, first.Close())

	third := start(t, hidden(t, relay, func(c *node.Config) { id.config(t, c, 2) }))
	require.NoError(t, third.Online(within(t, 10*time.Second)))
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := b.Call(ctx, "a", "node/info", nil)
		return err == nil
	}, 40*time.Second, 50*time.Millisecond)
	e, _ := registry.ByName("a")
	require.Equal(t, []string{id.fingerprint(t, 2)}, e.Fingerprints)
	require.Equal(t, []string{"x"}, e.Scopes)
	require.Len(t, keeper.handOvers(), 2)
}

// ADR 6: a node with a new key shows where it comes from to the peers it knows;
// what was not committed to is refused, whoever signed it.
func TestSuccessionIsShown(t *testing.T) {
	relay := newRelay(t)
	id := newIdentity(t, 3)
	next, err := discovery.Commitment(id.peer(t, 1))
	require.NoError(t, err)
	registry := peers(t, auth.PeerEntry{
		PeerName: "a", Fingerprints: []string{id.fingerprint(t, 0)}, Next: commitment(next), Enabled: true,
	})
	keeper := &memoryKeeper{peers: registry}
	b := start(t, hidden(t, relay, func(c *node.Config) { c.Peers, c.Successions = registry, keeper }))
	knowsB := peers(t, auth.PeerEntry{PeerName: "b", Fingerprints: []string{b.Key()}, Enabled: true})

	// A thief of the first key hands over to one of its own.
	thief := identity{id[0], newIdentity(t, 1)[0]}
	bad := start(t, hidden(t, relay, func(c *node.Config) { thief.config(t, c, 1); c.Peers = knowsB }))
	_, err = bad.Call(within(t, 10*time.Second), "b", "node/info", nil)
	require.NoError(t, err)

	good := start(t, hidden(t, relay, func(c *node.Config) { id.config(t, c, 1); c.Peers = knowsB }))
	_, err = good.Call(within(t, 10*time.Second), "b", "node/info", nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		e, _ := registry.ByName("a")
		return slices.Equal(e.Fingerprints, []string{id.fingerprint(t, 1)})
	}, 10*time.Second, 10*time.Millisecond)
	require.Len(t, keeper.handOvers(), 1, "the thief's was never passed on")
}

// ADR 6: the generation strictly rises, and a hand-over that was followed once
// means nothing when it is shown again.
func TestSuccessionRefused(t *testing.T) {
	relay := newRelay(t)
	id := newIdentity(t, 3)
	registry := peers(t, auth.PeerEntry{PeerName: "a", Fingerprints: []string{id.fingerprint(t, 0)}, Enabled: true})
	keeper := &memoryKeeper{peers: registry}
	b := start(t, hidden(t, relay, func(c *node.Config) { c.Peers, c.Successions = registry, keeper }))
	knowsB := peers(t, auth.PeerEntry{PeerName: "b", Fingerprints: []string{b.Key()}, Enabled: true})

	// The first key says that it is of generation 5.
	first := start(t, hidden(t, relay, func(c *node.Config) { id.config(t, c, 0); c.Generation = 5 }))
	require.NoError(t, first.Online(within(t, 10*time.Second)))
	_, err := b.Call(within(t, 10*time.Second), "a", "node/info", nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		e, _ := registry.ByName("a")
		return e.Next != ""
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, first.Close())
	show := func(why string) {
		t.Helper()
		n := start(t, hidden(t, relay, func(c *node.Config) { id.config(t, c, 1); c.Peers = knowsB }))
		_, err := n.Call(within(t, 10*time.Second), "b", "node/info", nil)
		require.NoError(t, err)
		// It is shown when the connection is made.
		require.Never(t, func() bool { return len(keeper.handOvers()) > 0 }, 500*time.Millisecond, 10*time.Millisecond, why)
		require.NoError(t, n.Close())
	}
	show("a generation below the one that is known")

	// The same, shown by somebody to a registry that has followed it already.
	require.NoError(t, keeper.edit("a", func(e *auth.PeerEntry) {
		next, err := discovery.Commitment(id.peer(t, 2))
		require.NoError(t, err)
		e.Fingerprints, e.Next = []string{id.fingerprint(t, 1)}, commitment(next)
	}))
	show("what was followed before")
}
