package discovery

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func openTestCache(t *testing.T, dir string) *cache {
	t.Helper()
	c, err := openCache(dir, testNetwork, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return c
}

func recordName(p peer.ID) string { return hex.EncodeToString([]byte(p[len(keyPrefix):])) }

func relayInfo(key byte) peer.AddrInfo {
	return peer.AddrInfo{ID: testID(key), Addrs: addrsOf(fmt.Sprintf("/ip4/203.0.114.%d/tcp/4242", key))}
}

// PATH-37: the last good record of every peer, over restarts, never replaced
// by an older one.
func TestCacheRecords(t *testing.T) {
	for name, dir := range map[string]string{"disk": t.TempDir(), "memory": ""} {
		t.Run(name, func(t *testing.T) {
			c := openTestCache(t, dir)
			require.Nil(t, c.record(testID(1)))
			old := sealed(t, 1, func(r *Record) { r.Seq -= 5000; r.Expiry = time.UnixMilli(int64(r.Seq)).Add(time.Second) })
			newer := sealed(t, 1)
			c.putRecord(newer, time.Now())
			c.putRecord(old, time.Now())
			require.Equal(t, newer, c.record(testID(1)))
			expired := sealed(t, 2, func(r *Record) { r.Seq -= 5000; r.Expiry = time.UnixMilli(int64(r.Seq)).Add(time.Second) })
			c.putRecord(expired, time.Now())
			if dir != "" {
				c = openTestCache(t, dir)
			}
			require.Equal(t, newer, c.record(testID(1)))
			require.Equal(t, expired, c.record(testID(2)), "an expired record is still a hint")
			c.putRecord(old, time.Now())
			require.Equal(t, newer, c.record(testID(1)))
		})
	}
}

// Whatever happened to the files, the cache opens, drops what is bad and keeps
// what is good.
func TestCacheCorruption(t *testing.T) {
	dir := t.TempDir()
	c := openTestCache(t, dir)
	for k := byte(1); k <= 8; k++ {
		c.putRecord(sealed(t, k), time.Now())
	}
	c.addRelays([]peer.AddrInfo{relayInfo(50)}, time.Now())
	c.saveNodes()
	file := func(key byte) string { return filepath.Join(dir, recordsFolder, recordName(testID(key))) }
	change := func(key byte, f func([]byte) []byte) {
		raw, err := os.ReadFile(file(key))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file(key), f(raw), 0o600))
	}
	change(2, func(b []byte) []byte { return nil })              // a crash of the machine
	change(3, func(b []byte) []byte { return b[:len(b)/2] })     // the same
	change(4, func(b []byte) []byte { b[80] ^= 1; return b })    // a bad disk
	change(5, func([]byte) []byte { return make([]byte, 5000) }) // too large
	other := sealed(t, 6, func(r *Record) { r.Network = "other" })
	change(6, func([]byte) []byte { return other.Envelope() })        // another network's
	change(7, func([]byte) []byte { return sealed(t, 1).Envelope() }) // another key's
	require.NoError(t, os.Remove(file(8)))                            // removed by hand
	require.NoError(t, os.Mkdir(file(9), 0o700))                      // not a file
	junk := filepath.Join(dir, recordsFolder, "README")               // not ours
	leftover := filepath.Join(dir, ".tmp-123")                        // a write cut off
	leftoverRecord := filepath.Join(dir, recordsFolder, ".tmp-123")   // the same
	for _, name := range []string{junk, leftover, leftoverRecord, filepath.Join(dir, nodesName)} {
		require.NoError(t, os.WriteFile(name, []byte(`{"version":1,"relays":[{`), 0o600))
	}

	c = openTestCache(t, dir)
	require.NotNil(t, c.record(testID(1)))
	for k := byte(2); k <= 9; k++ {
		require.Nil(t, c.record(testID(k)), "record %d", k)
		require.NoFileExists(t, file(k))
	}
	require.NoFileExists(t, junk)
	require.NoFileExists(t, leftover)
	require.NoFileExists(t, leftoverRecord)
	require.Empty(t, c.knownRelays())

	// Replaced in time.
	c.putRecord(sealed(t, 3), time.Now())
	c.addRelays([]peer.AddrInfo{relayInfo(51)}, time.Now())
	c.saveNodes()
	c = openTestCache(t, dir)
	require.NotNil(t, c.record(testID(3)))
	require.Equal(t, []peer.AddrInfo{relayInfo(51)}, c.knownRelays())
}

func TestCacheUnusableFolder(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	_, err := openCache(name, testNetwork, slog.New(slog.DiscardHandler))
	require.Error(t, err)
}

// The folder stays bounded: the records not used for the longest time go.
func TestCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	c := openTestCache(t, dir)
	c.records.maxEntries = 3
	for k := byte(1); k <= 5; k++ {
		c.putRecord(sealed(t, k), time.Now())
		require.NotNil(t, c.record(testID(1)), "the one in use went")
	}
	files, err := os.ReadDir(filepath.Join(dir, recordsFolder))
	require.NoError(t, err)
	require.Len(t, files, 3)
	require.Nil(t, c.record(testID(2)))
	require.NotNil(t, c.record(testID(5)))
}

// PATH-30: relays and servers that were of use are kept however many others
// are named by anyone.
func TestCacheNodes(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	c := openTestCache(t, dir)
	c.addRelays([]peer.AddrInfo{relayInfo(1), {ID: testID(2)}, {ID: "x", Addrs: relayInfo(3).Addrs}}, now)
	require.Equal(t, []peer.AddrInfo{relayInfo(1)}, c.knownRelays(), "without an address or a key")
	for k := byte(10); k < 20; k++ {
		c.goodRelay(relayInfo(k), now.Add(time.Duration(k)*time.Second))
	}
	for range 3 {
		for k := 100; k < 250; k++ {
			c.addRelays([]peer.AddrInfo{relayInfo(byte(k))}, now.Add(time.Hour))
		}
	}
	known := c.knownRelays()
	require.Len(t, known, cacheRelays)
	for i := range 10 {
		require.Equal(t, testID(byte(19-i)), known[i].ID, "the last good first")
	}

	// A hint does not replace an address that worked; a proof does.
	moved := peer.AddrInfo{ID: testID(10), Addrs: addrsOf("/ip4/198.51.101.1/tcp/1")}
	c.addRelays([]peer.AddrInfo{moved}, now.Add(2*time.Hour))
	require.Equal(t, relayInfo(10), c.knownRelays()[9])
	c.goodRelay(moved, now.Add(3*time.Hour))
	require.Equal(t, moved, c.knownRelays()[0])

	var servers []peer.AddrInfo
	for k := range byte(60) {
		servers = append(servers, relayInfo(k+1))
	}
	c.goodServers(servers, now)
	c.saveNodes()
	again := openTestCache(t, dir)
	require.Equal(t, c.knownRelays(), again.knownRelays())
	require.Len(t, again.knownServers(), 60)

	// Nothing new: nothing written.
	require.NoError(t, os.Remove(filepath.Join(dir, nodesName)))
	c.goodServers(servers, now.Add(time.Minute))
	c.saveNodes()
	require.NoFileExists(t, filepath.Join(dir, nodesName))
}

func FuzzNodes(f *testing.F) {
	f.Add([]byte(`{"version":1,"relays":[{"peer":"12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV","addrs":["/ip4/203.0.114.1/tcp/4242"],"seen":"2026-01-01T00:00:00Z","good":"2026-01-01T00:00:00Z"}],"servers":[]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"relays":[{"peer":"x","addrs":["/ip4/0.0.0.0/tcp/1"]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := parseNodes(raw)
		if err != nil {
			return
		}
		s := nodeSet{limit: cacheRelays}
		s.load(file.Relays)
		s.load(file.Servers)
		for _, info := range s.list() {
			require.NotEmpty(t, info.Addrs)
			for _, a := range info.Addrs {
				require.NoError(t, CheckAddr(a))
			}
		}
		again := nodeSet{limit: cacheRelays}
		again.load(s.entries())
		require.Equal(t, s.list(), again.list())
	})
}
