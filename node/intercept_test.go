package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// A trace context goes from the caller's program into the handler of the other
// node (CALL-12), by interceptors on both sides.
func TestCALL12TraceBetweenNodes(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traced := func(cfg *node.Config) {
		cfg.Interceptors = []call.Interceptor{call.Trace}
		cfg.CallInterceptors = []call.Interceptor{call.Trace}
	}
	relay := newRelay(t)
	a := hidden(t, relay, traced)
	require.NoError(t, call.Query(a.Calls(), "test/trace", func(ctx context.Context, _ *call.Request, _ struct{}) (string, error) {
		return call.TraceparentFromContext(ctx), nil
	}))
	start(t, a)
	b := start(t, hidden(t, relay, traced))
	require.NoError(t, a.Online(within(t, 10*time.Second)))
	ctx := call.ContextWithTraceparent(within(t, 10*time.Second), parent)
	got, err := call.Decode[string](b.Call(ctx, a.Key(), "test/trace", nil))
	require.NoError(t, err)
	require.Equal(t, parent, got)
}
