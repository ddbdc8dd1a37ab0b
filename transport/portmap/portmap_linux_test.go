package portmap_test

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
	"github.com/alkdev/alknet-p2p/transport/portmap"
)

// holder is a hold that runs in a host.
type holder struct {
	t     *testing.T
	in    io.WriteCloser
	lines chan string
}

func run(t *testing.T, h *natlab.Host) *holder {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := h.Command(t.Context(), self, "hold")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &holder{t: t, in: in, lines: make(chan string, 64)}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range p.lines {
		}
		_ = cmd.Wait()
	})
	return p
}

// next returns the next line.
func (p *holder) next(within time.Duration) string {
	p.t.Helper()
	select {
	case line := <-p.lines:
		return line
	case <-time.After(within):
		p.t.Fatal("no line")
		return ""
	}
}

// silent is that nothing is printed for a while.
func (p *holder) silent(d time.Duration) {
	p.t.Helper()
	select {
	case line := <-p.lines:
		p.t.Fatalf("printed %q", line)
	case <-time.After(d):
	}
}

func send(t *testing.T, from *natlab.Host, to netip.AddrPort, text string) {
	t.Helper()
	require.NoError(t, from.Do(func() error {
		conn, err := new(net.Dialer).DialContext(t.Context(), "udp4", to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.WriteString(conn, text)
		return err
	}))
}

// PATH-24, against a real gateway: a port is got by each of the protocols, lets
// strangers in, is got again after the router forgot it, and is given back.
func TestPATH24Gateway(t *testing.T) {
	lab := natlab.Start(t, natlab.Config{
		Required: *required,
		Public:   []string{"out"},
		Peers: []natlab.Peer{
			{Name: "pcp", PortMapping: natlab.PortMappingGrants},
			{Name: "upnp", PortMapping: natlab.PortMappingUPnP},
		},
	})
	for _, protocol := range []string{"pcp", "upnp"} {
		t.Run(protocol, func(t *testing.T) {
			host := lab.Host(protocol)
			p := run(t, host)
			line := p.next(20 * time.Second)
			text, ok := strings.CutPrefix(line, "mapped "+protocol+" ")
			require.True(t, ok, line)
			at, err := netip.ParseAddrPort(text)
			require.NoError(t, err)
			require.Equal(t, host.PublicAddr(), at.Addr())
			send(t, lab.Host("out"), at, "hello")
			require.Equal(t, "got hello", p.next(5*time.Second))

			require.NoError(t, lab.NATReset(protocol))
			send(t, lab.Host("out"), at, "lost")
			p.silent(300 * time.Millisecond)
			_, err = io.WriteString(p.in, "again\n")
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				send(t, lab.Host("out"), at, "again")
				select {
				case line := <-p.lines:
					if text, ok := strings.CutPrefix(line, "mapped "+protocol+" "); ok { // maybe another one
						at, err = netip.ParseAddrPort(text)
						require.NoError(t, err)
					}
					return line == "got again"
				case <-time.After(200 * time.Millisecond):
					return false
				}
			}, 30*time.Second, time.Millisecond)

			require.NoError(t, p.in.Close())
			for line := ""; line != "closed"; {
				line = p.next(5 * time.Second)
			}
			send(t, lab.Host("out"), at, "late")
			p.silent(300 * time.Millisecond)
		})
	}
}

// A router that refuses, and one that does not answer, cost nothing but an entry
// in the status.
func TestPATH24GatewayRefuses(t *testing.T) {
	lab := natlab.Start(t, natlab.Config{
		Required: *required,
		Public:   []string{"out"},
		Peers: []natlab.Peer{
			{Name: "denies", PortMapping: natlab.PortMappingDenies},
			{Name: "silent"},
		},
	})
	denied, silent := run(t, lab.Host("denies")), run(t, lab.Host("silent"))
	require.Contains(t, denied.next(30*time.Second), portmap.ErrRefused.Error())
	require.Contains(t, silent.next(30*time.Second), portmap.ErrNoRouter.Error())
}
