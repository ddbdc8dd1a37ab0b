package protocols_test

import (
	"crypto/ed25519"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
)

// refusedAs is the code by which the peer resets a stream of conn.
func refusedAs(t *testing.T, conn protocols.Connection) uint32 {
	t.Helper()
	_, err := tryRoundTrip(t.Context(), conn, "x")
	var reset *protocols.StreamResetError
	require.ErrorAs(t, err, &reset)
	require.True(t, reset.Remote)
	return reset.Code
}

// newHostLike makes a host with the transport of another.
func newHostLike(t *testing.T, h *testHost) *testHost {
	t.Helper()
	if strings.Contains(h.Addrs()[0].String(), "quic") {
		return newHost(t, "quic")
	}
	return newHost(t, "tcp-noise")
}

// NODE-54: where strangers are not admitted their streams are refused before
// any handler runs; peers in the registry are served, and protocols may differ.
func TestNODE54Admission(t *testing.T) {
	for _, mode := range []auth.Admit{auth.AdmitKnown, auth.AdmitClosed} {
		overTransports(t, func(t *testing.T, a, b *testHost) {
			known := newHostLike(t, b)
			known.know(b)
			b.know(known)
			peers, err := auth.NewPeers(&auth.Config{
				Auth:      auth.Policy{Peers: []auth.PeerEntry{{PeerName: "known", Fingerprints: []string{known.fingerprint(t)}, Enabled: true}}},
				Admission: auth.Admission{Default: mode, ALPNs: map[string]auth.Admit{alpnB: auth.AdmitOpen}},
			})
			require.NoError(t, err)
			serverA, serverB := record(echo(alpnA)), record(echo(alpnB))
			rb := newRouterWith(t, protocols.RouterConfig{Host: b, Provider: peers, Admission: peers.Admits}, serverA, serverB)
			ra, rk := newRouter(t, a, nil, echo(alpnA), echo(alpnB)), newRouter(t, known, nil, echo(alpnA))

			conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
			require.NoError(t, err)
			require.Equal(t, protocols.CodeUnauthorised, refusedAs(t, conn))
			require.Empty(t, rb.Sessions())

			conn, err = ra.Open(t.Context(), b.ID(), alpnB, "")
			require.NoError(t, err)
			require.Equal(t, "x", roundTrip(t, conn, "x"))
			s := receive(t, serverB.sessions)
			require.Nil(t, s.peer.Identity)
			require.Nil(t, s.peer.Guest)
			require.Nil(t, s.peer.Caller())

			conn, err = rk.Open(t.Context(), b.ID(), alpnA, "")
			require.NoError(t, err)
			require.Equal(t, "x", roundTrip(t, conn, "x"))
			s = receive(t, serverA.sessions)
			require.Equal(t, auth.PeerName("known"), s.peer.PeerName)
			require.Nil(t, s.peer.Guest)
			require.Equal(t, s.peer.Identity, s.peer.Caller())
		})
	}
}

// A node may ask strangers whom it would not admit; in that session they may
// do nothing of themselves.
func TestStrangerThatWasAsked(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		serverA := record(echo(alpnA))
		ra := newRouterWith(t, protocols.RouterConfig{
			Host: a, Admission: func(string) auth.Admit { return auth.AdmitClosed },
		}, serverA)
		rb := newRouter(t, b, nil, echo(alpnA))
		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, "x", roundTrip(t, conn, "x"))
		s := receive(t, serverA.sessions)
		require.Nil(t, s.peer.Identity)
		require.NotNil(t, s.peer.Guest)
		require.Error(t, s.peer.Caller().May("node/echo", auth.Access{}))
		ra.Recheck()
		require.Equal(t, "y", roundTrip(t, conn, "y"))

		// Once it is over, the stranger cannot come back by itself.
		require.NoError(t, conn.Close(0, "done"))
		over(t, conn)
		back, err := rb.Open(t.Context(), a.ID(), alpnA, "")
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, err := tryRoundTrip(t.Context(), back, "x")
			return err != nil
		}, 5*time.Second, 5*time.Millisecond)
	})
}

// NODE-28, NODE-35: admission acts at once, on open sessions too; those of peers in the
// registry notice nothing.
func TestAdmissionIsLive(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		known := newHostLike(t, b)
		known.know(b)
		b.know(known)
		var mode atomic.Value
		mode.Store(auth.AdmitOpen)
		peers := peersOf(t, auth.PeerEntry{PeerName: "known", Fingerprints: []string{known.fingerprint(t)}, Enabled: true})
		server := record(echo(alpnA))
		rb := newRouterWith(t, protocols.RouterConfig{
			Host: b, Provider: peers, Admission: func(string) auth.Admit { return mode.Load().(auth.Admit) },
		}, server)
		ra, rk := newRouter(t, a, nil, echo(alpnA)), newRouter(t, known, nil, echo(alpnA))
		stranger, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, "x", roundTrip(t, stranger, "x"))
		s := receive(t, server.sessions)
		friend, err := rk.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, "x", roundTrip(t, friend, "x"))

		mode.Store(auth.AdmitKnown)
		rb.Recheck()
		over(t, s.conn)
		require.Equal(t, "still", roundTrip(t, friend, "still"))
		require.Equal(t, protocols.CodeUnauthorised, refusedAs(t, stranger))

		mode.Store(auth.AdmitOpen)
		rb.Recheck()
		require.Equal(t, "again", roundTrip(t, stranger, "again"))
		require.Equal(t, "still", roundTrip(t, friend, "still"))
	})
}

// NODE-68: a ticket lets its key in, as a guest without a name or rights of
// its own, until it is revoked.
func TestGuests(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		_, key, err := ed25519.GenerateKey(nil)
		require.NoError(t, err)
		store := new(ticket.Memory)
		keeper, err := ticket.NewKeeper(key.Public().(ed25519.PublicKey), "main", store)
		require.NoError(t, err)
		made, token, err := ticket.Sign(key, ticket.Terms{Network: "main", Only: []string{"disk/free"}, Expires: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		require.NoError(t, store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Record(made, "") }))

		server := record(echo(alpnA))
		rb := newRouterWith(t, protocols.RouterConfig{
			Host: b, Admission: func(string) auth.Admit { return auth.AdmitClosed }, Tickets: keeper,
		}, server)
		ra := newRouter(t, a, nil, echo(alpnA))
		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, protocols.CodeUnauthorised, refusedAs(t, conn))

		require.NoError(t, keeper.Redeem(t.Context(), token, a.fingerprint(t)))
		require.Equal(t, "x", roundTrip(t, conn, "x"))
		s := receive(t, server.sessions)
		require.Nil(t, s.peer.Identity, "a guest is no peer of the registry")
		require.NotNil(t, s.peer.Guest)
		require.Empty(t, s.peer.Guest.Scopes)
		require.Error(t, s.peer.Caller().May("disk/free", auth.Access{}), "without the ticket in the request")
		_, err = auth.ParsePeerName(string(s.peer.PeerName))
		require.ErrorContains(t, err, "UUID")
		rb.Recheck()
		require.Equal(t, "y", roundTrip(t, conn, "y"))

		require.NoError(t, store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Revoke(made.ID.String()) }))
		rb.Recheck()
		over(t, s.conn)
		require.Equal(t, protocols.CodeUnauthorised, refusedAs(t, conn))
	})
}

// NODE-12: a session that comes by Dispatch is admitted by the same rules.
func TestDispatchAdmits(t *testing.T) {
	a := newHost(t, "quic")
	peers := peersOf(t, auth.PeerEntry{PeerName: "known", Fingerprints: []string{a.fingerprint(t)}, Enabled: true})
	r := newRouterWith(t, protocols.RouterConfig{
		Host: a, Provider: peers, Admission: func(string) auth.Admit { return auth.AdmitKnown },
	}, idle(alpnA))
	near, far := protocols.Pipe(alpnA)
	defer near.Close(0, "done")
	require.ErrorIs(t, r.Dispatch(far, ""), protocols.ErrNotAdmitted)
	over(t, far)
	near, far = protocols.Pipe(alpnA)
	defer near.Close(0, "done")
	require.NoError(t, r.Dispatch(far, a.fingerprint(t)))
}

// NODE-16: whose the key is, is resolved before Handle starts, once; the handler
// resolves nothing.
func TestNODE16ResolvedBeforeHandle(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		peers := &counting{Provider: peersOf(t, auth.PeerEntry{PeerName: "worker-a", Fingerprints: []string{a.fingerprint(t)}, Enabled: true})}
		server := record(echo(alpnA))
		newRouter(t, b, peers, server)
		ra := newRouter(t, a, nil, echo(alpnA))
		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, "x", roundTrip(t, conn, "x"))
		require.Equal(t, "worker-a", receive(t, server.sessions).peer.Identity.ID)
		asked := peers.keys.Load()
		for range 10 {
			require.Equal(t, "x", roundTrip(t, conn, "x"))
		}
		require.Equal(t, asked, peers.keys.Load(), "not for each stream")
		require.Zero(t, peers.tokens.Load(), "tokens are the handler's affair")
	})
}

// counting counts what a Provider is asked.
type counting struct {
	auth.Provider
	keys, tokens atomic.Int32
}

func (c *counting) ResolveFromFingerprint(fp string) (auth.Identity, bool) {
	c.keys.Add(1)
	return c.Provider.ResolveFromFingerprint(fp)
}

func (c *counting) ResolveFromToken(t auth.Token) (auth.Identity, bool) {
	c.tokens.Add(1)
	return c.Provider.ResolveFromToken(t)
}

// NODE-40, NODE-53: an address says where, never who: another key at the
// address of a peer in the registry is nobody, dialled or dialling.
func TestNODE40AddressIsNoIdentity(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		friend := newHostLike(t, b)
		peers := peersOf(t, auth.PeerEntry{PeerName: "friend", Fingerprints: []string{friend.fingerprint(t)}, Enabled: true})
		server := record(echo(alpnA))
		ra := newRouter(t, a, peers, server)
		newRouter(t, b, nil, echo(alpnA))
		// a takes b's address for the friend's.
		a.Peerstore().ClearAddrs(b.ID())
		a.Peerstore().AddAddrs(friend.ID(), b.Addrs(), time.Hour)
		_, err := ra.Open(t.Context(), friend.ID(), alpnA, "friend")
		require.Error(t, err, "the key that answers is another")
		require.Empty(t, ra.Sessions())

		// Dialled by its own key it is a session without a name or rights.
		a.know(b)
		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, "x", roundTrip(t, conn, "x"))
		s := receive(t, server.sessions)
		require.Nil(t, s.peer.Identity)
		require.Nil(t, s.peer.Caller())
		_, err = ra.Open(t.Context(), b.ID(), alpnA, "friend")
		require.ErrorIs(t, err, protocols.ErrWrongPeer)
	})
}
