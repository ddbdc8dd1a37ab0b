package discovery

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	cacheRecords = 4096
	cacheRelays  = 64
	cacheServers = 200

	recordsFolder = "records"
	nodesName     = "nodes.json"
	tempPattern   = ".tmp-*"
	nodesVersion  = 1
	maxNodesBytes = 1 << 20
)

// cache remembers over restarts: the last good record of every peer, our own
// among them, and the relays and DHT servers that were of use. One file per
// record, its envelope, which proves itself, and one for the nodes; each is
// replaced whole. What cannot be read is dropped and replaced in time. Without
// a folder it remembers in memory only. Safe for concurrent use.
type cache struct {
	dir     string
	network string
	log     *slog.Logger

	mu      sync.Mutex
	records *lru[peer.ID, *Record] // nil: on disk, not read yet
	relays  nodeSet
	servers nodeSet
	changed bool // relays or servers, since the last save

	diskMu sync.Mutex // orders writes, so that the newest stays
}

// openCache reads what is in dir, which it makes if need be.
func openCache(dir, network string, log *slog.Logger) (*cache, error) {
	c := &cache{
		dir:     dir,
		network: network,
		log:     log,
		records: newLRU(cacheRecords, cacheRecords, func(peer.ID, *Record) int { return 1 }),
		relays:  nodeSet{limit: cacheRelays},
		servers: nodeSet{limit: cacheServers},
	}
	if dir == "" {
		return c, nil
	}
	if err := os.MkdirAll(filepath.Join(dir, recordsFolder), 0o700); err != nil {
		return nil, fmt.Errorf("open address cache: %w", err)
	}
	leftovers, _ := filepath.Glob(filepath.Join(dir, tempPattern)) // of writes that never ended
	for _, name := range leftovers {
		c.removeFile(name)
	}
	c.records.evicted = func(p peer.ID, _ *Record) { c.removeFile(c.recordFile(p)) }
	if err := c.listRecords(); err != nil {
		return nil, fmt.Errorf("open address cache: %w", err)
	}
	c.loadNodes()
	return c, nil
}

// record returns the last good record of p, nil if there is none. It may have
// expired.
func (c *cache) record(p peer.ID) *Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recordLocked(p)
}

func (c *cache) recordLocked(p peer.ID) *Record {
	r, ok := c.records.get(p)
	if !ok || r != nil {
		return r
	}
	name := c.recordFile(p)
	raw, err := readFile(name, MaxRecordBytes)
	if err == nil {
		r, err = openRecord(raw, c.network, p)
	}
	if err != nil {
		c.log.Info("cached record dropped", "peer", p, "err", err)
		c.records.remove(p)
		c.removeFile(name)
		return nil
	}
	c.records.put(p, r)
	return r
}

// putRecord keeps r, an opened record that is not from the future, if it is newer
// than the one held, or that one is.
func (c *cache) putRecord(r *Record, now time.Time) {
	c.mu.Lock()
	newer := r.replaces(c.recordLocked(r.Peer), now)
	if newer {
		c.records.put(r.Peer, r)
	}
	c.mu.Unlock()
	if newer && c.dir != "" {
		c.writeRecord(r.Peer)
	}
}

// addRelays remembers relays that somebody named.
func (c *cache) addRelays(relays []peer.AddrInfo, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range relays {
		if _, err := rawKey(r.ID); err == nil && c.relays.add(r, now, false) {
			c.changed = true
		}
	}
}

// goodRelay notes that a relay is of use at the moment: it is forgotten last.
func (c *cache) goodRelay(r peer.AddrInfo, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.relays.add(r, now, true) {
		c.changed = true
	}
}

// goodServers notes the DHT servers that answer at the moment.
func (c *cache) goodServers(servers []peer.AddrInfo, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range servers {
		if c.servers.add(s, now, true) {
			c.changed = true
		}
	}
}

// knownRelays and knownServers list what is remembered, the best first.
func (c *cache) knownRelays() []peer.AddrInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.relays.list()
}

func (c *cache) knownServers() []peer.AddrInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers.list()
}

// saveNodes writes relays and servers if they changed.
func (c *cache) saveNodes() {
	c.diskMu.Lock()
	defer c.diskMu.Unlock()
	c.mu.Lock()
	changed := c.changed && c.dir != ""
	c.changed = false
	file := nodesFile{Version: nodesVersion, Relays: c.relays.entries(), Servers: c.servers.entries()}
	c.mu.Unlock()
	if !changed {
		return
	}
	raw, err := json.Marshal(file)
	if err == nil {
		err = writeFile(filepath.Join(c.dir, nodesName), raw)
	}
	if err != nil {
		c.log.Warn("known nodes not saved", "err", err)
	}
}

// listRecords takes note of the files of records, the newest as most recently
// used, and removes what is not one.
func (c *cache) listRecords() error {
	entries, err := os.ReadDir(filepath.Join(c.dir, recordsFolder))
	if err != nil {
		return err
	}
	type file struct {
		p     peer.ID
		mtime time.Time
	}
	var files []file
	for _, e := range entries {
		info, err := e.Info()
		key, bad := hex.DecodeString(e.Name())
		if err != nil || bad != nil || len(key) != 32 || e.Name() != strings.ToLower(e.Name()) || !info.Mode().IsRegular() {
			c.removeFile(filepath.Join(c.dir, recordsFolder, e.Name()))
			continue
		}
		files = append(files, file{peerOf(key), info.ModTime()})
	}
	slices.SortFunc(files, func(a, b file) int { return a.mtime.Compare(b.mtime) })
	for _, f := range files {
		c.records.put(f.p, nil)
	}
	return nil
}

// writeRecord writes the record held for p.
func (c *cache) writeRecord(p peer.ID) {
	c.diskMu.Lock()
	defer c.diskMu.Unlock()
	r := c.record(p)
	if r == nil {
		return
	}
	if err := writeFile(c.recordFile(p), r.envelope); err != nil {
		c.log.Warn("record not saved", "peer", p, "err", err)
	}
}

func (c *cache) recordFile(p peer.ID) string {
	return filepath.Join(c.dir, recordsFolder, hex.EncodeToString([]byte(p[len(keyPrefix):])))
}

func (c *cache) removeFile(name string) {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("file of the address cache not removed", "err", err)
	}
}

// nodesFile is the form of nodes.json.
type nodesFile struct {
	Version int         `json:"version"`
	Relays  []nodeEntry `json:"relays"`
	Servers []nodeEntry `json:"servers"`
}

type nodeEntry struct {
	Peer  string    `json:"peer"`
	Addrs []string  `json:"addrs"`
	Seen  time.Time `json:"seen"`
	Good  time.Time `json:"good,omitzero"`
}

func (c *cache) loadNodes() {
	raw, err := readFile(filepath.Join(c.dir, nodesName), maxNodesBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var file nodesFile
	if err == nil {
		file, err = parseNodes(raw)
	}
	if err != nil {
		c.log.Info("known nodes dropped", "err", err)
		return
	}
	c.relays.load(file.Relays)
	c.servers.load(file.Servers)
}

func parseNodes(raw []byte) (file nodesFile, err error) {
	if err := json.Unmarshal(raw, &file); err != nil {
		return nodesFile{}, err
	}
	if file.Version != nodesVersion {
		return nodesFile{}, fmt.Errorf("version %d is not known", file.Version)
	}
	return file, nil
}

// nodeSet is a bounded set of nodes; those never found good are forgotten
// first, then those whose last good time is the longest ago.
type nodeSet struct {
	limit int
	nodes []node // the best first
}

type node struct {
	info       peer.AddrInfo
	seen, good time.Time
}

// nodeRefresh is how old a time must be to be worth a write to disk.
const nodeRefresh = time.Hour

// add takes a node in or refreshes it, and reports whether anything worth
// saving changed.
func (s *nodeSet) add(info peer.AddrInfo, now time.Time, good bool) bool {
	info.Addrs = trimAddrs(info.Addrs, MaxRelayAddrs)
	if len(info.Addrs) == 0 || info.ID.Validate() != nil {
		return false
	}
	n := node{info: info, seen: now}
	if good {
		n.good = now
	}
	changed := true
	if i := s.index(info.ID); i >= 0 {
		old := s.nodes[i]
		if !good {
			// A hint does not replace addresses that worked.
			n.good = old.good
			if !old.good.IsZero() {
				n.info = old.info
			}
		}
		changed = !sameAddrs(old.info.Addrs, n.info.Addrs) || n.seen.Sub(old.seen) > nodeRefresh || n.good.Sub(old.good) > nodeRefresh
		s.nodes = slices.Delete(s.nodes, i, i+1)
	}
	s.insert(n)
	return changed && s.index(info.ID) >= 0
}

func (s *nodeSet) insert(n node) {
	i, _ := slices.BinarySearchFunc(s.nodes, n, betterNode)
	s.nodes = slices.Insert(s.nodes, i, n)
	if len(s.nodes) > s.limit {
		s.nodes = s.nodes[:s.limit]
	}
}

func (s *nodeSet) index(p peer.ID) int {
	return slices.IndexFunc(s.nodes, func(n node) bool { return n.info.ID == p })
}

func (s *nodeSet) list() []peer.AddrInfo {
	infos := make([]peer.AddrInfo, len(s.nodes))
	for i, n := range s.nodes {
		infos[i] = peer.AddrInfo{ID: n.info.ID, Addrs: slices.Clone(n.info.Addrs)}
	}
	return infos
}

func (s *nodeSet) entries() []nodeEntry {
	entries := make([]nodeEntry, len(s.nodes))
	for i, n := range s.nodes {
		e := nodeEntry{Peer: n.info.ID.String(), Seen: n.seen.UTC(), Good: n.good.UTC()}
		for _, a := range n.info.Addrs {
			e.Addrs = append(e.Addrs, a.String())
		}
		entries[i] = e
	}
	return entries
}

// load takes in what is sound among entries.
func (s *nodeSet) load(entries []nodeEntry) {
	for _, e := range entries {
		id, err := peer.Decode(e.Peer)
		if err != nil || s.index(id) >= 0 {
			continue
		}
		var addrs []ma.Multiaddr
		for _, text := range e.Addrs {
			if a, err := ma.NewMultiaddr(text); err == nil {
				addrs = append(addrs, a)
			}
		}
		if addrs = trimAddrs(addrs, MaxRelayAddrs); len(addrs) > 0 {
			s.nodes = append(s.nodes, node{info: peer.AddrInfo{ID: id, Addrs: addrs}, seen: e.Seen, good: e.Good})
		}
	}
	slices.SortStableFunc(s.nodes, betterNode)
	if len(s.nodes) > s.limit {
		s.nodes = s.nodes[:s.limit]
	}
}

func betterNode(a, b node) int {
	return cmp.Or(b.good.Compare(a.good), b.seen.Compare(a.seen))
}

func sameAddrs(a, b []ma.Multiaddr) bool {
	return slices.EqualFunc(a, b, ma.Multiaddr.Equal)
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("file is over %d bytes", limit)
	}
	return raw, err
}

// writeFile replaces a file whole: whoever reads it, also after a crash, finds
// the old or the new content.
func writeFile(name string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), tempPattern)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
