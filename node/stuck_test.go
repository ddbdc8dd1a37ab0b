package node_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// CALL-28: 32 subscribers that take nothing leave everything else on the same
// QUIC connection untouched, relayed and direct.
func TestCALL28StuckSubscribersOverMagic(t *testing.T) {
	for name, change := range map[string]func(*node.Config){
		"relayed": func(*node.Config) {},
		"direct":  func(c *node.Config) { c.Listen = loopback },
	} {
		t.Run(name, func(t *testing.T) {
			relay := start(t, newNode(t, func(c *node.Config) { c.Relay = &node.RelayConfig{Rate: -1} }))
			a := hidden(t, relay, change)
			value := strings.Repeat("v", 4_000)
			require.NoError(t, a.Calls().Register(call.Operation{
				Spec: call.Spec{Name: "test/flood", Type: call.OpSubscription},
				Stream: call.StreamHandlerFunc(func(_ context.Context, _ *call.Request, emit func(any) error) error {
					for {
						if err := emit(value); err != nil {
							return err
						}
					}
				}),
			}))
			start(t, a)
			require.NoError(t, a.Online(within(t, time.Minute)))
			b := start(t, hidden(t, relay, change))
			s, err := b.CallSession(within(t, time.Minute), a.Key())
			require.NoError(t, err)

			var stuck []*call.Subscription
			for range 32 {
				sub, err := s.Subscribe(within(t, 5*time.Minute), "test/flood", nil)
				require.NoError(t, err)
				stuck = append(stuck, sub)
			}
			for _, sub := range stuck { // each flows, then nobody takes any more
				_, err := sub.Next(within(t, time.Minute))
				require.NoError(t, err)
			}
			large := json.RawMessage(`"` + strings.Repeat("x", 100_000) + `"`)
			for range 10 {
				out, err := s.Call(within(t, time.Minute), "node/echo", large)
				require.NoError(t, err)
				require.Len(t, out, len(large))
			}
			live, err := s.Subscribe(within(t, 5*time.Minute), "test/flood", nil)
			require.NoError(t, err)
			for range 100 {
				_, err := live.Next(within(t, time.Minute))
				require.NoError(t, err)
			}
			for _, sub := range stuck[:4] { // they are stuck, not lost
				for range 40 {
					_, err := sub.Next(within(t, time.Minute))
					require.NoError(t, err)
				}
			}
			for _, sub := range stuck {
				require.NoError(t, sub.Close())
			}
			require.NoError(t, live.Close())
			require.EqualValues(t, name, b.Path(a.ID()).Kind)
		})
	}
}
