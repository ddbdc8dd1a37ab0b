package call_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// life follows one handler from its start to the end of its context.
type life struct {
	started chan struct{}
	ended   chan error    // the cause
	release chan struct{} // closed: the handler returns by itself
}

func newLife() *life {
	return &life{make(chan struct{}, 8), make(chan error, 8), make(chan struct{})}
}

// handle lives until the context ends or release is closed, which it reports as
// a nil cause.
func (l *life) handle(ctx context.Context, _ *call.Request) (any, error) {
	l.started <- struct{}{}
	select {
	case <-ctx.Done():
		l.ended <- context.Cause(ctx)
		return nil, ctx.Err()
	case <-l.release:
		l.ended <- nil
		return "done", nil
	}
}

// running reports whether the handler has started and not ended.
func (l *life) running() bool {
	synctest.Wait()
	return len(l.started) > 0 && len(l.ended) == 0
}

func (l *life) cause(t *testing.T) error {
	t.Helper()
	synctest.Wait()
	require.Len(t, l.ended, 1)
	return <-l.ended
}

// CALL-79, CALL-80, CALL-81, CALL-84: an abort reaches all that depends on a
// request, on every branch, over two hops, at once.
func TestCALL80AbortCascadesOverTwoHops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, deep := newLife(), newLife(), newLife()
		env := &call.ScopedEnv{AllowedOps: []string{"near/job", "mid/job", "far/job", "test/middle"}}
		both := func(names ...string) call.HandlerFunc {
			return func(ctx context.Context, r *call.Request) (any, error) {
				failed := make(chan error, len(names))
				for _, name := range names {
					go func() {
						_, err := r.Env.Invoke(ctx, name, nil)
						failed <- err
					}()
				}
				var errs []error
				for range names {
					errs = append(errs, <-failed)
				}
				return nil, errors.Join(errs...)
			}
		}
		// user → hub (test/do → test/middle → mid/job) → relay node (mid/job → far/job) → runner
		h := newHub(t, call.Config{},
			composing("test/do", env, both("near/job", "test/middle")),
			composing("test/middle", env, both("mid/job")),
			query("near/job", near.handle))
		second := newHub(t, call.Config{}, composing("mid/job", env, both("far/job", "near/job")), query("near/job", deep.handle))
		l := h.connect(named("second"), second.Protocol)
		l.imported(t, query("mid/job", nil))
		second.runner(named("runner"), query("far/job", far.handle))

		user := h.as(named("user"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := user.Call(ctx, "test/do", nil)
			done <- err
		}()
		for _, life := range []*life{near, far, deep} {
			require.True(t, life.running())
		}
		before := time.Now()
		cancel()
		require.ErrorIs(t, <-done, call.ErrAborted)
		require.ErrorIs(t, near.cause(t), call.ErrParentAborted)
		require.ErrorIs(t, deep.cause(t), call.ErrParentAborted)
		cause := far.cause(t)
		require.ErrorIs(t, cause, call.ErrAborted) // its own root: aborted off the wire
		require.NotErrorIs(t, cause, call.ErrParentAborted)
		require.Equal(t, before, time.Now())
	})
}

// CALL-86, CALL-45, CALL-46, CALL-42: each source of an abort reaches root and
// child with a cause of its own.
func TestCALL86SourcesAndCauses(t *testing.T) {
	for name, c := range map[string]struct {
		source func(t *testing.T, l *link, s *call.Session)
		cause  error
		others []error
	}{
		"call.aborted": {
			func(_ *testing.T, _ *link, s *call.Session) { s.Abort("r1") },
			call.ErrAborted,
			[]error{call.ErrStreamClosed, call.ErrSessionClosed, call.ErrTimeout},
		},
		"session": {
			func(_ *testing.T, l *link, _ *call.Session) { l.hub.stop() },
			call.ErrSessionClosed,
			[]error{call.ErrAborted, call.ErrStreamClosed, call.ErrTimeout},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				root, child := newLife(), newLife()
				h := newHub(t, call.Config{}, family(root, child)...)
				l := h.join(named("user"))
				done := make(chan error, 1)
				go func() {
					_, err := l.calls.Call(t.Context(), "test/do", nil, call.WithRequestID("r1"))
					done <- err
				}()
				require.True(t, root.running())
				require.True(t, child.running())
				c.source(t, l, l.calls)
				rootCause, childCause := root.cause(t), child.cause(t)
				require.ErrorIs(t, rootCause, c.cause)
				require.ErrorIs(t, childCause, c.cause)
				require.NotErrorIs(t, rootCause, call.ErrParentAborted)
				require.ErrorIs(t, childCause, call.ErrParentAborted)
				for _, other := range c.others {
					require.NotErrorIs(t, rootCause, other)
					require.NotErrorIs(t, childCause, other)
				}
				require.Error(t, <-done)
			})
		})
	}

	// A stream reset, and a deadline that is not the caller's too, whose abort
	// could come first: by a bare peer (CALL-45, CALL-42).
	for name, c := range map[string]struct {
		source func(t *testing.T, s protocols.Stream)
		cause  error
	}{
		"stream reset": {
			func(t *testing.T, s protocols.Stream) { require.NoError(t, s.Reset(protocols.CodeAborted)) },
			call.ErrStreamClosed,
		},
		"deadline": {func(*testing.T, protocols.Stream) { time.Sleep(time.Minute) }, call.ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				root, child := newLife(), newLife()
				h := newHub(t, call.Config{}, family(root, child)...)
				a, b := protocols.Pipe(call.ALPN)
				serve(t, a, h.Protocol, named("user"))
				s, err := b.OpenStream(t.Context())
				require.NoError(t, err)
				writeFrame(t, s, `{"type":"call.requested","id":"1","payload":{"operationId":"/test/do"}}`)
				require.True(t, root.running())
				require.True(t, child.running())
				c.source(t, s)
				rootCause, childCause := root.cause(t), child.cause(t)
				require.ErrorIs(t, rootCause, c.cause)
				require.ErrorIs(t, childCause, c.cause)
				require.Equal(t, name != "deadline", errors.Is(childCause, call.ErrParentAborted), "the deadline is the child's own")
				_ = b.Close(0, "")
			})
		})
	}
}

// CALL-86, CALL-81: a limit that a handler sets to what it invokes is not the
// deadline of what that invokes in turn: it is aborted with it, not at the end.
func TestCALL86LimitsOfInvokersReachBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		child, grandchild := newLife(), newLife()
		env := &call.ScopedEnv{AllowedOps: []string{"test/child", "test/grandchild"}}
		h := newHub(t, call.Config{}, query("test/grandchild", grandchild.handle),
			composing("test/child", env, func(ctx context.Context, r *call.Request) (any, error) {
				go func() { _, _ = r.Env.Invoke(ctx, "test/grandchild", nil) }()
				return child.handle(ctx, r)
			}),
			composing("test/do", env, func(ctx context.Context, r *call.Request) (any, error) {
				limited, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				return r.Env.Invoke(limited, "test/child", nil)
			}))
		l := h.join(named("user"))
		go func() { _, _ = l.calls.Call(t.Context(), "test/do", nil) }()
		require.True(t, grandchild.running())
		time.Sleep(time.Second)
		require.ErrorIs(t, child.cause(t), call.ErrTimeout)
		require.ErrorIs(t, grandchild.cause(t), call.ErrParentAborted)
	})
}

// family is test/do, which lives as root, and composes test/child.
func family(root, child *life) []call.Operation {
	return []call.Operation{
		query("test/child", child.handle),
		composing("test/do", &call.ScopedEnv{AllowedOps: []string{"test/child"}}, func(ctx context.Context, r *call.Request) (any, error) {
			go func() { _, _ = r.Env.Invoke(ctx, "test/child", nil) }()
			return root.handle(ctx, r)
		}),
	}
}

// CALL-82, CALL-83: what continues, and what does not.
func TestCALL82ContinueRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started, grandchild, dependent := newLife(), newLife(), newLife()
		var late, later error
		env := &call.ScopedEnv{AllowedOps: []string{"test/child", "test/grandchild", "test/dependent", "test/late"}}
		rootEnded := make(chan struct{})
		h := newHub(t, call.Config{},
			query("test/grandchild", grandchild.handle), query("test/dependent", dependent.handle),
			query("test/late", func(context.Context, *call.Request) (any, error) { return nil, errors.New("started") }),
			composing("test/child", env, func(ctx context.Context, r *call.Request) (any, error) {
				go func() { _, _ = r.Env.Invoke(ctx, "test/grandchild", nil) }() // inherits the policy
				out, err := started.handle(ctx, r)
				_, later = r.Env.Invoke(ctx, "test/late", nil)
				return out, err
			}),
			composing("test/do", env, func(ctx context.Context, r *call.Request) (any, error) {
				defer close(rootEnded)
				go func() { _, _ = r.Env.Invoke(ctx, "test/child", nil, call.WithAbortPolicy(call.ContinueRunning)) }()
				go func() { _, _ = r.Env.Invoke(ctx, "test/dependent", nil) }()
				<-ctx.Done()
				_, late = r.Env.Invoke(context.WithoutCancel(ctx), "test/late", nil, call.WithAbortPolicy(call.ContinueRunning))
				return nil, ctx.Err()
			}))
		user := h.as(named("user"))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = user.Call(ctx, "test/do", nil) }()
		require.True(t, started.running())
		require.True(t, grandchild.running())
		require.True(t, dependent.running())
		cancel()
		<-rootEnded
		require.ErrorIs(t, dependent.cause(t), call.ErrParentAborted)
		require.True(t, started.running(), "a started child runs on")
		require.True(t, grandchild.running(), "and so does what it had started")
		require.ErrorIs(t, late, call.ErrParentAborted, "nothing new starts")
		close(started.release)
		require.NoError(t, started.cause(t))
		require.ErrorIs(t, later, call.ErrParentAborted, "nor below what runs on")
		require.True(t, grandchild.running(), "its parent's normal end is no abort")
		close(grandchild.release)
		require.NoError(t, grandchild.cause(t))
	})
}

// CALL-82: the deadline holds for what continues, and so does the node's end.
func TestCALL82ContinueRunningEndsAtLast(t *testing.T) {
	for name, end := range map[string]func(h *hub){
		"deadline": func(*hub) { time.Sleep(30 * time.Second) },
		"node":     func(h *hub) { require.NoError(h.t, h.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				child := newLife()
				h := newHub(t, call.Config{}, query("test/child", child.handle),
					composing("test/do", &call.ScopedEnv{AllowedOps: []string{"test/child"}}, func(ctx context.Context, r *call.Request) (any, error) {
						return r.Env.Invoke(ctx, "test/child", nil, call.WithAbortPolicy(call.ContinueRunning))
					}))
				l := h.join(named("user"))
				go func() { _, _ = l.calls.Call(t.Context(), "test/do", nil) }()
				require.True(t, child.running())
				l.peer.stop() // the session, and with it the root
				l.hub.stop()
				require.True(t, child.running())
				end(h)
				require.ErrorIs(t, child.cause(t), map[string]error{"deadline": call.ErrTimeout, "node": call.ErrSessionClosed}[name])
			})
		})
	}
}

// CALL-82: a forwarded call has started once its frame is written. One that
// waits for a stream is aborted with its parent and never sent.
func TestCALL82ForwardedCallStartsWithItsFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote, parked := newLife(), make(chan error, 1)
		env := &call.ScopedEnv{AllowedOps: []string{"run/sent", "run/parked"}}
		entered := make(chan struct{})
		h := newHub(t, call.Config{}, composing("test/do", env, func(ctx context.Context, r *call.Request) (any, error) {
			for _, name := range []string{"run/sent", "run/parked"} {
				go func() { _, _ = r.Env.Invoke(ctx, name, nil, call.WithAbortPolicy(call.ContinueRunning)) }()
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		l := h.join(named("runner"), query("run/sent", remote.handle))
		unsent := leaf(l.imports, call.Spec{Name: "run/parked"})
		unsent.Handler = call.HandlerFunc(func(ctx context.Context, _ *call.Request) (any, error) {
			close(entered)
			<-ctx.Done() // as when no stream has room
			parked <- context.Cause(ctx)
			return nil, ctx.Err()
		})
		require.NoError(t, l.imports.RegisterImported(leaf(l.imports, call.Spec{Name: "run/sent"}), unsent))
		user := h.as(named("user"))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = user.Call(ctx, "test/do", nil) }()
		<-entered
		require.True(t, remote.running())
		cancel()
		require.ErrorIs(t, <-parked, call.ErrParentAborted)
		require.True(t, remote.running(), "it has started")
		close(remote.release)
		require.NoError(t, remote.cause(t))
	})
}

// CALL-85: an abort of what has ended, or never was, does nothing; a handler
// that does not listen is waited for by nobody, and its result dropped.
func TestCALL85AbortIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := make(chan struct{})
		returned := make(chan struct{})
		h := newHub(t, call.Config{}, call.Echo(),
			query("test/deaf", func(context.Context, *call.Request) (any, error) {
				defer close(returned)
				<-deaf
				return "late", nil
			}),
			composing("test/do", &call.ScopedEnv{AllowedOps: []string{"test/deaf"}}, func(ctx context.Context, r *call.Request) (any, error) {
				return r.Env.Invoke(ctx, "test/deaf", nil)
			}))
		user := h.as(named("user"))
		user.Abort("no such")
		done := make(chan error, 1)
		go func() {
			_, err := user.Call(t.Context(), "test/do", nil, call.WithRequestID("r1"))
			done <- err
		}()
		synctest.Wait()
		before := time.Now()
		user.Abort("r1")
		user.Abort("r1")
		require.ErrorIs(t, <-done, call.ErrAborted)
		require.Equal(t, before, time.Now())
		user.Abort("r1")
		synctest.Wait() // until the peer has ended it, too, the id is in use
		out, err := user.Call(t.Context(), "node/echo", "still here", call.WithRequestID("r1"))
		require.Equal(t, "still here", text(t, out, err))
		close(deaf)
		<-returned
	})
}

// CALL-41: a composed call and a forwarded one have what is left of the
// deadline, never a fresh one.
func TestCALL41DeadlineIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var local, remote time.Time
		h := newHub(t, call.Config{},
			query("test/child", func(_ context.Context, r *call.Request) (any, error) {
				local = r.Deadline
				return nil, nil
			}),
			composing("test/do", &call.ScopedEnv{AllowedOps: []string{"test/child", "run/job"}}, func(ctx context.Context, r *call.Request) (any, error) {
				time.Sleep(2 * time.Second)
				if _, err := r.Env.Invoke(ctx, "test/child", nil); err != nil {
					return nil, err
				}
				return r.Env.Invoke(ctx, "run/job", nil)
			}))
		h.runner(named("runner"), query("run/job", func(ctx context.Context, r *call.Request) (any, error) {
			remote = r.Deadline
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		begin := time.Now()
		_, err := h.as(named("user")).Call(t.Context(), "test/do", nil, call.WithTimeout(5*time.Second))
		require.ErrorIs(t, err, call.ErrTimeout)
		require.Equal(t, begin.Add(5*time.Second), time.Now())
		synctest.Wait()
		require.Equal(t, begin.Add(5*time.Second), local)
		require.Equal(t, begin.Add(5*time.Second), remote)
	})
}

// writeFrame writes one frame, as a bare peer does.
func writeFrame(t *testing.T, s protocols.Stream, body string) {
	t.Helper()
	_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	require.NoError(t, err)
}
