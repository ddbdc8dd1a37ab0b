package discovery

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// depot is a DHT that takes time, and fails when told.
type depot struct {
	mu            sync.Mutex
	puts          []value
	running, most int
	takes         time.Duration
	err           error
}

func (d *depot) put(ctx context.Context, v value) error {
	d.mu.Lock()
	d.puts = append(d.puts, v)
	d.running++
	d.most = max(d.most, d.running)
	takes, err := d.takes, d.err
	d.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running--
	return err
}

// after waits and returns the Seqs put meanwhile.
func (d *depot) after(wait time.Duration) []uint64 {
	time.Sleep(wait)
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	seqs := []uint64{}
	for _, v := range d.puts {
		seqs = append(seqs, v.order)
	}
	d.puts = nil
	return seqs
}

func (d *depot) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func deposited(t *testing.T, f func(t *testing.T, d *deposits, dht *depot)) {
	synctest.Test(t, func(t *testing.T) {
		dht := new(depot)
		d := startDeposits(slog.New(slog.DiscardHandler), dht.put)
		defer d.Close()
		f(t, d, dht)
	})
}

func recordOf(p peer.ID, seq uint64) value { return value{key: RecordKey(p), order: seq} }

// Changes that follow each other closely are one; what is there is not put again.
func TestDepositsOfOneKeyAreOne(t *testing.T) {
	deposited(t, func(t *testing.T, d *deposits, dht *depot) {
		p := somePeer(1)
		for seq := uint64(1); seq <= 50; seq++ {
			d.add(p, recordOf(p, seq))
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, []uint64{1}, dht.after(time.Second))
		d.add(p, recordOf(p, 7)) // older than the one that waits
		require.Equal(t, []uint64{50}, dht.after(depositGap))
		d.add(p, recordOf(p, 50))
		d.add(p, recordOf(p, 49))
		require.Empty(t, dht.after(time.Hour))
		d.add(p, recordOf(p, 51))
		require.Equal(t, []uint64{51}, dht.after(0), "at once after a pause")
	})
}

func TestDepositsAreBounded(t *testing.T) {
	deposited(t, func(t *testing.T, d *deposits, dht *depot) {
		// Of one carrier.
		for i := range 100 {
			d.add(somePeer(0), recordOf(somePeer(i), 1))
		}
		require.Len(t, dht.after(time.Minute), depositsOfPeerAtOnce)

		// Of many, at once and a second.
		dht.takes = 100 * time.Millisecond
		for i := range 400 {
			d.add(somePeer(i), recordOf(somePeer(1000+i), 1))
		}
		require.Len(t, dht.after(time.Second-time.Millisecond), depositsAtOnce+depositsPerSecond-1)
		require.Len(t, dht.after(time.Minute), 400-(depositsAtOnce+depositsPerSecond-1), "none is lost")
		dht.takes = dhtLookup
		for i := range 100 {
			d.add(somePeer(i), recordOf(somePeer(2000+i), 1))
		}
		require.Len(t, dht.after(time.Second), depositsAtOnce)
		require.Equal(t, depositsAtOnce, dht.most)

		// In waiting.
		for i := range 2 * depositsWaiting {
			d.add(somePeer(i), recordOf(somePeer(10_000+i), 1))
			time.Sleep(time.Second / addrOpens)
		}
		d.mu.Lock()
		waiting := len(d.waiting)
		d.mu.Unlock()
		require.Equal(t, depositsWaiting, waiting)
	})
}

// What no other server took is tried again, less and less often; a newer record
// is tried at once.
func TestDepositsAreTriedAgain(t *testing.T) {
	deposited(t, func(t *testing.T, d *deposits, dht *depot) {
		dht.fail(errors.New("alone"))
		p := somePeer(1)
		d.add(p, recordOf(p, 1))
		require.Len(t, dht.after(71*time.Second), 4, "at 0, 10, 30 and 70 s")
		d.add(p, recordOf(p, 1))
		require.Empty(t, dht.after(0), "it waits already")
		d.add(p, recordOf(p, 2))
		require.Equal(t, []uint64{2}, dht.after(depositGap))
		dht.fail(nil)
		require.Equal(t, []uint64{2}, dht.after(time.Hour))

		// Given up in the end; the same record may come again then.
		dht.fail(errors.New("alone"))
		d.add(p, recordOf(p, 3))
		require.Len(t, dht.after(12*time.Hour), depositTries)
		dht.fail(nil)
		d.add(p, recordOf(p, 3))
		require.Equal(t, []uint64{3}, dht.after(time.Second))
	})
}

// A put that fails late does not bring back an older record.
func TestDepositsFailedLate(t *testing.T) {
	deposited(t, func(t *testing.T, d *deposits, dht *depot) {
		p := somePeer(1)
		dht.takes = 2 * depositGap
		dht.fail(errors.New("too slow"))
		d.add(p, recordOf(p, 1))
		require.Equal(t, []uint64{1}, dht.after(time.Second))
		dht.fail(nil)
		d.add(p, recordOf(p, 2))
		require.Equal(t, []uint64{2}, dht.after(time.Hour))
	})
}
