package call_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// CALL-14: a request ends with exactly one terminal event and nothing follows
// it, whatever comes together: answers, errors, panics, aborts on any stream,
// deadlines, credit, slow readers, resets and half-closes.
func TestCALL14OneTerminalEventUnderRandomSchedules(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			c := &chaos{t: t, rnd: rand.New(rand.NewPCG(seed, 14)), seen: map[string]*fate{}}
			c.run(seed)
		})
	}
}

// chaos is a bare peer that behaves at random.
type chaos struct {
	t    *testing.T
	rnd  *rand.Rand
	conn protocols.Connection

	mu   sync.Mutex
	seen map[string]*fate
}

// fate is what the peer saw of one request.
type fate struct {
	home     int
	terminal []string
	after    int // events after the terminal one
	stream   bool
	lost     bool // its home stream was reset
}

// chaotic returns operations that behave at random, fixed by their input.
func chaotic() []call.Operation {
	type plan struct {
		Sleep, Values int
		Deaf          bool
		End           string
		Size          int
	}
	pause := func(ctx context.Context, p plan) {
		if p.Deaf {
			time.Sleep(time.Duration(p.Sleep) * time.Millisecond)
			return
		}
		select {
		case <-time.After(time.Duration(p.Sleep) * time.Millisecond):
		case <-ctx.Done():
		}
	}
	finish := func(p plan) (any, error) {
		switch p.End {
		case "error":
			return nil, errors.New("failed")
		case "forbidden":
			return nil, call.Errorf(call.CodeForbidden, "no")
		case "panic":
			panic("chaos")
		}
		return strings.Repeat("v", p.Size), nil
	}
	return []call.Operation{
		query("chaos/call", func(ctx context.Context, r *call.Request) (any, error) {
			var p plan
			if err := r.Decode(&p); err != nil {
				return nil, err
			}
			pause(ctx, p)
			return finish(p)
		}),
		stream("chaos/stream", func(ctx context.Context, r *call.Request, emit func(any) error) error {
			var p plan
			if err := r.Decode(&p); err != nil {
				return err
			}
			for range p.Values {
				pause(ctx, p)
				if err := emit(strings.Repeat("v", p.Size)); err != nil && !p.Deaf {
					return err
				}
			}
			_, err := finish(p)
			return err
		}),
	}
}

func (c *chaos) run(seed uint64) {
	server := call.New(call.Config{})
	require.NoError(c.t, server.Register(chaotic()...))
	a, b := protocols.Pipe(call.ALPN)
	c.conn = b
	node := serve(c.t, a, server, known())
	const streams = 4
	var open [streams]protocols.Stream
	for i := range open {
		s, err := b.OpenStream(c.t.Context())
		require.NoError(c.t, err)
		open[i] = s
		go c.read(s, i)
	}
	for i := range 60 {
		c.step(open[:], i)
		if c.rnd.IntN(3) == 0 {
			time.Sleep(time.Duration(c.rnd.IntN(40)) * time.Millisecond)
		}
	}
	time.Sleep(3 * time.Hour)
	synctest.Wait()
	c.mu.Lock()
	for id, f := range c.seen {
		if n := len(f.terminal); n > 1 || n == 0 && !f.lost || f.after > 0 {
			c.t.Errorf("seed %d, request %s: terminal events %v, then %d more", seed, id, f.terminal, f.after)
		}
	}
	c.mu.Unlock()
	node.stop()
	_ = b.Close(0, "over")
	synctest.Wait()
	time.Sleep(time.Hour)
}

// step does one random thing.
func (c *chaos) step(open []protocols.Stream, i int) {
	at := c.rnd.IntN(len(open))
	id := fmt.Sprint("r", i)
	if i > 0 && c.rnd.IntN(3) == 0 {
		id = fmt.Sprint("r", c.rnd.IntN(i))
	}
	c.mu.Lock()
	f := c.seen[id]
	c.mu.Unlock()
	switch n := c.rnd.IntN(100); {
	case f != nil && n < 60:
		c.say(open[at], `{"type":"call.aborted","id":"%s","payload":{}}`, id)
	case f != nil:
		c.say(open[at], `{"type":"call.credit","id":"%s","payload":{"items":%d}}`, id, 1+c.rnd.IntN(20))
	case n < 2: // reset a stream, not the last one
		if at > 0 {
			c.mu.Lock()
			for _, f := range c.seen {
				f.lost = f.lost || f.home == at
			}
			c.mu.Unlock()
			_ = open[at].Reset(protocols.CodeAborted)
		}
	case n < 4:
		if at > 1 {
			_ = open[at].CloseWrite()
		}
	default:
		c.request(open[at], at, id)
	}
}

func (c *chaos) request(s protocols.Stream, at int, id string) {
	size := c.rnd.IntN(50)
	if c.rnd.IntN(5) == 0 {
		size = c.rnd.IntN(200_000)
	}
	plan := fmt.Sprintf(`{"Sleep":%d,"Values":%d,"Deaf":%t,"End":%q,"Size":%d}`,
		c.rnd.IntN(100), c.rnd.IntN(12), c.rnd.IntN(4) == 0,
		[]string{"", "", "error", "forbidden", "panic"}[c.rnd.IntN(5)], size)
	op := []string{"call", "stream"}[c.rnd.IntN(2)]
	extra := ""
	if c.rnd.IntN(3) == 0 {
		extra += fmt.Sprintf(`,"timeout_ms":%d`, 1+c.rnd.IntN(120))
	} else if op == "stream" {
		extra += fmt.Sprintf(`,"window":%d,"timeout_ms":200000`, 1+c.rnd.IntN(5))
	}
	c.mu.Lock()
	c.seen[id] = &fate{home: at, stream: op == "stream"}
	c.mu.Unlock()
	if !c.say(s, `{"type":"call.requested","id":"%s","payload":{"operationId":"/chaos/%s","input":%s%s}}`, id, op, plan, extra) {
		c.mu.Lock()
		delete(c.seen, id)
		c.mu.Unlock()
	}
}

func (c *chaos) say(s protocols.Stream, format string, args ...any) bool {
	body := fmt.Sprintf(format, args...)
	_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err == nil
}

// read notes what arrives; some streams are read slowly.
func (c *chaos) read(s protocols.Stream, n int) {
	for {
		body, err := readFrame(s)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.mu.Lock()
				for _, f := range c.seen {
					f.lost = f.lost || f.home == n
				}
				c.mu.Unlock()
			}
			return
		}
		var env struct{ Type, ID string }
		if err := json.Unmarshal([]byte(body), &env); err != nil {
			c.t.Errorf("not JSON: %.80s", body)
			return
		}
		c.mu.Lock()
		f := c.seen[env.ID]
		if len(f.terminal) > 0 {
			f.after++
		}
		if env.Type != "call.responded" || !f.stream {
			f.terminal = append(f.terminal, env.Type)
		}
		c.mu.Unlock()
		if n%2 == 1 {
			time.Sleep(time.Millisecond)
		}
	}
}

// Both ends are nodes; calls are cancelled, time out, and the session ends in
// the middle. Every call and subscription returns, and nothing is left behind.
func TestCALL46EverythingEndsUnderRandomSchedules(t *testing.T) {
	for seed := range uint64(25) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 46))
			server := call.New(call.Config{})
			require.NoError(t, server.Register(chaotic()...))
			a, b := protocols.Pipe(call.ALPN)
			client := serve(t, a, call.New(call.Config{}), known())
			node := serve(t, b, server, known())
			s := client.session(t)
			var wg sync.WaitGroup
			for range 40 {
				input := map[string]any{
					"Sleep": rnd.IntN(100), "Values": rnd.IntN(100), "Deaf": rnd.IntN(4) == 0, "Size": rnd.IntN(60_000),
					"End": []string{"", "error", "panic"}[rnd.IntN(3)],
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(300))*time.Millisecond)
				take, subscribe := rnd.IntN(40), rnd.IntN(2) == 0
				wg.Go(func() {
					defer cancel()
					if subscribe {
						err := drainSome(ctx, s, input, take)
						if err != nil && !errors.Is(err, io.EOF) {
							require.ErrorAs(t, err, new(*call.Error)) // CALL-56
						}
						return
					}
					_, err := s.Call(ctx, "chaos/call", input)
					if err != nil {
						require.ErrorAs(t, err, new(*call.Error))
					}
				})
				time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
			}
			switch rnd.IntN(3) {
			case 0:
				_ = a.Close(protocols.CodeShutdown, "over")
			case 1:
				node.cancel()
			}
			wg.Wait()
			client.stop()
			node.stop()
			_, err := s.Call(t.Context(), "chaos/call", nil)
			require.ErrorIs(t, err, call.ErrSessionClosed)
			synctest.Wait()
			time.Sleep(time.Hour)
		})
	}
}

func drainSome(ctx context.Context, s *call.Session, input any, take int) error {
	sub, err := s.Subscribe(ctx, "chaos/stream", input)
	if err != nil {
		return err
	}
	defer sub.Close()
	for range take {
		if _, err := sub.Next(ctx); err != nil {
			return err
		}
	}
	return nil
}
