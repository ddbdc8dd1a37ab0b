package node_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/admit"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// notAdmitted requires that the peer refused the session, not the operation.
func notAdmitted(t *testing.T, err error) {
	t.Helper()
	var reset *protocols.StreamResetError
	require.ErrorAs(t, err, &reset)
	require.True(t, reset.Remote)
	require.Equal(t, protocols.CodeUnauthorised, reset.Code)
}

// NODE-54, NODE-67, NODE-68: knowing the key of a node that admits no strangers, as its relay
// does, is worth nothing; a ticket is worth what it says, to the key that brought it
// first, until it is revoked.
func TestNODE54ClosedNode(t *testing.T) {
	for _, mode := range []auth.Admit{auth.AdmitKnown, auth.AdmitClosed} {
		t.Run(string(mode), func(t *testing.T) {
			relay := newRelay(t)
			friend := start(t, hidden(t, relay, nil))
			store := new(ticket.Memory)
			a := start(t, hidden(t, relay, func(c *node.Config) {
				c.Admission, c.Tickets = auth.Admission{Default: mode}, store
				c.Peers = peers(t, auth.PeerEntry{PeerName: "friend", Fingerprints: []string{friend.Key()}, Enabled: true})
			}))
			b := start(t, hidden(t, relay, nil))
			require.NoError(t, a.Online(within(t, 20*time.Second)))
			ask := func(from *node.Node, operation string, opts ...call.CallOption) error {
				_, err := from.Call(within(t, 20*time.Second), a.Key(), operation, nil, opts...)
				return err
			}

			require.NoError(t, ask(friend, "node/echo"))
			notAdmitted(t, ask(b, "node/echo"))
			notAdmitted(t, ask(relay, "node/echo"))

			made, token, err := a.IssueTicket(t.Context(), ticket.Terms{Only: []string{"node/info"}, Expires: time.Now().Add(time.Hour)}, "")
			require.NoError(t, err)
			with := call.WithToken(token)
			notAdmitted(t, ask(b, "node/info", with))
			require.NoError(t, b.Knock(within(t, 20*time.Second), a.Key(), token))
			require.NoError(t, ask(b, "node/info", with))
			require.ErrorIs(t, ask(b, "node/echo", with), call.ErrForbidden, "another operation")
			require.ErrorIs(t, ask(b, "node/info"), call.ErrForbidden, "without the ticket")

			// The relay has the ticket, from wherever.
			require.ErrorIs(t, relay.Knock(within(t, 20*time.Second), a.Key(), token), admit.ErrRefused)
			notAdmitted(t, ask(relay, "node/info", with))

			require.NoError(t, store.Update(t.Context(), func(l *ticket.Ledger) error { return l.Revoke(made.ID.String()) }))
			a.Recheck()
			began := time.Now()
			require.Eventually(t, func() bool {
				var reset *protocols.StreamResetError
				return errors.As(ask(b, "node/info", with), &reset) && reset.Code == protocols.CodeUnauthorised
			}, 10*time.Second, time.Millisecond)
			require.Less(t, time.Since(began), time.Second)
			require.ErrorIs(t, b.Knock(within(t, 20*time.Second), a.Key(), token), admit.ErrRefused)
			require.NoError(t, ask(friend, "node/echo"), "who is known notices nothing")

			// Opened again, it serves strangers at once.
			require.NoError(t, a.SetAdmission(auth.Admission{}))
			require.NoError(t, ask(relay, "node/echo"))
		})
	}
}

// Relaying and look-ups are for all keys, even where the relay is closed.
func TestClosedRelayKeepsItsDuties(t *testing.T) {
	relay := start(t, newNode(t, func(c *node.Config) {
		c.Relay, c.Admission = &node.RelayConfig{}, auth.Admission{Default: auth.AdmitClosed}
	}))
	a, b := start(t, hidden(t, relay, nil)), start(t, hidden(t, relay, nil))
	require.NoError(t, a.Online(within(t, 20*time.Second)))
	_, err := b.Call(within(t, 20*time.Second), a.Key(), "node/echo", 1)
	require.NoError(t, err, "found by key and reached through it")
	_, err = b.Call(within(t, 20*time.Second), relay.Key(), "node/echo", 1)
	notAdmitted(t, err)
}
