package call_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

// BenchmarkCall is a 64-byte echo over an in-memory session, by calls in
// flight.
func BenchmarkCall(b *testing.B) {
	payload := json.RawMessage(`"` + strings.Repeat("x", 62) + `"`)
	for _, bench := range []struct {
		name   string
		flight int
	}{{"1", 1}, {"16", 16}, {"64", 64}} {
		b.Run("inflight="+bench.name, func(b *testing.B) {
			benchmarkCalls(b, pair(b, known(), call.Echo()), payload, bench.flight)
		})
	}
}

func benchmarkCalls(b *testing.B, s *call.Session, payload json.RawMessage, flight int) {
	b.Helper()
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for range flight {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := s.Call(context.Background(), "node/echo", payload); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.False(b, b.Failed())
}
