package transport_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport"
)

// PATH-25, PATH-37: a node whose clock is years off is found by its key, and
// finds others, by records: it shares no relay with them.
func TestPATH25NodeWithWrongClock(t *testing.T) {
	for name, off := range map[string]time.Duration{
		"ahead":  2 * 365 * 24 * time.Hour,
		"behind": -2 * 365 * 24 * time.Hour,
		"1970":   -time.Since(time.Unix(60, 0)),
	} {
		for relays, homes := range map[string]int{"one relay": 1, "two relays": 2} {
			t.Run(name+", "+relays, func(t *testing.T) {
				var near []*transport.Host
				for range homes {
					near = append(near, newHost(t, func(c *transport.Config) {
						joining(t, near...)(c)
						c.Relay, c.Listen = &transport.RelayConfig{}, loopback
					}))
				}
				wrong := newHost(t, func(c *transport.Config) {
					joining(t, near...)(c)
					c.SetClock(func() time.Time { return time.Now().Add(off) })
				})
				right := newHost(t, joining(t, near...))
				require.NoError(t, wrong.Online(within(t, 10*time.Second)))
				require.NoError(t, right.Online(within(t, 10*time.Second)))
				// Two relays have to be linked before they are believed.
				require.Eventually(t, func() bool { return right.LooksUp(t.Context(), wrong) && wrong.LooksUp(t.Context(), right) },
					20*time.Second, 100*time.Millisecond)
				echo(t, right, wrong)
				echo(t, wrong, right)
			})
		}
	}
}
