package netmon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// pollEvery is how often the interfaces are compared where nobody reports.
const pollEvery = 3 * time.Second

// Far away on the internet, in both families: a root name server. The system
// is asked by which way packets would go there; none is sent.
var (
	far4 = netip.MustParseAddr("198.41.0.4")
	far6 = netip.MustParseAddr("2001:503:ba3e::2:30")
)

// poll is the source that works everywhere. It does not see gateways, nor
// links that are down only between two looks.
type poll struct {
	once sync.Once
	done chan struct{}
}

func newPoll() *poll { return &poll{done: make(chan struct{})} }

func (p *poll) read() (State, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return State{}, fmt.Errorf("list network interfaces: %w", err)
	}
	from4, from6 := sourceFor("udp4", far4), sourceFor("udp6", far6)
	var s State
	for _, ifi := range interfaces {
		i := Interface{Name: ifi.Name, Index: ifi.Index, Up: ifi.Flags&(net.FlagUp|net.FlagRunning) == net.FlagUp|net.FlagRunning}
		addrs, err := ifi.Addrs()
		if err != nil {
			continue // went while we looked
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, ok := netip.AddrFromSlice(n.IP)
			if !ok {
				continue
			}
			ip = ip.Unmap()
			bits, _ := n.Mask.Size()
			i.Addrs = append(i.Addrs, netip.PrefixFrom(ip, bits))
			i.Default4 = i.Default4 || ip == from4
			i.Default6 = i.Default6 || ip == from6
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	s.sort()
	return s, nil
}

func (p *poll) watch(changed func(down int) bool) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if !changed(0) {
				return
			}
		case <-p.done:
			return
		}
	}
}

func (p *poll) stop() { p.once.Do(func() { close(p.done) }) }

func (p *poll) close() {}

// sourceFor returns the address from which this machine sends to another, if
// it can.
func sourceFor(network string, to netip.Addr) netip.Addr {
	var d net.Dialer
	c, err := d.DialContext(context.Background(), network, netip.AddrPortFrom(to, 53).String())
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
}
