package discovery

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

// PATH-37: published on change and hourly; a failure is tried again soon, then
// more and more seldom; a burst of changes is two.
func TestPATH37PublishedOnChangeAndHourly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		cache, err := openCache("", testNetwork, log)
		require.NoError(t, err)
		addrs := boxed([]ma.Multiaddr(nil))
		d := &Discovery{
			cfg: Config{
				Key: testKey(1), Network: testNetwork, Now: time.Now,
				Content: func() Content { return Content{Addrs: addrs.get()} },
			},
			self: testID(1), log: log, cache: cache,
		}
		puts, failure := boxed([]*Record(nil)), boxed[error](nil)
		d.outlets = []*outlet{{name: "test", changed: make(chan struct{}, 1), put: func(_ context.Context, r *Record) error {
			puts.set(append(puts.get(), r)) // by one goroutine at a time
			return failure.get()
		}}}
		ctx, cancel := context.WithCancel(t.Context())
		go d.keepPublished(ctx, d.outlets[0])

		// after waits and returns what was put meanwhile.
		after := func(wait time.Duration) []*Record {
			time.Sleep(wait)
			synctest.Wait()
			defer puts.set(nil)
			return puts.get()
		}
		require.Empty(t, after(time.Hour), "there is nothing to say yet")

		addrs.set(addrsOf("/ip4/203.0.114.1/tcp/4001"))
		for range 5 {
			d.Changed()
		}
		got := after(time.Second)
		require.NotEmpty(t, got)
		require.LessOrEqual(t, len(got), 2, "the first at once, the others together")
		first := got[0]

		// Hourly, signed anew each time.
		got = after(5 * time.Hour)
		require.GreaterOrEqual(t, len(got), 4)
		require.LessOrEqual(t, len(got), 6)
		for _, r := range got {
			require.Greater(t, r.Seq, first.Seq)
			require.Equal(t, first.Addrs, r.Addrs)
			first = r
		}

		// Changed but the same: put again, not signed again.
		d.Changed()
		again := after(time.Second)
		d.Changed()
		require.Equal(t, again, after(time.Second))

		failure.set(errors.New("nobody there"))
		d.Changed()
		require.Len(t, after(12*time.Second), 4, "at 0, about 1, 3 and 7 s")
		n := len(after(time.Hour))
		require.GreaterOrEqual(t, n, 50)
		require.LessOrEqual(t, n, 75)
		failure.set(nil)
		require.Len(t, after(70*time.Second), 1)
		require.Empty(t, after(50*time.Minute))
		cancel()
		synctest.Wait()
	})
}
