package call_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// asking is an operation test/do that calls, within a wide env, the operation
// "who/am" where its input says: "" by name, "*" at any peer, else at that peer.
func asking() call.Operation {
	pins := []string{}
	for _, peer := range []string{"r1", "r2", "r3", "user", strangerName} {
		pins = append(pins, peer+"/who/am")
	}
	return composing("test/do", &call.ScopedEnv{AllowedOps: []string{"who/am"}, PeerPinned: pins}, whoAt)
}

const strangerName = "1f0c6a52-3a57-4b58-8f0e-3d1d3a5f2a11"

func whoAt(ctx context.Context, r *call.Request) (any, error) {
	var at string
	if err := r.Decode(&at); err != nil {
		return nil, err
	}
	switch at {
	case "":
		return r.Env.Invoke(ctx, "who/am", nil)
	case "*":
		return r.Env.InvokePeer(ctx, call.PeerAny(), "who/am", nil)
	case "names":
		return r.Env.PeerNames(), nil
	}
	return r.Env.InvokePeer(ctx, call.PeerSpecific(auth.PeerName(at)), "who/am", nil)
}

// who asks a user's session and gives the answer, or the error.
func who(t *testing.T, user *call.Session, at string) string {
	out, err := user.Call(t.Context(), "test/do", at)
	if err != nil {
		return err.Error()
	}
	return strings.Trim(string(out), `"`)
}

const nobody = "NOT_FOUND: operation not found: who/am"

// CALL-75: a session without identity is reached by its UUID only, as long as
// it lasts.
func TestCALL75Strangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, call.Config{}, asking())
		stranger := auth.Context{PeerName: strangerName, ALPN: call.ALPN}
		l := h.runner(stranger, says("who/am", "a stranger"))
		user := h.as(named("user"))
		require.Equal(t, nobody, who(t, user, ""))
		require.Equal(t, nobody, who(t, user, "*"))
		require.Equal(t, "[]", who(t, user, "names"))
		require.Equal(t, "a stranger", who(t, user, strangerName))
		l.hub.stop()
		require.Equal(t, nobody, who(t, user, strangerName))
	})
}

// CALL-76: attach and detach carry the session; a peer keeps its place; an
// import replaces the whole set or nothing.
func TestCALL76AttachAndDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, call.Config{}, asking())
		user := h.as(named("user"))
		r1 := h.runner(named("r1"), says("who/am", "r1"))
		h.runner(named("r2"), says("who/am", "r2"))
		require.Equal(t, `["r1","r2"]`, who(t, user, "names"))
		require.Equal(t, "r1", who(t, user, "*"))

		// A new session of the same peer, before the old one has ended.
		again := h.runner(named("r1"), says("who/am", "r1 again"))
		require.Equal(t, "r1 again", who(t, user, "r1"))
		r1.hub.stop()
		require.Equal(t, "r1 again", who(t, user, "r1"), "the old session does not detach the new one")
		again.hub.stop()
		require.Equal(t, nobody, who(t, user, "r1"))
		require.Equal(t, "r2", who(t, user, "*"))

		third := h.runner(named("r1"), says("who/am", "r1 back"))
		require.Equal(t, `["r1","r2"]`, who(t, user, "names"), "its place is kept")
		require.Equal(t, "r1 back", who(t, user, ""))

		// Whole sets.
		taken := leaf(third.imports, call.Spec{Name: "who/am"})
		require.ErrorContains(t, third.imports.RegisterImported(taken, taken), "the name is taken")
		local := says("who/am", "mine")
		require.ErrorContains(t, third.imports.RegisterImported(local), "not imported from a peer")
		require.Equal(t, "r1 back", who(t, user, "r1"), "nothing half done")
		require.NoError(t, third.imports.RegisterImported(leaf(third.imports, call.Spec{Name: "other/op"})))
		require.Equal(t, nobody, who(t, user, "r1"))
		require.NoError(t, third.imports.RegisterImported())
		require.Equal(t, `["r1","r2"]`, who(t, user, "names"))

		third.hub.stop()
		require.ErrorIs(t, third.imports.RegisterImported(taken), call.ErrSessionClosed) // CALL-46
		require.Equal(t, `["r2"]`, who(t, user, "names"))
	})
}

// CALL-71: of the requesting peer, its own session's import counts; CALL-32: no
// peer calls from the wire what was imported, its own or another's (CALL-78).
func TestCALL71OwnImportOverridesTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, call.Config{}, asking())
		old := h.runner(named("r1"), says("who/am", "old"))
		h.runner(named("r2"), says("who/am", "r2"))
		fresh := h.runner(named("r1"), says("who/am", "new"))
		require.Equal(t, "old", who(t, old.calls, "r1"))
		require.Equal(t, "old", who(t, old.calls, "*"))
		require.Equal(t, "new", who(t, fresh.calls, "r1"))
		require.Equal(t, "r2", who(t, old.calls, "r2"))
		_, err := old.calls.Call(t.Context(), "who/am", nil)
		require.ErrorIs(t, err, call.ErrNotFound)
		list, err := old.calls.List(t.Context())
		require.NoError(t, err)
		for _, row := range list { // CALL-87
			require.NotEqual(t, "who/am", row.Name)
		}
	})
}

// CALL-77: a running call keeps its snapshot: a peer that is gone fails as lost,
// not as unknown; one that came later is not there.
func TestCALL77RunningCallKeepsItsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone, met := make(chan struct{}), make(chan struct{})
		var lost, unknown error
		do := composing("test/do", &call.ScopedEnv{AllowedOps: []string{"who/am"}}, func(ctx context.Context, r *call.Request) (any, error) {
			close(met)
			<-gone
			_, lost = r.Env.InvokePeer(ctx, call.PeerSpecific("r1"), "who/am", nil)
			_, unknown = r.Env.InvokePeer(ctx, call.PeerSpecific("r2"), "who/am", nil)
			return nil, nil
		})
		h := newHub(t, call.Config{}, do)
		r1 := h.runner(named("r1"), says("who/am", "r1"))
		user := h.as(named("user"))
		done := make(chan error, 1)
		go func() {
			_, err := user.Call(t.Context(), "test/do", nil)
			done <- err
		}()
		<-met
		r1.hub.stop()
		h.runner(named("r2"), says("who/am", "r2"))
		close(gone)
		require.NoError(t, <-done)
		require.ErrorIs(t, lost, call.ErrSessionClosed)
		require.ErrorContains(t, lost, "INTERNAL: connection closed")
		require.ErrorIs(t, unknown, call.ErrNotFound)
	})
}

// What PeerAny chooses, by policy.
func TestRoutingPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rtt := map[auth.PeerName]time.Duration{"r1": 30 * time.Millisecond, "r2": 0, "r3": 20 * time.Millisecond}
		var mu sync.Mutex
		do := composing("test/do", &call.ScopedEnv{AllowedOps: []string{"who/am", "who/waits", "who/else"}}, func(ctx context.Context, r *call.Request) (any, error) {
			var in struct {
				Op string
				By call.Routing
			}
			if err := r.Decode(&in); err != nil {
				return nil, err
			}
			return r.Env.InvokePeer(ctx, call.PeerAny(), in.Op, nil, call.WithRouting(in.By))
		})
		h := newHub(t, call.Config{
			Routing: call.RouteRoundRobin,
			RTT: func(p auth.Context) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return rtt[p.PeerName]
			},
		}, do, call.ReExport(call.Spec{Name: "who/am"}, call.PeerAny(), "who/am", nil))
		wait := query("who/waits", func(ctx context.Context, _ *call.Request) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		var links []*link
		for _, name := range []string{"r1", "r2", "r3"} {
			links = append(links, h.runner(named(name), says("who/am", name), says("who/else", name), wait))
		}
		user := h.as(named("user"))
		ask := func(op string, by call.Routing) string {
			out, err := user.Call(t.Context(), "test/do", map[string]any{"Op": op, "By": by})
			return text(t, out, err)
		}
		for range 3 {
			require.Equal(t, "r1", ask("who/am", call.RouteFirst))
			require.Equal(t, "r3", ask("who/am", call.RouteLowestRTT))
		}
		var turns strings.Builder
		for range 6 {
			turns.WriteString(ask("who/am", call.RouteRoundRobin) + ask("who/else", call.RouteRoundRobin) + " ")
		}
		require.Equal(t, "r1r1 r2r2 r3r3 r1r1 r2r2 r3r3 ", turns.String(), "operations take turns on their own")
		out, err := user.Call(t.Context(), "who/am", nil) // by Config.Routing
		require.Equal(t, "r1", text(t, out, err))

		ctx, cancel := context.WithCancel(t.Context())
		var held sync.WaitGroup
		for i, n := range []int{2, 1, 2} {
			for range n {
				held.Go(func() { _, _ = links[i].imports.Call(ctx, "who/waits", nil) })
			}
		}
		synctest.Wait()
		require.Equal(t, "r2", ask("who/am", call.RouteLeastInFlight))
		cancel()
		held.Wait()
		synctest.Wait()
		require.Equal(t, "r1", ask("who/am", call.RouteLeastInFlight))

		mu.Lock()
		clear(rtt)
		mu.Unlock()
		require.Equal(t, "r1", ask("who/am", call.RouteLowestRTT), "the first when none is known")
		for _, l := range links { // no peer is left but the re-export itself
			l.hub.stop()
		}
		_, err = user.Call(t.Context(), "who/am", nil)
		require.ErrorIs(t, err, call.ErrNotFound)
	})
}

// CALL-32, CALL-78: an operation offered again goes to the peer's and back,
// with its errors; the hub's access is what the caller needs.
func TestCALL32ReExport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := query("run/job", func(_ context.Context, r *call.Request) (any, error) {
			if string(r.Input) == "null" {
				return nil, call.Errorf("JOB_FAILED", "no job").WithDetails(1)
			}
			return r.Input, nil
		})
		run.Spec.Errors = []call.ErrorSpec{{Code: "JOB_FAILED"}}
		run.Spec.Access.RequiredScopes = []string{"hub"}
		offered := call.Spec{Name: "jobs/run", Errors: run.Spec.Errors, Access: auth.Access{RequiredScopes: []string{"jobs"}}}
		h := newHub(t, call.Config{},
			call.ReExport(offered, call.PeerSpecific("r1"), "run/job", &call.CompositionAuthority{Label: "jobs", Scopes: []string{"hub"}}),
			call.ReExport(call.Spec{Name: "jobs/nobody"}, call.PeerAny(), "run/job", nil))
		h.runner(named("r1"), run)
		user := h.as(named("user", "jobs"))
		out, err := user.Call(t.Context(), "jobs/run", json.RawMessage(`{"n":9007199254740993,"a":1}`))
		require.NoError(t, err)
		require.Equal(t, `{"n":9007199254740993,"a":1}`, string(out)) // CALL-9
		_, err = user.Call(t.Context(), "jobs/run", nil)
		var e *call.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, call.Code("JOB_FAILED"), e.Code) // CALL-55
		require.Equal(t, `1`, string(e.Details))
		_, err = h.as(named("other")).Call(t.Context(), "jobs/run", 1)
		require.ErrorContains(t, err, "missing required scope: jobs")
		_, err = user.Call(t.Context(), "jobs/nobody", 1)
		require.ErrorContains(t, err, "authentication required")
	})
}

// CALL-95: a subscription offered again keeps order, completion, errors, aborts
// and back-pressure from end to end.
func TestCALL95SubscriptionThroughAHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var emitted, running atomic.Int64
		count := stream("run/count", func(_ context.Context, r *call.Request, emit func(any) error) error {
			running.Add(1)
			defer running.Add(-1)
			var n int
			if err := r.Decode(&n); err != nil {
				return err
			}
			for i := range n {
				if err := emit(i); err != nil {
					return err
				}
				emitted.Add(1)
			}
			if n == 3 {
				return call.Errorf("TIRED", "no more")
			}
			return nil
		})
		count.Spec.Errors = []call.ErrorSpec{{Code: "TIRED"}}
		offered := count.Spec
		offered.Name = "jobs/count"
		h := newHub(t, call.Config{}, call.ReExport(offered, call.PeerSpecific("r1"), "run/count", nil))
		l := h.runner(named("r1"), count)
		user := h.as(named("user"))
		take := func(n int) (string, error) {
			sub, err := user.Subscribe(t.Context(), "jobs/count", n)
			require.NoError(t, err)
			got := ""
			for v, err := range sub.All(t.Context()) {
				if err != nil {
					return got, err
				}
				got += string(v)
			}
			return got, nil
		}
		got, err := take(5)
		require.NoError(t, err)
		require.Equal(t, "01234", got)
		got, err = take(3)
		require.ErrorIs(t, err, &call.Error{Code: "TIRED"})
		require.Equal(t, "012", got)

		emitted.Store(0)
		sub, err := user.Subscribe(t.Context(), "jobs/count", 1_000_000)
		require.NoError(t, err)
		_, err = sub.Next(t.Context())
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.Less(t, emitted.Load(), int64(200), "the runner waits for the user")
		require.NoError(t, sub.Close())
		synctest.Wait()
		require.Zero(t, running.Load(), "the abort reached the runner") // CALL-84

		sub, err = user.Subscribe(t.Context(), "jobs/count", 1_000_000)
		require.NoError(t, err)
		_, err = sub.Next(t.Context())
		require.NoError(t, err)
		l.peer.stop()
		for err == nil {
			_, err = sub.Next(t.Context())
		}
		require.ErrorIs(t, err, call.ErrInternal) // never a normal end
		require.ErrorContains(t, err, "closed")
	})
}

// CALL-89: services/list-peers, when it is registered.
func TestCALL89ListPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hub{t, call.New(call.Config{})}
		t.Cleanup(func() { require.NoError(t, h.Close()) })
		require.NoError(t, h.Register(h.ListPeers()))
		secret := says("job/secret", "")
		secret.Spec.Access.RequiredScopes = []string{"admin"}
		ticks := stream("job/ticks", func(context.Context, *call.Request, func(any) error) error { return nil })
		h.runner(named("r2"), says("job/run", ""), secret, ticks)
		h.runner(named("r1"), secret)
		h.runner(auth.Context{PeerName: strangerName, ALPN: call.ALPN}, says("job/run", ""))
		list := func(s *call.Session) string {
			out, err := s.Call(t.Context(), "services/list-peers", struct{}{})
			require.NoError(t, err)
			var doc struct {
				Peers []struct {
					PeerID     string `json:"peer_id"`
					Operations []call.OperationInfo
				}
			}
			require.NoError(t, json.Unmarshal(out, &doc))
			var text strings.Builder
			for _, p := range doc.Peers {
				text.WriteString(p.PeerID + ":")
				for _, op := range p.Operations {
					require.Equal(t, op.Namespace, strings.Split(op.Name, "/")[0])
					fmt.Fprintf(&text, " %s(%s)", op.Name, op.Type)
				}
				text.WriteString("\n")
			}
			return text.String()
		}
		own := "local: services/list(query) services/list-peers(query) services/schema(query)\n"
		require.Equal(t, own+"r2: job/run(query) job/ticks(subscription)\n", list(h.as(named("user"))))
		require.Equal(t, own+"r2: job/run(query) job/secret(query) job/ticks(subscription)\nr1: job/secret(query)\n",
			list(h.as(named("admin", "admin"))))

		_, err := newHub(t, call.Config{}).as(named("user")).Call(t.Context(), "services/list-peers", nil)
		require.ErrorIs(t, err, call.ErrNotFound)
	})
}

// Await finds the session of a peer by name, whoever opened it.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, call.Config{})
		found := make(chan *call.Session, 1)
		go func() {
			s, err := h.Await(t.Context(), "r1", nil)
			if err != nil {
				t.Error(err)
			}
			found <- s
		}()
		h.join(named("r2"))
		first := h.join(named("r1"))
		require.Same(t, first.imports, <-found)
		second := h.join(named("r1"))
		s, err := h.Await(t.Context(), "r1", first.imports)
		require.NoError(t, err)
		require.Same(t, second.imports, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = h.Await(ctx, "r3", nil)
		require.ErrorIs(t, err, call.ErrTimeout)
		_, err = h.Await(ctx, "r1", second.imports)
		require.ErrorIs(t, err, call.ErrTimeout)
	})
}
