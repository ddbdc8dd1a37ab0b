package portmap_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/transport/portmap"
)

var required = flag.Bool("natlab.required", false, "fail instead of skipping where network namespaces cannot be made")

// TestMain is also the program that the tests run behind a router.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "hold" {
		hold()
		return
	}
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// holdPort is the local port of hold.
const holdPort = 7000

// hold has a port mapped, prints what becomes of it and what arrives there, asks
// again for each line of input, and gives it back at the end of input.
func hold() {
	conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", fmt.Sprintf("0.0.0.0:%d", holdPort))
	if err != nil {
		fmt.Fprintln(os.Stdout, "failed", err)
		return
	}
	go func() {
		var b [64]byte
		for {
			n, _, err := conn.ReadFrom(b[:])
			if err != nil {
				return
			}
			fmt.Fprintf(os.Stdout, "got %s\n", b[:n])
		}
	}()
	m := portmap.Start(portmap.Config{Port: holdPort})
	last := portmap.Status{}
	input := make(chan struct{})
	go func() {
		defer close(input)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			m.Kick()
		}
	}()
	for {
		s := m.Status()
		if s.External != last.External || (s.Err == nil) != (last.Err == nil) {
			switch {
			case s.External != netip.AddrPort{}:
				fmt.Fprintln(os.Stdout, "mapped", s.Protocol, s.External)
			case s.Err != nil:
				fmt.Fprintf(os.Stdout, "refused %q\n", s.Err)
			default:
				fmt.Fprintln(os.Stdout, "lost")
			}
			last = s
		}
		select {
		case <-input:
			m.Close()
			fmt.Fprintln(os.Stdout, "closed")
			// Packets that still arrive are told until somebody ends this.
			time.Sleep(time.Minute)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}
