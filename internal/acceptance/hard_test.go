//go:build linux

package acceptance

import (
	byteorder "encoding/binary"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// tap notes the UDP packets that leave a host, with the kernel's time.
type tap struct {
	t    *testing.T
	file *os.File
	done chan struct{}
	sent []udpSent // valid after done
}

type udpSent struct {
	at       time.Time
	from     uint16
	to       netip.AddrPort
	size     int // of the payload
	received bool
}

func newTap(t *testing.T, host *natlab.Host) *tap {
	t.Helper()
	p := &tap{t: t, done: make(chan struct{})}
	p.file = tapInto(t, host)
	raw, err := p.file.SyscallConn()
	require.NoError(t, err)
	go func() {
		defer close(p.done)
		b, oob := make([]byte, 1<<16), make([]byte, 256)
		for {
			var n, oobn int
			var from unix.Sockaddr
			var failed error
			if raw.Read(func(fd uintptr) bool {
				n, oobn, _, from, failed = unix.Recvmsg(int(fd), b, oob, 0)
				return failed != unix.EAGAIN
			}) != nil { // closed
				return
			}
			if failed == nil {
				p.note(b[:n], oob[:oobn], from)
			}
		}
	}()
	return p
}

// note takes one packet, if it is UDP over IPv4.
func (p *tap) note(b, oob []byte, from unix.Sockaddr) {
	if len(b) < 28 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_UDP {
		return
	}
	u := b[int(b[0]&15)*4:]
	if len(u) < 8 {
		return
	}
	to, _ := netip.AddrFromSlice(b[16:20])
	s := udpSent{
		at: time.Now(), from: byteorder.BigEndian.Uint16(u), size: len(u) - 8,
		to: netip.AddrPortFrom(to, byteorder.BigEndian.Uint16(u[2:])),
	}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok {
		s.received = ll.Pkttype != unix.PACKET_OUTGOING
	}
	if msgs, err := unix.ParseSocketControlMessage(oob); err == nil {
		for _, m := range msgs {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
				ts := *(*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
				s.at = time.Unix(ts.Unix())
			}
		}
	}
	p.sent = append(p.sent, s)
}

// stop ends the tap and returns what left; it must have seen all there was.
func (p *tap) stop() []udpSent {
	p.t.Helper()
	raw, err := p.file.SyscallConn()
	require.NoError(p.t, err)
	require.NoError(p.t, raw.Control(func(fd uintptr) {
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		require.NoError(p.t, err)
		require.Zero(p.t, stats.Drops, "the tap lost packets")
	}))
	require.NoError(p.t, p.file.Close())
	<-p.done
	return slices.DeleteFunc(p.sent, func(s udpSent) bool { return s.received })
}

// small are the packets to an IP that are shorter than what candidates are
// probed with, and no reflection packets: those against hard NATs.
func small(sent []udpSent, ip netip.Addr) (out []udpSent) {
	for _, s := range sent {
		if s.to.Addr() == ip && s.size < 400 && s.size > 31 {
			out = append(out, s)
		}
	}
	return out
}

// most is how many of them lie in one stretch of time.
func most(sent []udpSent, d time.Duration) (n int) {
	for i, s := range sent {
		j := i
		for j < len(sent) && sent[j].at.Sub(s.at) < d {
			j++
		}
		n = max(n, j-i)
	}
	return n
}

// PATH-23: what is sent to get through a hard NAT keeps within its budget, ends
// with success, is not repeated when it fails, and goes nowhere but where the
// peer is for all that a relay knows: here both nodes name a third one's address
// as their own, and its machine gets no more than the probes that any candidate
// gets (PATH-14, PATH-16).
func TestPATH23Budgets(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(map[bool]string{false: "found", true: "never found"}[cut], func(t *testing.T) {
			lab := newLab(t, []string{"relay", "relay2", "victim"},
				natlab.Peer{Name: "easy", Kind: natlab.PortRestricted},
				natlab.Peer{Name: "hard", Kind: natlab.Symmetric})
			relay := newProc(t, lab.Host("relay"), "").up("--relay")
			relay2 := newProc(t, lab.Host("relay2"), "").up("--relay", "--join", relay.ticket())
			victim := lab.Host("victim").PublicAddr()
			up := func(name string, port uint16) *nodeProc {
				return newProc(t, lab.Host(name), "").up("--join", relay.ticket(), "--join", relay2.ticket(),
					"--external", netip.AddrPortFrom(victim, port).String())
			}
			hard, easy := up("hard", 4343), up("easy", 4444)
			if cut {
				require.NoError(t, lab.Cut("easy", "hard", 0))
			}
			byEasy, byHard := newTap(t, lab.Host("easy")), newTap(t, lab.Host("hard"))
			wait := "20s"
			out, errs, _ := easy.run("ping", "--json", "--until-direct", wait, "--interval", "50ms", hard.key)
			d := readPing(out)
			require.True(t, d.Connected, errs)
			require.Equal(t, !cut, d.Direct != nil, out)
			ended := time.Now()
			time.Sleep(3 * time.Second)
			sent, opened := byEasy.stop(), byHard.stop()

			probes := small(sent, lab.Host("hard").PublicAddr())
			ports := map[uint16]int{}
			for _, s := range probes {
				ports[s.to.Port()]++
			}
			t.Logf("%d probes to %d ports, at most %d in a second and %d in a round's time", len(probes), len(ports), most(probes, time.Second), most(probes, 500*time.Millisecond))
			require.NotEmpty(t, probes)
			require.LessOrEqual(t, most(probes, time.Second), 1000)
			require.LessOrEqual(t, len(probes), 3000)
			openers := small(opened, lab.Host("easy").PublicAddr())
			sockets := map[uint16]bool{}
			for _, s := range openers {
				sockets[s.from] = true
			}
			t.Logf("%d packets from %d sockets", len(openers), len(sockets))
			require.LessOrEqual(t, most(openers, time.Second), 1000)
			require.LessOrEqual(t, len(sockets), 260)
			require.Greater(t, len(sockets), 200)

			if cut {
				require.Greater(t, len(probes), 1500, "the budget is used")
				require.Len(t, ports, len(probes), "no port twice")
				first := probes[0].at
				late := slices.DeleteFunc(slices.Clone(probes), func(s udpSent) bool { return s.at.Sub(first) < 2100*time.Millisecond })
				require.LessOrEqual(t, most(late, time.Second), 100)
				require.Less(t, probes[len(probes)-1].at.Sub(first), 13*time.Second, "and there is no second try")
				require.LessOrEqual(t, len(openers), 3*256*2)
			} else {
				require.Less(t, *d.Direct, 10.0)
				// What is small and goes to the peer's one port later is the path's.
				for _, s := range probes {
					if s.at.After(ended) {
						require.Equal(t, netip.MustParseAddrPort(d.Addr).Port(), s.to.Port(), "a probe after success")
					}
				}
			}

			if !cut { // the one socket that was found is the path, both ways, and stays it
				for _, ends := range [][2]*nodeProc{{easy, hard}, {hard, easy}} {
					out, errs, _ := ends[0].run("ping", "--json", "--count", "12", "--interval", "500ms", ends[1].key)
					require.Contains(t, out, `"result":"direct"`, errs)
					require.NotContains(t, out, `"path":"relayed"`)
					require.NotContains(t, out, `"lost":true`)
				}
			}

			// Each node took the other's word that it is at the victim, as far as a
			// candidate goes.
			for name, all := range map[string][]udpSent{"easy": sent, "hard": opened} {
				require.Empty(t, small(all, victim), "%s searched the victim's ports", name)
				n, at := 0, map[netip.AddrPort]bool{}
				for _, s := range all {
					if s.to.Addr() == victim {
						n++
						at[s.to] = true
					}
				}
				t.Logf("%s sent %d probes to the victim", name, n)
				require.Positive(t, n)
				require.Len(t, at, 1)
				require.LessOrEqual(t, n, 60)
			}
		})
	}
}
