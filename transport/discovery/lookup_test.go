package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func newTestLookups(search func(context.Context, string, func([]byte)) error, keep func(value)) *lookups {
	return newLookups(testNetwork, time.Now, slog.New(slog.DiscardHandler), search, keep)
}

// somePeer is a peer ID for each number.
func somePeer(i int) peer.ID { return peerOf(fmt.Appendf(nil, "%032d", i)) }

// One search at a time for each key, however many ask, and none for a while
// after it.
func TestLookupOncePerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		record := boxed[*Record](nil)
		kept := boxed(value{})
		searches := boxed(0)
		l := newTestLookups(func(_ context.Context, _ string, found func([]byte)) error {
			searches.set(searches.get() + 1)
			time.Sleep(time.Second)
			if r := record.get(); r != nil {
				found([]byte("nonsense"))
				found(sealed(t, 2).Envelope()) // of another key
				found(r.Envelope())
			}
			return nil
		}, kept.set)
		defer l.Close()
		ask := func() {
			var wg sync.WaitGroup
			for i := range 30 {
				wg.Go(func() { require.NoError(t, l.find(somePeer(i), RecordKey(testID(1)))) })
			}
			wg.Wait()
		}
		begin := time.Now()
		ask()
		require.Equal(t, time.Second, time.Since(begin))
		require.Equal(t, 1, searches.get())
		ask()
		require.Equal(t, time.Second, time.Since(begin), "remembered that there is none")
		require.Equal(t, 1, searches.get())

		time.Sleep(lookupAgainNone)
		record.set(sealed(t, 1))
		ask()
		require.Equal(t, 2, searches.get())
		require.Equal(t, record.get().Envelope(), kept.get().raw)
		time.Sleep(lookupAgainFound - time.Millisecond)
		ask()
		require.Equal(t, 2, searches.get())
		time.Sleep(time.Millisecond)
		ask()
		require.Equal(t, 3, searches.get())
	})
}

// A search ends in time, sooner when there is a record; a newer one that comes
// meanwhile is kept.
func TestLookupIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, newer := sealed(t, 1, func(r *Record) { r.Seq -= 1000 }), sealed(t, 1)
		for _, c := range []struct {
			finds []time.Duration
			want  time.Duration
			last  *Record
		}{
			{nil, lookupTime, nil},
			{[]time.Duration{100 * time.Millisecond}, 100*time.Millisecond + lookupSettle, old},
			{[]time.Duration{100 * time.Millisecond, 200 * time.Millisecond}, 100*time.Millisecond + lookupSettle, newer},
			{[]time.Duration{lookupTime - time.Millisecond}, lookupTime, old},
		} {
			table := newTable(10, 1<<20)
			l := newTestLookups(func(ctx context.Context, _ string, found func([]byte)) error {
				begin := time.Now()
				for i, at := range c.finds {
					time.Sleep(at - time.Since(begin))
					found([]*Record{old, newer}[i].Envelope())
				}
				<-ctx.Done()
				return ctx.Err()
			}, func(v value) { table.put(v, time.Now()) })
			begin := time.Now()
			require.NoError(t, l.find(testID(9), RecordKey(testID(1))))
			require.Equal(t, c.want, time.Since(begin))
			if c.last == nil {
				require.Nil(t, table.get(RecordKey(testID(1)), time.Now()))
			} else {
				require.Equal(t, c.last.Envelope(), table.get(RecordKey(testID(1)), time.Now()))
			}
			l.Close()
		}
	})
}

// Bounds for one who asks, for all, and of what runs at once; questions beyond
// them are refused, not queued.
func TestLookupsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, most, searches := 0, 0, 0
		slow := boxed(false)
		l := newTestLookups(func(ctx context.Context, _ string, _ func([]byte)) error {
			mu.Lock()
			running++
			searches++
			most = max(most, running)
			mu.Unlock()
			if slow.get() {
				<-ctx.Done()
			}
			mu.Lock()
			running--
			mu.Unlock()
			return errors.New("nobody there")
		}, func(value) { t.Error("found something") })
		defer l.Close()
		key := 0
		flood := func(askers, each int) (ran int) {
			mu.Lock()
			before := searches
			mu.Unlock()
			for a := range askers {
				for range each {
					key++
					if _, err := l.start(somePeer(a), RecordKey(somePeer(key))); err != nil {
						require.ErrorIs(t, err, errBusy)
					}
					if !slow.get() {
						synctest.Wait()
					}
				}
			}
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return searches - before
		}
		require.Equal(t, lookupsOfPeerAtOnce, flood(1, 100))
		time.Sleep(10 * time.Second)
		require.Equal(t, lookupsOfPeerAtOnce, flood(1, 100))
		time.Sleep(5 * time.Second)
		require.Equal(t, 5*lookupsOfPeer, flood(1, 100))

		time.Sleep(time.Minute)
		require.Equal(t, lookupsPerSecond, flood(100, 10))
		time.Sleep(time.Minute)
		slow.set(true)
		require.Equal(t, lookupsAtOnce, flood(100, 10))
		require.Equal(t, lookupsAtOnce, most)
		time.Sleep(lookupTime)
		synctest.Wait()
		require.Zero(t, running)
	})
}

// Close ends what runs, and lets go who waits.
func TestLookupsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLookups(func(ctx context.Context, _ string, _ func([]byte)) error {
			<-ctx.Done()
			return ctx.Err()
		}, nil)
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() { require.NoError(t, l.find(testID(9), RecordKey(somePeer(i)))) })
		}
		synctest.Wait()
		l.Close()
		wg.Wait()
		require.Zero(t, time.Since(begin))
		require.ErrorIs(t, l.find(testID(9), RecordKey(somePeer(77))), errBusy)
		l.Close()
	})
}

// dhtOf answers every search with the record it has, and takes no deposit.
type dhtOf struct {
	record   *box[*Record]
	searches *box[int]
}

func (d dhtOf) lookup(_ context.Context, _ string, found func([]byte)) error {
	d.searches.set(d.searches.get() + 1)
	time.Sleep(100 * time.Millisecond)
	found(d.record.get().Envelope())
	return nil
}

func (dhtOf) deposit(context.Context, value) error { return errNoDHT }

// The record of a peer that has no connection to the relay is given out at once
// and looked up meanwhile; that it has moved is seen before long even when the
// first search came too early.
func TestAddrServerSeesThatPeersMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := sealed(t, 1)
		moved := sealed(t, 1, func(r *Record) { r.Seq++ })
		linked := boxed(true)
		dht := dhtOf{record: boxed(old), searches: boxed(0)}
		s := newAddrServer(testNetwork, time.Now, slog.New(slog.DiscardHandler), dht, func(peer.ID) bool { return linked.get() })
		defer s.Close()
		key, err := rawKey(testID(1))
		require.NoError(t, err)
		ask := func() []byte {
			begin := time.Now()
			kind, body := s.answer(testID(9), addrGet, key)
			require.EqualValues(t, addrFound, kind)
			require.Equal(t, begin, time.Now(), "a record that is held is not waited for")
			time.Sleep(200 * time.Millisecond)
			return body
		}
		kind, _ := s.answer(testID(1), addrPut, old.Envelope())
		require.EqualValues(t, addrStored, kind)
		require.Equal(t, old.Envelope(), ask())
		require.Zero(t, dht.searches.get(), "the peer is here")

		linked.set(false)
		require.Equal(t, old.Envelope(), ask())
		require.Equal(t, 1, dht.searches.get())
		dht.record.set(moved)
		require.Equal(t, old.Envelope(), ask())
		require.Equal(t, 1, dht.searches.get())
		time.Sleep(lookupAgainFound)
		require.Equal(t, old.Envelope(), ask())
		require.Equal(t, moved.Envelope(), ask())
		require.Equal(t, 2, dht.searches.get())
	})
}
