package discovery

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// maxAsked bounds the relays asked in one Resolve.
const maxAsked = 8

// Source says where a result came from.
type Source string

// The sources of Resolve.
const (
	SourceCache Source = "cache"
	SourceRelay Source = "relay"
	SourceDHT   Source = "dht"
	SourceMDNS  Source = "mdns"
)

// Found is one result of Resolve.
type Found struct {
	Source Source
	// From is the relay that answered, "" for other sources.
	From peer.ID
	// Record is what the peer signed; nil with SourceMDNS. One from the cache
	// may have expired and is a hint even then.
	Record *Record
	// Addrs are the peer's own addresses: those of Record, or those seen on the
	// local network.
	Addrs []ma.Multiaddr
}

// Resolve looks for the addresses of p in all places at once and sends what it
// finds as it comes: first what is remembered, then, from relays, the DHT and
// the local network, whatever is newer than all before. The channel is closed
// when every source has answered or failed, or when ctx or the Discovery ends;
// who stops reading earlier must end ctx. Nothing sent means nothing found.
//
// Our own relays are asked, those of via (such as the relays in a ticket), those
// that p's last record names, and the bootstrap nodes. With RelaysOnly nobody
// else is, and not those that the record names: p could name a machine of its
// own there, to see who looks for it.
func (d *Discovery) Resolve(ctx context.Context, p peer.ID, via ...peer.AddrInfo) <-chan Found {
	out := make(chan Found, 4)
	if !d.begin(func() {
		defer close(out)
		d.resolve(ctx, p, via, out)
	}) {
		close(out)
	}
	return out
}

func (d *Discovery) resolve(ctx context.Context, p peer.ID, via []peer.AddrInfo, out chan<- Found) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()

	s := &search{d: d, out: out}
	last := d.cache.record(p)
	s.record(ctx, Found{Source: SourceCache, Record: last})

	// The local network is watched for as long as the others look.
	watch, stopWatch := d.watchLAN(p)
	defer stopWatch()
	others, stopOthers := context.WithCancel(ctx)
	var wg, lan sync.WaitGroup
	lan.Go(func() {
		for {
			select {
			case info := <-watch:
				s.send(ctx, Found{Source: SourceMDNS, Addrs: info.Addrs})
			case <-others.Done():
				return
			}
		}
	})
	for _, relay := range d.relaysToAsk(p, last, via) {
		wg.Go(func() {
			d.remember(relay)
			r, err := d.client.get(ctx, relay.ID, p)
			if err != nil {
				d.log.Debug("relay gave no addresses", "peer", p, "relay", relay.ID, "err", err)
				return
			}
			s.record(ctx, Found{Source: SourceRelay, From: relay.ID, Record: r})
		})
	}
	if d.dht != nil {
		wg.Go(func() { d.resolveDHT(ctx, p, s) })
	}
	wg.Wait()
	stopOthers()
	lan.Wait()
}

func (d *Discovery) resolveDHT(ctx context.Context, p peer.ID, s *search) {
	err := d.dht.search(ctx, RecordKey(p), func(raw []byte) {
		if r, err := OpenRecord(raw, d.cfg.Network, p, d.cfg.Now()); err == nil {
			s.record(ctx, Found{Source: SourceDHT, Record: r})
		}
	})
	if err != nil {
		d.log.Debug("DHT gave no addresses", "peer", p, "err", err)
	}
}

// search is one Resolve under way.
type search struct {
	d   *Discovery
	out chan<- Found

	mu   sync.Mutex
	best *Record
}

// record sends f if its record is the newest so far, and remembers it.
func (s *search) record(ctx context.Context, f Found) {
	if f.Record == nil {
		return
	}
	s.mu.Lock()
	now := s.d.cfg.Now()
	newer := f.Record.replaces(s.best, now)
	if newer {
		s.best = f.Record
		f.Addrs = f.Record.Addrs
		s.send(ctx, f) // under the lock, so that results come in order
	}
	s.mu.Unlock()
	if newer {
		s.d.cache.putRecord(f.Record, now)
	}
}

func (s *search) send(ctx context.Context, f Found) {
	select {
	case s.out <- f:
	case <-ctx.Done():
	}
}

// handOverSettle is how long a newer hand-over is waited for when there is one.
const handOverSettle = 500 * time.Millisecond

// FindHandOver looks for the hand-over to the key behind a commitment, at relays
// and in the DHT; nil when there is none. What it returns was signed by that
// key, and by whichever key it names as the old one.
func (d *Discovery) FindHandOver(ctx context.Context, commitment [32]byte) (*HandOver, error) {
	found := make(chan *HandOver)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !d.begin(func() {
		defer close(found)
		defer context.AfterFunc(d.ctx, cancel)()
		send := func(h *HandOver) {
			if h == nil || h.checkClock(d.cfg.Now()) != nil {
				return
			}
			select {
			case found <- h:
			case <-ctx.Done():
			}
		}
		var wg sync.WaitGroup
		for _, relay := range d.relaysToAsk("", nil, nil) {
			wg.Go(func() {
				d.remember(relay)
				h, err := d.client.getHandOver(ctx, relay.ID, commitment)
				if err != nil {
					d.log.Debug("relay gave no hand-over", "relay", relay.ID, "err", err)
				}
				send(h)
			})
		}
		if d.dht != nil {
			wg.Go(func() {
				err := d.dht.search(ctx, handOverKey(commitment), func(raw []byte) {
					if h, err := openCommitted(raw, commitment); err == nil {
						send(h)
					}
				})
				if err != nil {
					d.log.Debug("DHT gave no hand-over", "err", err)
				}
			})
		}
		wg.Wait()
	}) {
		return nil, ErrClosed
	}
	var best *HandOver
	var settle *time.Timer
	for h := range found {
		if settle == nil {
			settle = time.AfterFunc(handOverSettle, cancel)
		}
		if h.Newer(best) {
			best = h
		}
	}
	if settle != nil {
		settle.Stop()
	}
	if best == nil && ctx.Err() != nil {
		return nil, fmt.Errorf("look for a hand-over: %w", context.Cause(ctx))
	}
	return best, nil
}

// relaysToAsk lists who may have the record of p, each once.
func (d *Discovery) relaysToAsk(p peer.ID, last *Record, via []peer.AddrInfo) []peer.AddrInfo {
	all := slices.Concat(d.cfg.OwnRelays(), via)
	if last != nil && !d.cfg.RelaysOnly {
		all = append(all, last.Relays...)
	}
	for _, b := range d.bootstrap() {
		if !d.cfg.RelaysOnly || d.isRelay(b.ID) {
			all = append(all, b)
		}
	}
	var ask []peer.AddrInfo
	for _, r := range all {
		if r.ID != d.self && r.ID != p && len(ask) < maxAsked && indexPeer(ask, r.ID) < 0 {
			ask = append(ask, r)
		}
	}
	return ask
}

// isRelay reports whether p is known to be a relay, without asking it.
func (d *Discovery) isRelay(p peer.ID) bool {
	if indexPeer(d.cfg.OwnRelays(), p) >= 0 || indexPeer(d.cache.knownRelays(), p) >= 0 {
		return true
	}
	offered, err := d.cfg.Host.Peerstore().SupportsProtocols(p, ProtocolID)
	return d.linked(p) && err == nil && len(offered) > 0
}

// watchLAN returns a channel on which p's addresses on the local network come,
// at once if they are known.
func (d *Discovery) watchLAN(p peer.ID) (<-chan peer.AddrInfo, func()) {
	watch := make(chan peer.AddrInfo, 1)
	if d.mdns == nil {
		return watch, func() {}
	}
	if addrs := d.mdns.addrs(p); len(addrs) > 0 {
		watch <- peer.AddrInfo{ID: p, Addrs: addrs}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watches[p] = append(d.watches[p], watch)
	return watch, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		rest := slices.DeleteFunc(d.watches[p], func(w chan peer.AddrInfo) bool { return w == watch })
		if d.watches[p] = rest; len(rest) == 0 {
			delete(d.watches, p)
		}
	}
}
