package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	publishEvery   = time.Hour
	recordMaxAge   = 45 * time.Minute // older than this is signed anew when published
	publishGap     = 200 * time.Millisecond
	publishRetry   = time.Second
	publishBackoff = time.Minute
)

var (
	errNothing = errors.New("nothing to publish: no relay and no address yet")
	errNewer   = errors.New("a newer record of this key is published; is the key in use twice?")
)

// outlet is one place where our record is published.
type outlet struct {
	name    string
	put     func(context.Context, *Record) error
	changed chan struct{}
}

// own is what this node last signed.
type own struct {
	mu   sync.Mutex
	last *Record
	seq  uint64 // the highest seen with our signature
}

// Changed says that Content or OwnRelays may say something new; what is new is
// published soon. It never blocks.
func (d *Discovery) Changed() {
	for _, o := range d.outlets {
		select {
		case o.changed <- struct{}{}:
		default:
		}
	}
}

// Publish publishes the record of this node now and returns when our relays
// and the DHT have answered: nil if it reached either. There is no need to call
// it besides: changes are published after Changed, and everything hourly.
func (d *Discovery) Publish(ctx context.Context) error {
	errs := make([]error, len(d.outlets))
	var wg sync.WaitGroup
	for i, o := range d.outlets {
		wg.Add(1)
		if !d.begin(func() {
			defer wg.Done()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(d.ctx, cancel)()
			errs[i] = d.publishTo(ctx, o)
		}) {
			wg.Done()
			errs[i] = ErrClosed
		}
	}
	wg.Wait()
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("publish addresses: %w", errors.Join(errs...))
}

// keepPublished publishes on change and hourly, and again after a failure.
func (d *Discovery) keepPublished(ctx context.Context, o *outlet) {
	retry := publishRetry
	for {
		wait := publishEvery
		switch err := d.publishTo(ctx, o); {
		case err == nil:
			retry = publishRetry
		case errors.Is(err, errNothing):
			wait = publishBackoff
		default:
			d.log.Debug("addresses not published", "to", o.name, "err", err)
			wait, retry = retry, min(2*retry, publishBackoff)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(publishGap): // what changes meanwhile is one
		}
		select {
		case <-ctx.Done():
			return
		case <-o.changed:
		case <-time.After(jitter(wait)):
		}
	}
}

func (d *Discovery) publishTo(ctx context.Context, o *outlet) error {
	r, err := d.ownRecord()
	if err != nil {
		return err
	}
	if r == nil {
		return errNothing
	}
	return o.put(ctx, r)
}

// ownRecord returns the record to publish, signed anew if the content changed
// or the last one is old; nil when there is nothing to say.
func (d *Discovery) ownRecord() (*Record, error) {
	d.own.mu.Lock()
	defer d.own.mu.Unlock()
	content := d.cfg.Content()
	relays, addrs := Trim(content.Relays, content.Addrs)
	if len(relays) == 0 && len(addrs) == 0 {
		return nil, nil
	}
	now := d.cfg.Now()
	if d.own.last == nil {
		d.own.last = d.cache.record(d.self)
	}
	if last := d.own.last; last != nil {
		d.own.seq = max(d.own.seq, last.Seq)
		age := now.Sub(time.UnixMilli(int64(last.Seq)))
		if last.Seq == d.own.seq && age.Abs() < recordMaxAge && d.says(last, relays, addrs) {
			return last, nil
		}
	}
	seq := uint64(now.UnixMilli())
	// A Seq further ahead is from a wrong clock, and nobody took it.
	if d.own.seq <= seq+uint64(MaxRecordAhead.Milliseconds()) {
		seq = max(seq, d.own.seq+1)
	}
	r, err := d.sign(seq, relays, addrs)
	if err != nil {
		return nil, err
	}
	// Kept before anyone else has it: after a crash a higher Seq must follow.
	d.cache.putRecord(r, now)
	if d.server != nil {
		d.server.table.put(r.value(), now)
		for _, h := range d.handOvers {
			d.server.table.put(h.value(), now)
		}
	}
	d.own.last, d.own.seq = r, seq
	return r, nil
}

// says reports whether r is what this node would sign now, but for the times.
func (d *Discovery) says(r *Record, relays []peer.AddrInfo, addrs []ma.Multiaddr) bool {
	return r.Next == d.cfg.Next && r.Generation == d.cfg.Generation && sameAddrs(r.Addrs, addrs) &&
		slices.EqualFunc(r.Relays, relays, func(a, b peer.AddrInfo) bool {
			return a.ID == b.ID && sameAddrs(a.Addrs, b.Addrs)
		})
}

// sign makes the record of this node, dropping addresses if it gets too large.
func (d *Discovery) sign(seq uint64, relays []peer.AddrInfo, addrs []ma.Multiaddr) (*Record, error) {
	for {
		raw, err := Seal(d.cfg.Key, &Record{
			Network:    d.cfg.Network,
			Peer:       d.self,
			Next:       d.cfg.Next,
			Seq:        seq,
			Expiry:     time.UnixMilli(int64(seq)).Add(MaxRecordLife),
			Generation: d.cfg.Generation,
			Relays:     relays,
			Addrs:      addrs,
		})
		if err == nil {
			return openRecord(raw, d.cfg.Network, d.self)
		}
		if !errors.Is(err, errRecordSize) {
			return nil, err
		}
		relays, addrs = shrink(relays, addrs)
	}
}

// putRelays gives the record to our relays; an error if it did not reach all
// of them.
func (d *Discovery) putRelays(ctx context.Context, r *Record) error {
	relays := d.cfg.OwnRelays()
	errs := make([]error, len(relays))
	var wg sync.WaitGroup
	for i, relay := range relays {
		if relay.ID == d.self {
			continue
		}
		wg.Go(func() { errs[i] = d.putRelay(ctx, relay, r) })
	}
	wg.Wait()
	if len(relays) == 0 {
		return errNothing
	}
	return errors.Join(errs...)
}

func (d *Discovery) putRelay(ctx context.Context, relay peer.AddrInfo, r *Record) error {
	d.remember(relay)
	newer, err := d.client.put(ctx, relay.ID, r)
	if err != nil {
		return fmt.Errorf("relay %s: %w", relay.ID, err)
	}
	if newer != nil {
		d.outbid(newer)
		return fmt.Errorf("relay %s: %w", relay.ID, errNewer)
	}
	for _, h := range d.handOvers {
		if err := d.client.putHandOver(ctx, relay.ID, h); err != nil {
			return fmt.Errorf("hand-over to relay %s: %w", relay.ID, err)
		}
	}
	return nil
}

func (d *Discovery) putDHT(ctx context.Context, r *Record) error {
	if err := d.dht.put(ctx, r.value()); err != nil {
		return err
	}
	for _, h := range d.handOvers {
		if err := d.dht.put(ctx, h.value()); err != nil {
			return fmt.Errorf("hand-over: %w", err)
		}
	}
	return nil
}

// outbid makes the next record of this node newer than r, one it signed in an
// earlier life that was forgotten.
func (d *Discovery) outbid(r *Record) {
	d.own.mu.Lock()
	defer d.own.mu.Unlock()
	d.own.seq = max(d.own.seq, r.Seq)
}
