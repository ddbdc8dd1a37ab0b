package discovery

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

// PATH-37: relays alone are enough, and they answer first.
func TestPATH37ThroughRelaysOnly(t *testing.T) {
	relay, a, b := newHost(t, 1), newHost(t, 2), newHost(t, 3)
	start(t, Config{Host: relay, Relay: true})
	home := []peer.AddrInfo{infoOf(relay)}
	da := start(t, Config{Host: a, Content: func() Content { return Content{Relays: home} }})
	db := start(t, Config{Host: b, OwnRelays: func() []peer.AddrInfo { return home }})

	require.NoError(t, da.Publish(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	found := db.Resolve(ctx, a.ID())
	f, ok := <-found
	require.True(t, ok)
	require.Equal(t, SourceRelay, f.Source)
	require.Equal(t, relay.ID(), f.From)
	require.Equal(t, a.ID(), f.Record.Peer)
	require.Equal(t, home[0].ID, f.Record.Relays[0].ID)
	require.Empty(t, f.Addrs)
	cancel()
	for range found {
	}

	// What was found is there at once the next time.
	all := resolveFirst(t, db, a.ID())
	require.Equal(t, SourceCache, all.Source)
	require.Equal(t, f.Record.Seq, db.Latest(a.ID()).Seq)
}

// resolveFirst returns the first result of Resolve and ends it.
func resolveFirst(t *testing.T, d *Discovery, p peer.ID, via ...peer.AddrInfo) Found {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f, ok := <-d.Resolve(ctx, p, via...)
	require.True(t, ok, "nothing found")
	return f
}

// PATH-36, PATH-30, NODE-15: a DHT of five servers found through one bootstrap
// address; and the network lives on without the node it was joined through.
func TestPATH30NetworkOutlivesBootstrap(t *testing.T) {
	boot := newHost(t, 10)
	dboot := start(t, Config{Host: boot, DHTServer: true, Relay: true})
	join := []peer.AddrInfo{infoOf(boot)}
	var servers []*Discovery
	for i := range 4 {
		h := newHost(t, byte(11+i))
		servers = append(servers, start(t, Config{
			Host: h, DHTServer: true, Bootstrap: join, Relay: i == 0,
			Content: func() Content { return Content{Addrs: h.Addrs()} },
		}))
	}
	a, b := newHost(t, 20), newHost(t, 21)
	home := func(addr string) Content {
		return Content{Relays: []peer.AddrInfo{{ID: testID(99), Addrs: addrsOf(addr)}}}
	}
	content := boxed(home("/ip4/203.0.114.1/tcp/4242"))
	da := start(t, Config{Host: a, Bootstrap: join, Content: content.get, OwnRelays: func() []peer.AddrInfo { return nil }})
	var (
		mu     sync.Mutex
		relays = make(map[peer.ID]bool)
	)
	dir := t.TempDir()
	cfg := Config{Host: b, Bootstrap: join, CacheDir: dir, FoundRelays: func(found []peer.AddrInfo) {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range found {
			relays[r.ID] = true
		}
	}}
	db := start(t, cfg)
	for _, d := range append(servers, da, db) {
		eventually(t, hasDHTPeers(d, 4))
	}

	// Found by key, with nothing but the bootstrap address to begin with: in the
	// DHT, though the bootstrap relay, which looks there too, may be the first to say.
	require.NoError(t, da.Publish(t.Context()))
	require.NotNil(t, inDHT(t, db, a.ID()))
	f := lastFound(t, resolve(t, db, a.ID()))
	require.Equal(t, testID(99), f.Record.Relays[0].ID)

	// The relays become known through their role.
	eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if !relays[boot.ID()] || !relays[servers[0].self] {
			return errors.New("relays not known yet")
		}
		return nil
	})
	require.GreaterOrEqual(t, indexPeer(db.Relays(), servers[0].self), 0)

	// And relays have the records of other relays to give out (PATH-25).
	eventually(t, func() error {
		for _, raw := range dboot.RelayRecords() {
			if _, err := OpenRecord(raw, testNetwork, servers[0].self, time.Now()); err == nil {
				return nil
			}
		}
		return errors.New("the record of the other relay is not there")
	})

	// The bootstrap node goes, and b starts again with what it remembers.
	require.NoError(t, db.Close())
	require.NoError(t, dboot.Close())
	require.NoError(t, boot.Close())
	require.NoError(t, b.Close())
	content.set(home("/ip4/203.0.114.2/tcp/4242"))
	require.NoError(t, da.Publish(t.Context()))

	b2 := newHost(t, 21)
	cfg.Host = b2
	db = start(t, cfg)
	require.NotNil(t, db.Latest(a.ID()), "the cache was lost")
	require.GreaterOrEqual(t, indexPeer(db.Relays(), servers[0].self), 0)
	all := resolve(t, db, a.ID())
	require.Equal(t, SourceCache, all[0].Source)
	f = lastFound(t, all)
	require.Equal(t, SourceDHT, f.Source)
	require.Equal(t, "/ip4/203.0.114.2/tcp/4242", f.Record.Relays[0].Addrs[0].String())

	// And a node that never saw the bootstrap node joins through another.
	c := newHost(t, 22)
	dc := start(t, Config{Host: c, Bootstrap: append(join, infoOf(servers[2].cfg.Host))})
	f = lastFound(t, resolve(t, dc, a.ID()))
	require.Equal(t, "/ip4/203.0.114.2/tcp/4242", f.Record.Relays[0].Addrs[0].String())
}

// A relay that was restarted learns our record again as soon as we are linked.
func TestRelayRestarted(t *testing.T) {
	relay, a, b := newHost(t, 1), newHost(t, 2), newHost(t, 3)
	dr := start(t, Config{Host: relay, Relay: true, DHTServer: true})
	home := boxed(Content{Relays: []peer.AddrInfo{infoOf(relay)}})
	da := start(t, Config{Host: a, Bootstrap: home.get().Relays, Content: home.get})
	require.NoError(t, da.Publish(t.Context()))
	require.NoError(t, dr.Close())
	require.NoError(t, relay.Close())

	relay = newHost(t, 1)
	dr = start(t, Config{Host: relay, Relay: true, DHTServer: true})
	require.Nil(t, dr.server.table.get(RecordKey(a.ID()), time.Now()))
	home.set(Content{Relays: []peer.AddrInfo{infoOf(relay)}})
	require.NoError(t, a.Connect(t.Context(), infoOf(relay)))
	db := start(t, Config{Host: b, Bootstrap: home.get().Relays})
	eventually(t, func() error {
		if len(resolve(t, db, a.ID())) == 0 {
			return errors.New("not published again")
		}
		return nil
	})
}

// PATH-37: seq = max(now, last + 1), kept over restarts; what did not change
// is not signed anew.
func TestPATH37SeqNeverFalls(t *testing.T) {
	h := newHost(t, 1)
	type world struct {
		now   time.Time
		addrs []ma.Multiaddr
	}
	at := time.UnixMilli(1_800_000_000_000)
	w := boxed(world{at, addrsOf("/ip4/203.0.114.1/tcp/4001")})
	cfg := Config{
		Host: h, CacheDir: t.TempDir(), Relay: true,
		Now:     func() time.Time { return w.get().now },
		Content: func() Content { return Content{Addrs: w.get().addrs} },
	}
	d := start(t, cfg)
	own := func() *Record {
		r, err := d.ownRecord()
		require.NoError(t, err)
		return r
	}
	first := own()
	require.EqualValues(t, at.UnixMilli(), first.Seq)
	require.Equal(t, at.Add(MaxRecordLife), first.Expiry.Local())
	require.Equal(t, first, own())

	// The clock goes back and the content changes: one more than the last.
	w.set(world{at.Add(-30 * time.Minute), addrsOf("/ip4/203.0.114.2/tcp/4001")})
	second := own()
	require.Equal(t, first.Seq+1, second.Seq)
	require.True(t, second.Newer(first))

	// Also after a restart.
	require.NoError(t, d.Close())
	d = start(t, cfg)
	require.Equal(t, second.Envelope(), own().Envelope())
	w.set(world{at.Add(-30 * time.Minute), addrsOf("/ip4/203.0.114.3/tcp/4001")})
	require.Equal(t, first.Seq+2, own().Seq)

	// Signed anew before it is old.
	set := func(now time.Time) { w.set(world{now, w.get().addrs}) }
	set(at.Add(2 * time.Hour))
	require.EqualValues(t, at.Add(2*time.Hour).UnixMilli(), own().Seq)

	// A clock that was far ahead does not hide the node for good.
	set(at.Add(48 * time.Hour))
	own()
	set(at.Add(3 * time.Hour))
	require.EqualValues(t, at.Add(3*time.Hour).UnixMilli(), own().Seq)
}

// A node whose cache was lost, or whose seed runs twice, learns from the relay
// that a newer record is out and outbids it.
func TestOwnRecordOutbidsForgottenOne(t *testing.T) {
	relay, a := newHost(t, 1), newHost(t, 2)
	dr := start(t, Config{Host: relay, Relay: true})
	forgotten := sealed(t, 2, func(r *Record) { r.Seq += uint64((30 * time.Minute).Milliseconds()) })
	require.Nil(t, dr.server.table.put(forgotten.value(), time.Now()))

	home := []peer.AddrInfo{infoOf(relay)}
	da := start(t, Config{Host: a, Content: func() Content { return Content{Relays: home} }})
	eventually(t, func() error {
		r, err := da.client.get(t.Context(), relay.ID(), a.ID())
		if err == nil && !r.Newer(forgotten) {
			err = errors.New("still the old one")
		}
		return err
	})
}

func TestLearnRelays(t *testing.T) {
	d1 := start(t, Config{Host: newHost(t, 1), Relay: true, Content: func() Content {
		return Content{Addrs: addrsOf("/ip4/203.0.114.1/tcp/4242")}
	}})
	found := boxed([]peer.AddrInfo(nil))
	d2 := start(t, Config{Host: newHost(t, 2), Relay: true, FoundRelays: found.set})

	other := sealed(t, 3, func(r *Record) { r.Network = "other" })
	d2.LearnRelays(slices.Concat([][]byte{other.Envelope(), {1, 2, 3}}, d1.RelayRecords()))
	require.Len(t, found.get(), 1)
	require.Equal(t, testID(1), found.get()[0].ID)
	require.Equal(t, testID(1), d2.Relays()[0].ID)
	require.NotNil(t, d2.Latest(testID(1)))
	require.Nil(t, d2.Latest(testID(3)))
	// Passed on to others.
	require.Len(t, d2.RelayRecords(), 1)
}

func TestLifecycle(t *testing.T) {
	h := newHost(t, 1)
	cfg := Config{Host: h, Key: testKey(1), Network: testNetwork}
	for name, bad := range map[string]func(*Config){
		"no host":      func(c *Config) { c.Host = nil },
		"other key":    func(c *Config) { c.Key = testKey(2) },
		"bad network":  func(c *Config) { c.Network = "Main" },
		"long network": func(c *Config) { c.Network = "a23456789012345678901234567890123" },
	} {
		c := cfg
		bad(&c)
		_, err := New(c)
		require.Error(t, err, name)
	}

	// Not started.
	d, err := New(cfg)
	require.NoError(t, err)
	require.Nil(t, d.Latest(testID(2)))
	require.ErrorIs(t, d.Publish(t.Context()), ErrClosed)
	_, open := <-d.Resolve(t.Context(), testID(2))
	require.False(t, open)
	require.NoError(t, d.Close())
	require.Error(t, d.Start(t.Context()), "closed before it was started")

	// Closed in the middle of everything, twice and at once.
	d, err = New(cfg)
	require.NoError(t, err)
	require.NoError(t, d.Start(t.Context()))
	require.Error(t, d.Start(t.Context()))
	found := d.Resolve(t.Context(), testID(2), peer.AddrInfo{ID: testID(3), Addrs: addrsOf("/ip4/127.0.0.1/tcp/9")})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { require.NoError(t, d.Close()) })
	}
	wg.Wait()
	for range found {
		t.Error("found something")
	}
	d.Changed()
	require.ErrorIs(t, d.Publish(t.Context()), ErrClosed)
	_, err = d.Learn(testID(2), nil)
	require.ErrorIs(t, err, ErrClosed)
}

// PATH-30: relays that are remembered are told at the next start, before any
// look-up, with nothing else to enter the network by.
func TestPATH30RememberedRelaysAreUsedAtOnce(t *testing.T) {
	dir := t.TempDir()
	c, err := openCache(dir, testNetwork, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	c.addRelays([]peer.AddrInfo{{ID: testID(7), Addrs: addrsOf("/ip4/203.0.114.7/tcp/4242")}}, time.Now())
	c.saveNodes()
	told := make(chan []peer.AddrInfo, 1)
	start(t, Config{Host: newHost(t, 1), CacheDir: dir, FoundRelays: func(found []peer.AddrInfo) { told <- found }})
	select {
	case found := <-told:
		require.Len(t, found, 1)
		require.Equal(t, testID(7), found[0].ID)
	case <-time.After(10 * time.Second):
		t.Fatal("not told")
	}
}

// PATH-30: a relay that was learnt of is on the disk before long, so that a node
// which is killed early finds the network without the node it joined by.
func TestPATH30LearntRelaysAreSavedSoon(t *testing.T) {
	dir := t.TempDir()
	d, err := New(Config{Host: newHost(t, 1), Key: testKey(1), Network: testNetwork})
	require.NoError(t, err)
	d.cache, err = openCache(dir, testNetwork, d.log)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var saver sync.WaitGroup
	saver.Go(func() { d.saveLearned(ctx) })
	d.foundRelays([]peer.AddrInfo{{ID: testID(7), Addrs: addrsOf("/ip4/203.0.114.7/tcp/4242")}})
	eventually(t, func() error {
		raw, err := os.ReadFile(filepath.Join(dir, nodesName))
		if err == nil && !strings.Contains(string(raw), testID(7).String()) {
			err = errors.New("not saved")
		}
		return err
	})
	cancel()
	saver.Wait()
}
