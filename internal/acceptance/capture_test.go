//go:build linux

package acceptance

import (
	byteorder "encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// capture counts the IP packets on a host's interface by the address of the
// other end, from its start until stop.
type capture struct {
	t    *testing.T
	host *natlab.Host
	file *os.File
	done chan struct{}
	seen map[netip.Addr]int // valid after done
}

// tapInto opens a socket that gets every packet of a host's interface, and is
// closed when the test ends.
func tapInto(t *testing.T, host *natlab.Host) (file *os.File) {
	t.Helper()
	require.NoError(t, host.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		every := byteorder.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(every))
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "packets")
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: eth0.Index})
	}))
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func newCapture(t *testing.T, host *natlab.Host) *capture {
	t.Helper()
	c := &capture{t: t, host: host, done: make(chan struct{}), seen: make(map[netip.Addr]int)}
	c.file = tapInto(t, host)
	go func() {
		defer close(c.done)
		b := make([]byte, 1<<16)
		for {
			n, err := c.file.Read(b)
			if err != nil { // closed
				return
			}
			src, dst, ok := ends(b[:n])
			if !ok {
				continue
			}
			other := src
			if src == host.Addr() || src == host.Addr6() {
				other = dst
			}
			c.seen[other]++
		}
	}()
	return c
}

const icmpUnreachable = 3 // RFC 792

// ends are the addresses of an IP packet. What the kernels at both ends of a
// cable say to each other is left out: nothing of it leaves the network. So are
// the errors of a router that has no way out for a moment.
func ends(b []byte) (src, dst netip.Addr, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		src, _ = netip.AddrFromSlice(b[12:16])
		dst, _ = netip.AddrFromSlice(b[16:20])
		header := int(b[0]&15) * 4
		if b[9] == unix.IPPROTO_ICMP && len(b) > header && b[header] == icmpUnreachable {
			return src, dst, false
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		src, _ = netip.AddrFromSlice(b[8:24])
		dst, _ = netip.AddrFromSlice(b[24:40])
	default:
		return src, dst, false
	}
	return src, dst, !dst.IsMulticast() && !src.IsLinkLocalUnicast() && !dst.IsLinkLocalUnicast()
}

// stop ends the capture and returns what it counted; it must have seen all
// there was.
func (c *capture) stop() map[netip.Addr]int {
	c.t.Helper()
	raw, err := c.file.SyscallConn()
	require.NoError(c.t, err)
	require.NoError(c.t, raw.Control(func(fd uintptr) {
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		require.NoError(c.t, err)
		require.Zero(c.t, stats.Drops, "the capture lost packets")
	}))
	require.NoError(c.t, c.file.Close())
	<-c.done
	return c.seen
}

// PATH-38: with --hide-ip no packet goes to a peer or comes from one, whoever
// dials and whatever happens to the network: all go to relays, and no other
// host sees this one's address. That the capture would see it otherwise is
// shown with a node that does not hide.
func TestPATH38HiddenByCapture(t *testing.T) {
	for _, hide := range []bool{true, false} {
		t.Run(map[bool]string{true: "hidden", false: "open"}[hide], func(t *testing.T) {
			lab := newLab(t, []string{"one", "two"},
				natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
				natlab.Peer{Name: "b", Kind: natlab.PortRestricted},
				natlab.Peer{Name: "c", Kind: natlab.None})
			link := natlab.Link{Delay: *roamDelay}
			for _, name := range []string{"one", "two", "a", "b", "c"} {
				require.NoError(t, lab.SetLink(name, link))
			}
			hosts := map[string]*natlab.Host{}
			caught := map[string]*capture{}
			for _, name := range []string{"a", "b", "c"} {
				hosts[name] = lab.Host(name)
				caught[name] = newCapture(t, hosts[name])
			}
			one := newRoamer(t, lab.Host("one"), roamConfig{Relay: true})
			two := newRoamer(t, lab.Host("two"), roamConfig{Relay: true, Join: []string{one.ready.Ticket}})
			join := []string{one.ready.Ticket, two.ready.Ticket}
			relays := []netip.Addr{lab.Host("one").PublicAddr(), lab.Host("one").Addr6(), lab.Host("two").PublicAddr(), lab.Host("two").Addr6()}
			a := newRoamer(t, hosts["a"], roamConfig{Join: join, HideIP: hide})
			mine := []netip.Addr{hosts["a"].Addr(), hosts["a"].PublicAddr()}

			// An open node dials the hidden one, which moves meanwhile; then it dials.
			b := newRoamer(t, hosts["b"], roamConfig{Join: join, Target: a.ready.Key, Rate: *roamRate})
			want := map[bool]string{true: "relayed", false: "direct"}[hide]
			require.True(t, b.waitPath(want, 5*time.Second))
			time.Sleep(2 * time.Second)
			require.NoError(t, lab.NewIP("a"))
			mine = append(mine, hosts["a"].PublicAddr())
			time.Sleep(3 * time.Second)
			require.NoError(t, lab.NATReset("b"))
			time.Sleep(3 * time.Second)
			require.Equal(t, want, b.path().Kind)
			report := b.end()
			require.Empty(t, report.Errors)
			require.True(t, report.SumOK)
			require.Greater(t, report.Echoes, 300)

			c := newRoamer(t, hosts["c"], roamConfig{Join: join})
			d := newRoamer(t, hosts["a"], roamConfig{Join: join, HideIP: hide, Target: c.ready.Key})
			require.True(t, d.waitPath(want, 5*time.Second))
			time.Sleep(2 * time.Second)
			require.Empty(t, d.end().Errors)

			others := 0
			for addr, n := range caught["a"].stop() {
				t.Logf("a: %d packets with %s", n, addr)
				if !slices.Contains(relays, addr) {
					others += n
				}
			}
			met := 0
			for _, name := range []string{"b", "c"} {
				seen := caught[name].stop()
				require.Greater(t, seen[relays[0]]+seen[relays[2]], 20, "the capture works")
				for _, addr := range mine {
					met += seen[addr]
				}
			}
			if hide {
				require.Zero(t, others, "packets of the hidden node's machine that were not with relays")
				require.Zero(t, met, "packets with the hidden node's addresses at other peers")
			} else {
				require.Greater(t, others, 100)
				require.Greater(t, met, 100)
			}
		})
	}
}
