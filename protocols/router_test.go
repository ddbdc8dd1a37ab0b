package protocols_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	alpnA = "test/a"
	alpnB = "test/b"
)

// overTransports runs a test between two hosts over each transport.
func overTransports(t *testing.T, test func(t *testing.T, a, b *testHost)) {
	for name := range transports {
		t.Run(name, func(t *testing.T) {
			a, b := newHost(t, name), newHost(t, name)
			a.know(b)
			b.know(a)
			test(t, a, b)
		})
	}
}

// recorder is a handler that passes on every session it is given and serves
// it by echoing.
type recorder struct {
	protocols.ProtocolHandler
	sessions chan recorded
}

type recorded struct {
	conn protocols.Connection
	peer auth.Context
}

func record(h protocols.ProtocolHandler) recorder { return recorder{h, make(chan recorded, 256)} }

func (r recorder) Handle(ctx context.Context, conn protocols.Connection, peer auth.Context) error {
	r.sessions <- recorded{conn, peer}
	return r.ProtocolHandler.Handle(ctx, conn, peer)
}

func peersOf(t *testing.T, entries ...auth.PeerEntry) *auth.Peers {
	t.Helper()
	p, err := auth.NewPeers(&auth.Config{Auth: auth.Policy{Peers: entries}})
	require.NoError(t, err)
	return p
}

// NODE-42 to 45: a dialled session carries streams both ways, the same
// handler serves it on both sides, and asking again gives the same session.
func TestNODE45SessionBothWays(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		serverA, serverB := record(echo(alpnA)), record(echo(alpnA))
		ra, rb := newRouter(t, a, nil, serverA), newRouter(t, b, nil, serverB)

		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, alpnA, conn.ALPN())
		require.Equal(t, conn, receive(t, serverA.sessions).conn)
		require.Empty(t, rb.Sessions(), "opening a session opens no stream")

		require.Equal(t, "forth", roundTrip(t, conn, "forth"))
		back := receive(t, serverB.sessions)
		require.Equal(t, "back", roundTrip(t, back.conn, "back"))
		require.NotEmpty(t, conn.RemoteAddr())

		again, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Same(t, conn, again)
		fromB, err := rb.Open(t.Context(), a.ID(), alpnA, "")
		require.NoError(t, err)
		require.Same(t, back.conn, fromB)

		list := ra.Sessions()
		require.Len(t, list, 1)
		require.Equal(t, conn.ID(), list[0].ID)
		require.Equal(t, b.ID(), list[0].Peer)
		require.Equal(t, alpnA, list[0].ALPN)
	})
}

// NODE-65: both sides open at once, a hundred times: one session on each side
// and no stream lost.
func TestNODE65SimultaneousOpen(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		serverA, serverB := record(echo(alpnA)), record(echo(alpnA))
		ra, rb := newRouter(t, a, nil, serverA), newRouter(t, b, nil, serverB)
		for range 100 {
			var both sync.WaitGroup
			start := make(chan struct{})
			conns := make([]protocols.Connection, 2)
			for i, side := range []struct {
				router *protocols.Router
				peer   peer.ID
			}{{ra, b.ID()}, {rb, a.ID()}} {
				both.Go(func() {
					<-start
					conn, err := side.router.Open(t.Context(), side.peer, alpnA, "")
					if err != nil {
						t.Error(err)
						return
					}
					conns[i] = conn
					if got, err := tryRoundTrip(t.Context(), conn, "hello"); got != "hello" {
						t.Errorf("echo of %q, %v", got, err)
					}
				})
			}
			close(start)
			both.Wait()
			require.False(t, t.Failed())
			require.Same(t, conns[0], receive(t, serverA.sessions).conn)
			require.Same(t, conns[1], receive(t, serverB.sessions).conn)
			require.Len(t, ra.Sessions(), 1)
			require.Len(t, rb.Sessions(), 1)
			for _, c := range conns {
				require.NoError(t, c.Close(0, "next round"))
			}
			require.Empty(t, serverA.sessions)
			require.Empty(t, serverB.sessions)
		}
	})
}

// NODE-47: closing one session resets its streams with the code and leaves
// another protocol on the same connection alone.
func TestNODE47CloseLeavesOtherProtocols(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		serverB := record(echo(alpnA))
		ra := newRouter(t, a, nil, echo(alpnA), echo(alpnB))
		newRouter(t, b, nil, serverB, echo(alpnB))
		one, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		other, err := ra.Open(t.Context(), b.ID(), alpnB, "")
		require.NoError(t, err)
		require.Equal(t, "x", roundTrip(t, one, "x"))
		require.Equal(t, "x", roundTrip(t, other, "x"))

		far := receive(t, serverB.sessions).conn
		st, err := far.OpenStream(t.Context())
		require.NoError(t, err)
		_, err = st.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(st, make([]byte, 1))
		require.NoError(t, err)

		require.NoError(t, one.Close(protocols.CodeUnauthorised, "test"))
		over(t, one)
		_, err = st.Read(make([]byte, 1))
		var reset *protocols.StreamResetError
		require.ErrorAs(t, err, &reset)
		require.Equal(t, protocols.StreamResetError{Code: protocols.CodeUnauthorised, Remote: true}, *reset)
		require.ErrorIs(t, err, protocols.ErrStreamClosed)
		require.ErrorIs(t, err, network.ErrReset)

		_, err = one.OpenStream(t.Context())
		require.ErrorIs(t, err, protocols.ErrConnectionClosed)
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = one.AcceptStream(t.Context())
		require.ErrorIs(t, err, protocols.ErrConnectionClosed)

		require.Equal(t, "y", roundTrip(t, other, "y"))
		fresh, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.NotEqual(t, one.ID(), fresh.ID())
		require.Equal(t, "y", roundTrip(t, fresh, "y"))
	})
}

// NODE-46: the sessions of a peer end with its last connection, on both sides.
func TestNODE46PeerDisconnected(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		serverB := record(echo(alpnA))
		ra, rb := newRouter(t, a, nil, echo(alpnA)), newRouter(t, b, nil, serverB)
		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, "x", roundTrip(t, conn, "x"))
		far := receive(t, serverB.sessions).conn
		require.True(t, b.protects(a.ID()), "a peer with a session is protected (PATH-5)")

		require.NoError(t, a.Network().ClosePeer(b.ID()))
		over(t, conn)
		over(t, far)
		require.Eventually(t, func() bool {
			return len(ra.Sessions())+len(rb.Sessions()) == 0 && !b.protects(a.ID())
		}, 10*time.Second, time.Millisecond)

		fresh, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		require.Equal(t, "y", roundTrip(t, fresh, "y"))
	})
}

// NODE-48: the refusal of a protocol shows on the first read.
func TestNODE48ProtocolNotSupported(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		ra := newRouter(t, a, nil, idle(alpnA))
		newRouter(t, b, nil)
		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		st, err := conn.OpenStream(t.Context())
		require.NoError(t, err)
		_, err = st.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = st.Read(make([]byte, 1))
		require.ErrorIs(t, err, protocols.ErrProtocolNotSupported)
		require.NoError(t, st.Close())
		select {
		case <-conn.Done():
			t.Fatal("a refused stream ended the session")
		default:
		}
	})
}

// NODE-20, 30, 65: both sides resolve the other; who is not known gets a UUID.
func TestNODE30KnownAndUnknownPeers(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		serverA, serverB := record(echo(alpnA)), record(echo(alpnA))
		known := peersOf(t, auth.PeerEntry{PeerName: "worker-b", Fingerprints: []string{b.fingerprint(t)}, Scopes: []string{"x"}, Enabled: true})
		ra := newRouter(t, a, known, serverA)
		newRouter(t, b, peersOf(t), serverB)

		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "worker-b")
		require.NoError(t, err)
		require.Equal(t, "x", roundTrip(t, conn, "x"))

		atA := receive(t, serverA.sessions)
		require.Equal(t, auth.PeerName("worker-b"), atA.peer.PeerName)
		require.Equal(t, "worker-b", atA.peer.Identity.ID)
		require.Equal(t, []string{"x"}, atA.peer.Identity.Scopes)
		require.Equal(t, b.fingerprint(t), atA.peer.Fingerprint)
		require.Equal(t, alpnA, atA.peer.ALPN)
		require.NotEmpty(t, atA.peer.RemoteAddr)
		id, ok := atA.conn.Identity()
		require.True(t, ok)
		require.Equal(t, "worker-b", id.ID)
		require.ErrorIs(t, atA.conn.SetIdentity(auth.Identity{}), protocols.ErrIdentityAlreadySet)
		require.Equal(t, auth.PeerName("worker-b"), ra.Sessions()[0].PeerName)

		atB := receive(t, serverB.sessions)
		require.Nil(t, atB.peer.Identity)
		require.NoError(t, uuid.Validate(string(atB.peer.PeerName)))
		require.Equal(t, a.fingerprint(t), atB.peer.Fingerprint)
		_, ok = atB.conn.Identity()
		require.False(t, ok)
	})
}

// NODE-52: a key that is not the named peer's is refused, and gets no session.
func TestNODE52WrongPeer(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		known := peersOf(t, auth.PeerEntry{PeerName: "worker-b", Fingerprints: []string{b.fingerprint(t)}, Enabled: true})
		ra := newRouter(t, a, known, idle(alpnA))
		_, err := ra.Open(t.Context(), b.ID(), alpnA, "worker-c")
		require.ErrorIs(t, err, protocols.ErrWrongPeer)
		require.Empty(t, ra.Sessions())

		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "worker-b")
		require.NoError(t, err)
		_, err = ra.Open(t.Context(), b.ID(), alpnA, "worker-c")
		require.ErrorIs(t, err, protocols.ErrWrongPeer)
		require.Len(t, ra.Sessions(), 1)
		require.NoError(t, conn.Close(0, "done"))
	})
}

// NODE-26, 28: after a reload a session stays if its peer is who it was, by
// whichever key, and ends with 41004 otherwise.
func TestNODE28Recheck(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		entry := auth.PeerEntry{PeerName: "worker-a", Fingerprints: []string{a.fingerprint(t)}, Scopes: []string{"x", "y"}, Enabled: true}
		peers := peersOf(t, entry)
		serverB := record(echo(alpnA))
		ra, rb := newRouter(t, a, nil, echo(alpnA)), newRouter(t, b, peers, serverB)
		reload := func(change func(*auth.PeerEntry)) {
			e := entry.Clone()
			change(&e)
			require.NoError(t, peers.Reload(&auth.Config{Auth: auth.Policy{Peers: []auth.PeerEntry{e}}}))
			rb.Recheck()
		}
		reach := func() recorded {
			conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
			require.NoError(t, err)
			require.Equal(t, "x", roundTrip(t, conn, "x"))
			return receive(t, serverB.sessions)
		}

		s := reach()
		reload(func(e *auth.PeerEntry) {
			e.Fingerprints = append([]string{"ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"}, e.Fingerprints...)
			e.Scopes = []string{"y", "x"}
		})
		require.Equal(t, "still", roundTrip(t, s.conn, "still"))
		require.Len(t, rb.Sessions(), 1)

		for _, change := range []func(*auth.PeerEntry){
			func(e *auth.PeerEntry) { e.Scopes = []string{"x"} },
			func(e *auth.PeerEntry) { e.Enabled = false },
			func(e *auth.PeerEntry) {},
			func(e *auth.PeerEntry) { e.PeerName = "worker-z" },
		} {
			// An open stream of the peer's shows the code.
			near, err := ra.Open(t.Context(), b.ID(), alpnA, "")
			require.NoError(t, err)
			st, err := near.OpenStream(t.Context())
			require.NoError(t, err)
			_, err = st.Write([]byte("x"))
			require.NoError(t, err)
			_, err = io.ReadFull(st, make([]byte, 1))
			require.NoError(t, err)

			reload(change)
			over(t, s.conn)
			_, err = st.Read(make([]byte, 1))
			var reset *protocols.StreamResetError
			require.ErrorAs(t, err, &reset)
			require.Equal(t, protocols.CodeUnauthorised, reset.Code)
			s = reach()
		}
		require.Equal(t, auth.PeerName("worker-z"), s.peer.PeerName)
	})
}

// NODE-44: streams beyond the accept queue are reset with 41002.
func TestNODE44AcceptQueueFull(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		ra := newRouter(t, a, nil, idle(alpnA))
		newRouterWith(t, protocols.RouterConfig{Host: b, AcceptQueue: 2}, idle(alpnA))
		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		codes := make(chan uint32, 3)
		for range 3 {
			st, err := conn.OpenStream(t.Context())
			require.NoError(t, err)
			_, err = st.Write([]byte("x"))
			require.NoError(t, err)
			go func() {
				var reset *protocols.StreamResetError
				if _, err := st.Read(make([]byte, 1)); errors.As(err, &reset) {
					codes <- reset.Code
				}
			}()
		}
		require.Equal(t, protocols.CodeOverloaded, receive(t, codes))
		require.Empty(t, codes)
		require.NoError(t, conn.Close(0, "done"))
	})
}

// NODE-8, 9: what a handler returns, and a panic, decide how its session ends
// and touch nothing else.
func TestNODE8HandlerResults(t *testing.T) {
	for name, c := range map[string]struct {
		result func() error
		code   uint32
		logged string
	}{
		"nil":          {func() error { return nil }, 0, ""},
		"closed":       {func() error { return protocols.ErrConnectionClosed }, 0, ""},
		"auth":         {func() error { return protocols.ErrAuthRequired }, protocols.CodeUnauthorised, ""},
		"stream error": {func() error { return protocols.ErrStreamTimeout }, protocols.CodeHandlerError, "handler failed"},
		"other":        {func() error { return errors.New("broken") }, protocols.CodeHandlerError, "broken"},
		"panic":        {func() error { panic("oh dear") }, protocols.CodeHandlerError, "oh dear"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newHost(t, "quic"), newHost(t, "quic")
			a.know(b)
			var log syncBuffer
			ra := newRouter(t, a, nil, idle(alpnA), echo(alpnB))
			rb := newRouterWith(t, protocols.RouterConfig{Host: b, Logger: slog.New(slog.NewTextHandler(&log, nil))},
				echo(alpnB),
				handlerFunc{alpnA, func(ctx context.Context, conn protocols.Connection, _ auth.Context) error {
					if _, err := conn.AcceptStream(ctx); err != nil {
						return err
					}
					return c.result()
				}})
			other, err := ra.Open(t.Context(), b.ID(), alpnB, "")
			require.NoError(t, err)
			require.Equal(t, "x", roundTrip(t, other, "x"))

			conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
			require.NoError(t, err)
			st, err := conn.OpenStream(t.Context())
			require.NoError(t, err)
			_, err = st.Write([]byte("x"))
			require.NoError(t, err)
			_, err = st.Read(make([]byte, 1))
			var reset *protocols.StreamResetError
			require.ErrorAs(t, err, &reset)
			require.Equal(t, protocols.StreamResetError{Code: c.code, Remote: true}, *reset)

			require.Equal(t, "y", roundTrip(t, other, "y"))
			require.Eventually(t, func() bool { return len(rb.Sessions()) == 1 }, 10*time.Second, time.Millisecond)
			require.Contains(t, log.String(), c.logged)
			if name == "panic" {
				require.Contains(t, log.String(), "router_test.go", "the stack is logged")
			}
		})
	}
}

// A handler that answers, closes its stream and returns has been heard.
func TestNODE64ReturnAfterCloseDelivers(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		ra := newRouter(t, a, nil, idle(alpnA))
		newRouter(t, b, nil, handlerFunc{alpnA, func(ctx context.Context, conn protocols.Connection, _ auth.Context) error {
			s, err := conn.AcceptStream(ctx)
			if err != nil {
				return err
			}
			if _, err := s.Write(bytes.Repeat([]byte("x"), 100_000)); err != nil {
				return err
			}
			return s.Close()
		}})
		for range 20 {
			conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
			require.NoError(t, err)
			s, err := conn.OpenStream(t.Context())
			require.NoError(t, err)
			_, err = s.Write([]byte("x"))
			require.NoError(t, err)
			got, err := io.ReadAll(s)
			require.NoError(t, err)
			require.Len(t, got, 100_000)
			require.NoError(t, s.Close())
		}
	})
}

// A stream that crosses with the end of a session is the next session's: with
// a handler that serves one stream at a time, none of many is lost.
func TestNODE46StreamsCrossingTheEnd(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		ra := newRouter(t, a, nil, idle(alpnA))
		newRouter(t, b, nil, handlerFunc{alpnA, func(ctx context.Context, conn protocols.Connection, _ auth.Context) error {
			s, err := conn.AcceptStream(ctx)
			if err != nil {
				return err
			}
			if _, err := io.Copy(s, s); err != nil {
				return err
			}
			return s.Close()
		}})
		conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
		require.NoError(t, err)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 10 {
					if got, err := tryRoundTrip(t.Context(), conn, "hello"); got != "hello" {
						t.Errorf("echo of %q, %v", got, err)
					}
				}
			})
		}
		all.Wait()
	})
}

// NODE-14: what finishes within the drain finishes; what does not is cut when
// it is over, and sees its ctx end.
func TestNODE14Shutdown(t *testing.T) {
	overTransports(t, func(t *testing.T, a, b *testHost) {
		const drain = 500 * time.Millisecond
		ra := newRouter(t, a, nil, idle(alpnA), idle(alpnB))
		drained, cancelled := make(chan struct{}), make(chan time.Time, 1)
		rb := newRouterWith(t, protocols.RouterConfig{Host: b, DrainTimeout: drain},
			// The short one: finishes its answer when the drain begins.
			handlerFunc{alpnA, func(ctx context.Context, conn protocols.Connection, _ auth.Context) error {
				s, err := conn.AcceptStream(ctx)
				if err != nil {
					return err
				}
				<-protocols.Draining(ctx)
				close(drained)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if _, err := s.Write([]byte("done")); err != nil {
					return err
				}
				return s.Close()
			}},
			// The long one: goes on until it is made to stop.
			handlerFunc{alpnB, func(ctx context.Context, conn protocols.Connection, _ auth.Context) error {
				<-ctx.Done()
				cancelled <- time.Now()
				return ctx.Err()
			}})
		open := func(alpn string) protocols.Stream {
			conn, err := ra.Open(t.Context(), b.ID(), alpn, "")
			require.NoError(t, err)
			s, err := conn.OpenStream(t.Context())
			require.NoError(t, err)
			_, err = s.Write([]byte("x"))
			require.NoError(t, err)
			return s
		}
		short, long := open(alpnA), open(alpnB)
		require.Eventually(t, func() bool { return len(rb.Sessions()) == 2 }, 10*time.Second, time.Millisecond)

		begin := time.Now()
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- rb.Shutdown(context.WithoutCancel(t.Context())) }()
		}
		receive(t, drained)
		answer, err := io.ReadAll(short)
		require.NoError(t, err)
		require.Equal(t, "done", string(answer))
		require.NoError(t, short.Close())

		// No new session meanwhile.
		_, err = rb.Open(t.Context(), a.ID(), alpnA, "")
		require.ErrorIs(t, err, net.ErrClosed)

		_, err = long.Read(make([]byte, 1))
		var reset *protocols.StreamResetError
		require.ErrorAs(t, err, &reset)
		require.Equal(t, protocols.CodeShutdown, reset.Code)
		require.GreaterOrEqual(t, receive(t, cancelled).Sub(begin), drain)
		require.NoError(t, receive(t, done))
		require.NoError(t, receive(t, done))
		require.Empty(t, rb.Sessions())
		require.NoError(t, rb.Shutdown(t.Context()))
	})
}

// While it drains a node refuses new sessions with 41003 and still takes
// streams of open ones, so that their handlers can answer (NODE-63).
func TestNODE14DrainingRefusesSessionsNotStreams(t *testing.T) {
	a, b := newHost(t, "quic"), newHost(t, "quic")
	a.know(b)
	ra := newRouter(t, a, nil, idle(alpnA), idle(alpnB))
	rb := newRouterWith(t, protocols.RouterConfig{Host: b, DrainTimeout: time.Minute}, echo(alpnA), echo(alpnB))
	conn, err := ra.Open(t.Context(), b.ID(), alpnA, "")
	require.NoError(t, err)
	require.Equal(t, "x", roundTrip(t, conn, "x"))

	done := make(chan error, 1)
	go func() { done <- rb.Shutdown(context.WithoutCancel(t.Context())) }()
	refused, err := ra.Open(t.Context(), b.ID(), alpnB, "")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s, err := refused.OpenStream(t.Context())
		require.NoError(t, err)
		_, _ = s.Write([]byte("x"))
		_, err = s.Read(make([]byte, 1))
		var reset *protocols.StreamResetError
		return errors.As(err, &reset) && reset.Code == protocols.CodeShutdown
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, "y", roundTrip(t, conn, "y"))
	require.NoError(t, a.Network().ClosePeer(b.ID()))
	require.NoError(t, receive(t, done), "with the last session the drain is over")
}

// A handler that does not heed its ctx is not waited for beyond Shutdown's.
func TestShutdownGivesUpWithItsContext(t *testing.T) {
	h := newHost(t, "quic")
	release := make(chan struct{})
	config := protocols.RouterConfig{Host: h, Registry: new(protocols.HandlerRegistry), DrainTimeout: time.Millisecond}
	require.NoError(t, config.Registry.Register(handlerFunc{alpnA, func(context.Context, protocols.Connection, auth.Context) error {
		<-release
		return nil
	}}))
	r, err := protocols.New(config)
	require.NoError(t, err)
	require.NoError(t, r.Start())
	near, far := protocols.Pipe(alpnA)
	require.NoError(t, r.Dispatch(near, ""))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-near.Done()
		cancel()
	}()
	require.ErrorIs(t, r.Shutdown(ctx), context.Canceled)
	over(t, far)
	close(release)
	require.NoError(t, r.Shutdown(t.Context()))
}

// NODE-12: sessions that did not come through the host share the registry.
func TestNODE12Dispatch(t *testing.T) {
	h := newHost(t, "quic")
	const fingerprint = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
	server := record(echo(alpnA))
	r := newRouter(t, h, peersOf(t, auth.PeerEntry{PeerName: "worker-a", Fingerprints: []string{fingerprint}, Enabled: true}), server)

	near, far := protocols.Pipe(alpnA)
	require.NoError(t, r.Dispatch(near, fingerprint))
	got := receive(t, server.sessions)
	require.Equal(t, auth.PeerName("worker-a"), got.peer.PeerName)
	require.Equal(t, "x", roundTrip(t, far, "x"))
	require.Len(t, r.Sessions(), 1)
	require.NoError(t, far.Close(0, "done"))
	over(t, near)
	require.Eventually(t, func() bool { return len(r.Sessions()) == 0 }, 10*time.Second, time.Millisecond)

	client, conn := net.Pipe()
	require.NoError(t, r.Dispatch(protocols.ConnectionFromStream(conn, alpnA, "pipe"), ""))
	require.NoError(t, uuid.Validate(string(receive(t, server.sessions).peer.PeerName)))
	go func() { _, _ = client.Write([]byte("hello")) }()
	buf := make([]byte, 5)
	_, err := io.ReadFull(client, buf)
	require.NoError(t, err)
	require.Equal(t, "hello", string(buf))
	require.NoError(t, client.Close())

	near, far = protocols.Pipe("test/unknown")
	require.ErrorIs(t, r.Dispatch(near, ""), protocols.ErrNoHandler)
	over(t, far)
}

func TestOpenWithoutHandlerOrPeer(t *testing.T) {
	h := newHost(t, "quic")
	r := newRouter(t, h, nil, idle(alpnA))
	_, err := r.Open(t.Context(), newHost(t, "quic").ID(), alpnB, "")
	require.ErrorIs(t, err, protocols.ErrNoHandler)
	_, err = r.Open(t.Context(), newHost(t, "quic").ID(), alpnA, "")
	require.ErrorContains(t, err, "connect to")
	require.Empty(t, r.Sessions())
}

func TestNewRefusesIncompleteConfig(t *testing.T) {
	h := newHost(t, "quic")
	for _, c := range []protocols.RouterConfig{
		{Registry: new(protocols.HandlerRegistry)},
		{Host: h},
		{Host: h, Registry: new(protocols.HandlerRegistry), AcceptQueue: -1},
		{Host: h, Registry: new(protocols.HandlerRegistry), DrainTimeout: -1},
	} {
		_, err := protocols.New(c)
		require.Error(t, err)
	}
	r, err := protocols.New(protocols.RouterConfig{Host: h, Registry: new(protocols.HandlerRegistry)})
	require.NoError(t, err)
	near, _ := protocols.Pipe(alpnA)
	require.ErrorIs(t, r.Dispatch(near, ""), protocols.ErrNoHandler)
	require.NoError(t, r.Shutdown(t.Context()))
	require.Error(t, r.Start())
}

// lossyHost loses the peer while a session to it is being made.
type lossyHost struct {
	*testHost
	changed  func(peer.ID, bool)
	connects atomic.Int32
}

func (h *lossyHost) WatchPeers(changed func(peer.ID, bool)) func() {
	h.changed = changed
	return h.testHost.WatchPeers(changed)
}

func (h *lossyHost) Connect(ctx context.Context, p peer.ID) error {
	if err := h.testHost.Connect(ctx, p); err != nil {
		return err
	}
	if h.connects.Add(1) == 1 {
		h.changed(p, false)
	}
	return nil
}

// NODE-46: a disconnect that falls between connecting and the session's
// beginning does not leave a session that nobody ends.
func TestNODE46LostWhileOpening(t *testing.T) {
	a, b := &lossyHost{testHost: newHost(t, "quic")}, newHost(t, "quic")
	a.know(b)
	r := newRouter(t, a, nil, idle(alpnA))
	conn, err := r.Open(t.Context(), b.ID(), alpnA, "")
	require.NoError(t, err)
	require.Equal(t, int32(2), a.connects.Load())
	require.NoError(t, conn.Close(0, "done"))
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
