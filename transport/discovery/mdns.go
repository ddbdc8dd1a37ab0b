package discovery

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	mdnsDomain  = "local"
	mdnsPort    = 4001 // the protocol wants one; the addresses are in the text
	mdnsPrefix  = "dnsaddr="
	mdnsAddrs   = 8 // announced, so that the packet stays small
	mdnsPeers   = 256
	mdnsRestart = time.Minute
)

// mdns announces this node on the local network and watches for others of the
// same network (PATH-39), in the form of libp2p's mDNS. It uses zeroconf
// itself rather than libp2p's wrapper: that one never returns from Close where
// a family of addresses cannot do multicast, and keeps the addresses it began
// with. It owns one cancel and one WaitGroup; Close returns after its loops.
type mdns struct {
	host    host.Host
	service string
	log     *slog.Logger
	found   func(peer.AddrInfo)

	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	peers *lru[peer.ID, []ma.Multiaddr]
}

// startMDNS begins in the background; without multicast it tries again now and
// then. found is called when a peer
// is seen first and when its addresses change.
func startMDNS(h host.Host, network string, log *slog.Logger, found func(peer.AddrInfo)) (*mdns, error) {
	sub, err := h.EventBus().Subscribe(new(event.EvtLocalAddressesUpdated))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &mdns{
		host:    h,
		service: "_alknet-" + network + "._udp",
		log:     log,
		found:   found,
		cancel:  cancel,
		peers:   newLRU(mdnsPeers, mdnsPeers, func(peer.ID, []ma.Multiaddr) int { return 1 }),
	}
	m.wg.Go(func() {
		defer sub.Close()
		m.run(ctx, sub.Out())
	})
	return m, nil
}

// Close takes the announcement back.
func (m *mdns) Close() {
	m.cancel()
	m.wg.Wait()
}

// addrs returns where p was seen.
func (m *mdns) addrs(p peer.ID) []ma.Multiaddr {
	m.mu.Lock()
	defer m.mu.Unlock()
	addrs, _ := m.peers.get(p)
	return addrs
}

// run keeps the announcement in step with the addresses of the host, and tries
// again later what failed.
func (m *mdns) run(ctx context.Context, addrsChanged <-chan any) {
	for ctx.Err() == nil {
		m.round(ctx, addrsChanged)
	}
}

// round announces and watches until ctx ends, the addresses of the host change
// or, without multicast, for mdnsRestart.
func (m *mdns) round(ctx context.Context, addrsChanged <-chan any) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	failed := make(chan struct{}, 2)
	families := []zeroconf.IPType{zeroconf.IPv4, zeroconf.IPv6}
	for _, family := range families {
		wg.Go(func() {
			if err := m.browse(ctx, family); err != nil {
				m.log.Debug("mDNS cannot watch", "err", err)
				failed <- struct{}{}
			}
		})
	}
	var again <-chan time.Time
	if server, err := m.announce(); err == nil {
		defer server.Shutdown()
	} else {
		m.log.Debug("mDNS cannot announce", "err", err)
		again = time.After(jitter(mdnsRestart))
	}
	for watching := len(families); ; {
		select {
		case <-ctx.Done():
			return
		case <-addrsChanged:
			return
		case <-again:
			return
		case <-failed:
			if watching--; watching == 0 && again == nil {
				again = time.After(jitter(mdnsRestart))
			}
		}
	}
}

// announce answers the questions of others until it is shut down.
func (m *mdns) announce() (*zeroconf.Server, error) {
	own, err := m.host.Network().InterfaceListenAddresses()
	if err != nil {
		return nil, err
	}
	var ips, texts []string
	for _, a := range own {
		ip, err := manet.ToIP(a)
		if err != nil || ip.IsLoopback() || CheckAddr(a) != nil || len(texts) == mdnsAddrs {
			continue
		}
		if !slices.Contains(ips, ip.String()) {
			ips = append(ips, ip.String())
		}
		texts = append(texts, mdnsPrefix+a.String()+"/p2p/"+m.host.ID().String())
	}
	if len(texts) == 0 {
		return nil, errors.New("no address on a local network")
	}
	// A random name: the peer ID is in the text, and names must differ.
	name := strings.ToLower(rand.Text())
	return zeroconf.RegisterProxy(name, m.service, mdnsDomain, mdnsPort, name, ips, texts, nil)
}

// browse watches over one family of addresses until ctx ends or it fails.
func (m *mdns) browse(ctx context.Context, family zeroconf.IPType) error {
	entries := make(chan *zeroconf.ServiceEntry, 16)
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case e, ok := <-entries:
				if !ok {
					return
				}
				m.take(e.Text)
			case <-over: // failed at once: entries stays open
				return
			}
		}
	})
	err := zeroconf.Browse(ctx, m.service, mdnsDomain, entries, zeroconf.SelectIPTraffic(family))
	close(over)
	wg.Wait()
	return err
}

// take reads the text of one answer, passing over what is not an address of
// another node.
func (m *mdns) take(texts []string) {
	var infos []peer.AddrInfo
	for _, text := range texts[:min(len(texts), 2*mdnsAddrs)] {
		text, ok := strings.CutPrefix(text, mdnsPrefix)
		if !ok || len(text) > 2*maxAddrBytes {
			continue
		}
		info, err := peer.AddrInfoFromString(text)
		if err != nil || info.ID == m.host.ID() || len(info.Addrs) == 0 || manet.IsIPLoopback(info.Addrs[0]) {
			continue
		}
		if i := indexPeer(infos, info.ID); i >= 0 {
			infos[i].Addrs = append(infos[i].Addrs, info.Addrs...)
		} else {
			infos = append(infos, *info)
		}
	}
	for _, info := range infos {
		if info.Addrs = trimAddrs(info.Addrs, MaxAddrs); len(info.Addrs) == 0 {
			continue
		}
		m.mu.Lock()
		old, _ := m.peers.get(info.ID)
		m.peers.put(info.ID, info.Addrs)
		m.mu.Unlock()
		if !sameAddrs(old, info.Addrs) {
			m.found(info)
		}
	}
}
