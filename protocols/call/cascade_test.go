package call_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

var schedules = flag.Int("call.schedules", 400, "how many random schedules of calls to play; make schedules plays 100,000")

// CALL-14, CALL-44, CALL-46, CALL-85: calls, subscriptions, composed calls of
// both policies and forwarded ones, over two hops, meet aborts, deadlines,
// resets, closed sessions and late results at random. Each ends with exactly
// one terminal event, each caller gets an answer, and nothing stays behind: a
// bubble ends only when its last goroutine has, and one that waits for ever
// fails it as a deadlock.
func TestCALL14RandomSchedules(t *testing.T) {
	const each = 20 // schedules of a bubble, between the same nodes
	for first := 0; first < *schedules && !t.Failed(); first += each {
		synctest.Test(t, func(t *testing.T) {
			s := newSchedule(t)
			for seed := first; seed < min(first+each, *schedules); seed++ {
				s.seed, s.rnd = seed, rand.New(rand.NewPCG(uint64(seed), 14))
				s.play()
			}
			require.NoError(t, s.hub.Close())
		})
	}
}

// schedule is a user, a hub and a runner, and what happens between them.
type schedule struct {
	t                 *testing.T
	user, hub, runner *call.Protocol
	seed              int
	rnd               *rand.Rand

	lossy    bool         // a stream or session was broken
	handlers atomic.Int64 // that have not returned

	mu      sync.Mutex
	events  map[string]*ends // by request id
	streams []protocols.Stream
}

// ends is what was seen on the wire of one request.
type ends struct {
	stream   bool
	terminal []string // and all that came after it
}

func newSchedule(t *testing.T) *schedule {
	few := call.Config{Limits: call.Limits{PooledStreams: 2}}
	s := &schedule{t: t, user: call.New(few), hub: call.New(few), runner: call.New(call.Config{})}
	require.NoError(t, s.hub.Register(s.operations()...))
	require.NoError(t, s.runner.Register(query("run/call", s.handle), stream("run/stream", s.values)))
	return s
}

// play runs one schedule, with sessions of its own.
func (s *schedule) play() {
	s.mu.Lock()
	s.events, s.streams, s.lossy = map[string]*ends{}, nil, false
	s.mu.Unlock()
	var sides []*side
	link := func(caller, responder *call.Protocol, name string) *call.Session {
		a, b := protocols.Pipe(call.ALPN)
		x := serve(s.t, &tapped{Connection: a, s: s, caller: true}, caller, named(name))
		y := serve(s.t, &tapped{Connection: b, s: s}, responder, named("caller"))
		sides = append(sides, x, y)
		return x.session(s.t)
	}
	far := link(s.hub, s.runner, "runner")
	require.NoError(s.t, far.RegisterImported(leaf(far, call.Spec{Name: "run/call"}), leaf(far, call.Spec{Name: "run/stream", Type: call.OpSubscription})))
	near := link(s.user, s.hub, "hub")

	var wg sync.WaitGroup
	n := 1 + s.rnd.IntN(6)
	for i := range n {
		s.request(&wg, near, fmt.Sprint("r", i))
		s.pause()
		s.disturb(near, far, sides, n)
	}
	wg.Wait()
	time.Sleep(2 * time.Minute) // late results, deadlines
	for _, side := range sides {
		side.stop()
	}
	require.Zero(s.t, s.handlers.Load(), "seed %d", s.seed)
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, e := range s.events {
		if n := len(e.terminal); n > 1 || n == 0 && !s.lossy {
			s.t.Errorf("seed %d, request %s: terminal events %v", s.seed, id, e.terminal)
		}
	}
}

// request makes one random request of near's peer, which must end.
func (s *schedule) request(wg *sync.WaitGroup, near *call.Session, id string) {
	in := map[string]any{
		"Sleep": s.rnd.IntN(60), "Deaf": s.rnd.IntN(4) == 0, "Values": s.rnd.IntN(6),
		"End": []string{"", "", "error", "forbidden", "panic"}[s.rnd.IntN(5)], "Continue": s.rnd.IntN(2) == 0,
		"Size": []int{0, 0, 20_000}[s.rnd.IntN(3)],
	}
	op := []string{"run/call", "test/compose", "test/forward", "jobs/call"}[s.rnd.IntN(4)]
	subscribe := s.rnd.IntN(3) == 0
	if subscribe {
		op = []string{"run/stream", "jobs/stream"}[s.rnd.IntN(2)]
	}
	limit := time.Duration(1+s.rnd.IntN(120)) * time.Millisecond
	told := s.rnd.IntN(2) == 0
	wg.Go(func() {
		ctx, opts := s.t.Context(), []call.CallOption{call.WithRequestID(id)}
		if told {
			opts = append(opts, call.WithTimeout(limit))
		} else {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		if err := s.await(ctx, near, subscribe, op, in, opts); err != nil {
			require.ErrorAs(s.t, err, new(*call.Error)) // CALL-56
		}
	})
}

func (s *schedule) await(ctx context.Context, near *call.Session, subscribe bool, op string, in any, opts []call.CallOption) error {
	if !subscribe {
		_, err := near.Call(ctx, op, in, opts...)
		return err
	}
	sub, err := near.Subscribe(ctx, op, in, append(opts, call.WithWindow(2))...)
	if err != nil {
		return err
	}
	for {
		if _, err := sub.Next(s.t.Context()); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func (s *schedule) pause() {
	if s.rnd.IntN(2) == 0 {
		time.Sleep(time.Duration(s.rnd.IntN(40)) * time.Millisecond)
	}
}

// disturb does one of the things that end requests from outside, or nothing.
func (s *schedule) disturb(near, far *call.Session, sides []*side, n int) {
	what := s.rnd.IntN(12)
	s.lossy = s.lossy || what >= 3 && what <= 7
	switch what {
	case 0, 1, 2:
		near.Abort(fmt.Sprint("r", s.rnd.IntN(n)))
	case 3, 4:
		s.mu.Lock()
		var victim protocols.Stream
		if len(s.streams) > 0 {
			victim = s.streams[s.rnd.IntN(len(s.streams))]
		}
		s.mu.Unlock()
		if victim != nil {
			_ = victim.Reset(protocols.CodeAborted)
		}
	case 5:
		_ = far.Connection().Close(0, "over")
	case 6:
		_ = near.Connection().Close(protocols.CodeShutdown, "over")
	case 7:
		sides[s.rnd.IntN(len(sides))].cancel()
	}
}

// plan is how a handler behaves.
type plan struct {
	Sleep, Values, Size int
	Deaf, Continue      bool
	End                 string
}

func (s *schedule) handle(ctx context.Context, r *call.Request) (any, error) {
	s.handlers.Add(1)
	defer s.handlers.Add(-1)
	var p plan
	if err := r.Decode(&p); err != nil {
		return nil, err
	}
	wait(ctx, p)
	switch p.End {
	case "error":
		return nil, errors.New("failed")
	case "forbidden":
		return nil, call.Errorf(call.CodeForbidden, "no")
	case "panic":
		panic("random")
	}
	return strings.Repeat("v", p.Size), nil
}

func (s *schedule) values(ctx context.Context, r *call.Request, emit func(any) error) error {
	s.handlers.Add(1)
	defer s.handlers.Add(-1)
	var p plan
	if err := r.Decode(&p); err != nil {
		return err
	}
	for i := range p.Values {
		wait(ctx, p)
		if err := emit(i); err != nil && !p.Deaf {
			return err
		}
	}
	if p.End == "error" {
		return errors.New("failed")
	}
	return nil
}

func wait(ctx context.Context, p plan) {
	if p.Deaf {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case <-time.After(time.Duration(p.Sleep) * time.Millisecond):
	case <-ctx.Done():
	}
}

// operations are those of the hub: its own, two that compose, and a runner's
// offered again.
func (s *schedule) operations() []call.Operation {
	env := &call.ScopedEnv{AllowedOps: []string{"run/call"}, PeerPinned: []string{"runner/run/call"}}
	compose := func(at *call.PeerRef) call.HandlerFunc {
		return func(ctx context.Context, r *call.Request) (any, error) {
			s.handlers.Add(1)
			defer s.handlers.Add(-1)
			var p plan
			if err := r.Decode(&p); err != nil {
				return nil, err
			}
			policy := call.AbortDependents
			if p.Continue {
				policy = call.ContinueRunning
			}
			var both [2]error
			var wg sync.WaitGroup
			for i := range both {
				wg.Go(func() {
					if at == nil {
						_, both[i] = r.Env.Invoke(ctx, "run/call", r.Input, call.WithAbortPolicy(policy))
					} else {
						_, both[i] = r.Env.InvokePeer(ctx, *at, "run/call", r.Input, call.WithAbortPolicy(policy))
					}
				})
			}
			wg.Wait()
			return "done", errors.Join(both[:]...)
		}
	}
	runner := call.PeerSpecific("runner")
	return []call.Operation{
		query("run/call", s.handle),
		stream("run/stream", s.values),
		composing("test/compose", env, compose(nil)),
		composing("test/forward", env, compose(&runner)),
		call.ReExport(call.Spec{Name: "jobs/call"}, runner, "run/call", nil),
		call.ReExport(call.Spec{Name: "jobs/stream", Type: call.OpSubscription}, runner, "run/stream", nil),
	}
}

// tapped is one end of a session whose writes are watched; all requests go from
// the caller's end.
type tapped struct {
	protocols.Connection
	s      *schedule
	caller bool
}

func (c *tapped) OpenStream(ctx context.Context) (protocols.Stream, error) {
	return c.tap(c.Connection.OpenStream(ctx))
}

func (c *tapped) AcceptStream(ctx context.Context) (protocols.Stream, error) {
	return c.tap(c.Connection.AcceptStream(ctx))
}

func (c *tapped) tap(st protocols.Stream, err error) (protocols.Stream, error) {
	if err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	c.s.streams = append(c.s.streams, st)
	c.s.mu.Unlock()
	return &tappedStream{st, c}, nil
}

type tappedStream struct {
	protocols.Stream
	c *tapped
}

// Write notes the events of a write, which holds whole frames (CALL-7).
func (t *tappedStream) Write(p []byte) (int, error) {
	s := t.c.s
	s.mu.Lock()
	for rest := p; len(rest) > 0; {
		size := binary.BigEndian.Uint32(rest)
		s.note(t.c.caller, rest[4:4+size])
		rest = rest[4+size:]
	}
	s.mu.Unlock()
	return t.Stream.Write(p)
}

func (s *schedule) note(caller bool, body []byte) {
	var env struct {
		Type, ID string
		Payload  struct{ OperationID string }
	}
	if err := json.Unmarshal(body, &env); err != nil {
		s.t.Errorf("seed %d: not JSON: %.80s", s.seed, body)
		return
	}
	if caller {
		if env.Type == "call.requested" {
			s.events[env.ID] = &ends{stream: strings.HasSuffix(env.Payload.OperationID, "stream")}
		}
		return
	}
	e := s.events[env.ID]
	switch {
	case e == nil:
		s.t.Errorf("seed %d: %s of a request that was not made", s.seed, env.Type)
	case len(e.terminal) > 0 || env.Type != "call.responded" || !e.stream:
		e.terminal = append(e.terminal, env.Type)
	}
}
