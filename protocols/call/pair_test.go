package call_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// known is the identity that tests give to a recognised peer.
func known(scopes ...string) auth.Context {
	return auth.Context{
		Identity: &auth.Identity{ID: "peer", Scopes: scopes, Resources: map[string][]string{}},
		PeerName: "peer", ALPN: call.ALPN,
	}
}

// anonymous is a peer without identity.
func anonymous() auth.Context { return auth.Context{PeerName: "5f1c", ALPN: call.ALPN} }

// side runs a Protocol on one end of a connection until the test ends.
type side struct {
	conn   protocols.Connection
	proto  *call.Protocol
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Handle, once done is closed
}

// serve runs proto's Handle on conn.
func serve(t testing.TB, conn protocols.Connection, proto *call.Protocol, peer auth.Context) *side {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &side{conn: conn, proto: proto, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = proto.Handle(ctx, conn, peer)
		_ = conn.Close(0, "handled")
	}()
	t.Cleanup(func() { s.stop() })
	return s
}

// stop ends the side and waits for it.
func (s *side) stop() {
	s.cancel()
	<-s.done
}

func (s *side) session(t testing.TB) *call.Session {
	t.Helper()
	session, err := s.proto.Session(t.Context(), s.conn)
	require.NoError(t, err)
	return session
}

// pair connects a caller to a node that serves ops, and returns the caller's
// session. Each knows the other as peer.
func pair(t testing.TB, peer auth.Context, ops ...call.Operation) *call.Session {
	t.Helper()
	server := call.New(call.Config{Provider: tokens{}})
	require.NoError(t, server.Register(ops...))
	server.Freeze()
	return connect(t, server, peer)
}

func connect(t testing.TB, server *call.Protocol, peer auth.Context) *call.Session {
	t.Helper()
	a, b := protocols.Pipe(call.ALPN)
	client := serve(t, a, call.New(call.Config{}), peer)
	serve(t, b, server, peer)
	return client.session(t)
}

// tokens is a Provider that knows the token "alk_good".
type tokens struct{}

func (tokens) ResolveFromFingerprint(string) (auth.Identity, bool) { return auth.Identity{}, false }

func (tokens) ResolveFromToken(t auth.Token) (auth.Identity, bool) {
	if t.Reveal() != "alk_good" {
		return auth.Identity{}, false
	}
	return auth.Identity{ID: "alk_good", Scopes: []string{"admin"}, Resources: map[string][]string{}}, true
}

// query is an operation with a function as its handler.
func query(name string, f call.HandlerFunc) call.Operation {
	return call.Operation{Spec: call.Spec{Name: name}, Handler: f}
}

// stream is a subscription with a function as its handler.
func stream(name string, f call.StreamHandlerFunc) call.Operation {
	return call.Operation{Spec: call.Spec{Name: name, Type: call.OpSubscription}, Stream: f}
}
