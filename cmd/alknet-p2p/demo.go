package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

const (
	demoTimeout = 60 * time.Second
	demoCalls   = 100
	demoItems   = 5
)

func newDemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the whole story on this machine, without any set-up",
		Long: `Starts three nodes with fresh keys in this process, which talk over real
sockets of this machine: a relay that is also the way into the network, and
Alice and Bob, who know nothing but that relay. Bob finds Alice by her key,
calls an operation of hers and subscribes to another.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTimeout)
			defer cancel()
			d := &demo{app: a, started: time.Now(), log: a.logger(slog.LevelError)}
			defer d.close()
			return d.run(ctx)
		},
	}
}

// demo is one run of the story.
type demo struct {
	app     *app
	started time.Time
	log     *slog.Logger
	nodes   []*node.Node // in the order they were started
}

// demoStep is a line of the demo with --json.
type demoStep struct {
	Step   string  `json:"step"`
	MS     float64 `json:"ms"` // since the demo began
	Detail string  `json:"detail"`
}

// demoResult is the last line.
type demoResult struct {
	OK        bool     `json:"ok"`
	Path      string   `json:"path"`
	FirstByte *float64 `json:"first_byte_ms"`
	Direct    *float64 `json:"direct_ms"`
	Calls     int      `json:"calls"`
}

func (d *demo) run(ctx context.Context) error {
	relay, err := d.start(ctx, "relay", node.Config{Relay: &node.RelayConfig{}}, nil)
	if err != nil {
		return err
	}
	join := []string{relay.Ticket()}
	alice, err := d.start(ctx, "alice", node.Config{Join: join}, []call.Operation{greet(), clock()})
	if err != nil {
		return err
	}
	bob, err := d.start(ctx, "bob", node.Config{Join: join}, nil)
	if err != nil {
		return err
	}
	if err := alice.Online(ctx); err != nil {
		return fmt.Errorf("alice does not come online: %w", err)
	}
	if err := d.step("online", "alice can be reached through the relay"); err != nil {
		return err
	}
	result, err := d.find(ctx, alice, bob)
	if err != nil {
		return err
	}
	if result.Calls, err = d.talk(ctx, alice, bob); err != nil {
		return err
	}
	result.Path = string(bob.Path(alice.ID()).Kind)
	result.OK = true
	if d.app.json {
		return writeJSON(d.app.out, result)
	}
	return d.step("done", fmt.Sprintf("path %s, first answer %s after dialling, %d calls",
		d.app.pathWord(result.Path), milliseconds(result.FirstByte), result.Calls))
}

// start starts a node with a fresh key on the loopback interface.
func (d *demo) start(ctx context.Context, name string, cfg node.Config, ops []call.Operation) (*node.Node, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	cfg.Key = key
	cfg.Network = "demo"
	cfg.NoMDNS = true // else Bob might hear Alice and need not find her
	cfg.Listen = []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}
	cfg.Logger = d.log
	n, err := node.New(cfg)
	if err != nil {
		return nil, err
	}
	if err := n.Calls().Register(ops...); err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	d.nodes = append(d.nodes, n)
	return n, d.step(name, n.Key())
}

// find lets Bob dial Alice by nothing but her key.
func (d *demo) find(ctx context.Context, alice, bob *node.Node) (*demoResult, error) {
	replies, ping := bob.Ping(ctx, alice.Key(), node.PingOptions{Count: 3, Interval: 50 * time.Millisecond})
	for p := range replies {
		if p.Lost {
			return nil, errors.New("alice does not answer")
		}
		if err := d.step("ping", fmt.Sprintf("%s, %s", p.Path, milliseconds(p.RTT))); err != nil {
			return nil, err
		}
	}
	if ping.Err != nil {
		return nil, fmt.Errorf("bob cannot reach alice: %w", ping.Err)
	}
	return &demoResult{FirstByte: ping.FirstByte, Direct: ping.Direct}, nil
}

// talk lets Bob call and subscribe.
func (d *demo) talk(ctx context.Context, alice, bob *node.Node) (calls int, err error) {
	began := time.Now()
	for ; calls < demoCalls; calls++ {
		out, err := bob.Call(ctx, alice.Key(), "demo/greet", map[string]string{"name": "Bob"})
		if err != nil {
			return calls, err
		}
		if calls == 0 {
			if err := d.step("call", "demo/greet answers "+string(out)); err != nil {
				return calls, err
			}
		}
	}
	each := float64(time.Since(began).Microseconds()) / 1000 / demoCalls
	if err := d.step("calls", fmt.Sprintf("%d calls, %.2f ms each", calls, each)); err != nil {
		return calls, err
	}
	s, err := bob.CallSession(ctx, alice.Key())
	if err != nil {
		return calls, err
	}
	sub, err := s.Subscribe(ctx, "demo/clock", nil)
	if err != nil {
		return calls, err
	}
	n := 0
	for item, err := range sub.All(ctx) {
		if err != nil {
			return calls, err
		}
		if err := d.step("item", string(item)); err != nil {
			return calls, err
		}
		n++
	}
	if n != demoItems {
		return calls, fmt.Errorf("the subscription gave %d items of %d", n, demoItems)
	}
	return calls, nil
}

// step prints a line.
func (d *demo) step(step, detail string) error {
	ms := float64(time.Since(d.started).Microseconds()) / 1000
	if d.app.json {
		return writeJSON(d.app.out, demoStep{step, ms, detail})
	}
	_, err := fmt.Fprintf(d.app.out, "%8.1f ms  %-8s %s\n", ms, step, detail)
	return err
}

// close stops the nodes, the relay last.
func (d *demo) close() {
	for _, n := range slices.Backward(d.nodes) {
		_ = n.Close()
	}
}

func greet() call.Operation {
	return call.Operation{
		Spec: call.Spec{
			Name:        "demo/greet",
			InputSchema: []byte(`{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}`),
		},
		Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
			var in struct {
				Name string `json:"name"`
			}
			if err := r.Decode(&in); err != nil {
				return nil, err
			}
			return map[string]string{"greeting": "Hello " + in.Name + ", this is Alice"}, nil
		}),
	}
}

func clock() call.Operation {
	return call.Operation{
		Spec: call.Spec{Name: "demo/clock", Type: call.OpSubscription},
		Stream: call.StreamHandlerFunc(func(ctx context.Context, _ *call.Request, emit func(any) error) error {
			for i := range demoItems {
				if err := emit(map[string]any{"tick": i + 1}); err != nil {
					return err
				}
				if err := sleep(ctx, 20*time.Millisecond); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}
