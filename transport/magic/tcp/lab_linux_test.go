package tcp_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// PATH-20: two hosts that dial each other at once from the ports they know of
// each other get one connection, through NATs that keep port numbers; and after
// one of them has closed it another, at once.
func TestPATH20SimultaneousOpenThroughNATs(t *testing.T) {
	pairs := [][2]natlab.Kind{
		{natlab.UDPBlocked, natlab.None},
		{natlab.UDPBlocked, natlab.FullCone},
		{natlab.UDPBlocked, natlab.AddressRestricted},
		{natlab.UDPBlocked, natlab.PortRestricted},
		{natlab.UDPBlocked, natlab.CGNAT},
		{natlab.UDPBlocked, natlab.UDPBlocked},
	}
	c := natlab.Config{Required: *required}
	for i, p := range pairs {
		c.Peers = append(c.Peers, natlab.Peer{Name: fmt.Sprint("a", i), Kind: p[0]}, natlab.Peer{Name: fmt.Sprint("b", i), Kind: p[1]})
	}
	l := natlab.Start(t, c)
	for i, p := range pairs {
		t.Run(string(p[0])+" "+string(p[1]), func(t *testing.T) {
			a, b := l.Host(fmt.Sprint("a", i)), l.Host(fmt.Sprint("b", i))
			portA, portB := uint16(40000+i), uint16(41000+i)
			for round := range 4 {
				var conns [2]*tcp.Conn
				var both sync.WaitGroup
				both.Go(func() { conns[0] = meet(t, a, portA, netip.AddrPortFrom(b.PublicAddr(), portB)) })
				both.Go(func() { conns[1] = meet(t, b, portB, netip.AddrPortFrom(a.PublicAddr(), portA)) })
				both.Wait()
				require.NotNil(t, conns[0], "round %d", round)
				require.NotNil(t, conns[1], "round %d", round)
				carries(t, conns[0], conns[1], conns[round%2])
			}
		})
	}
}

// meet dials until it is through.
func meet(t *testing.T, h *natlab.Host, port uint16, to netip.AddrPort) *tcp.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var c *tcp.Conn
	err := h.Do(func() (err error) {
		for window := 50 * time.Millisecond; ctx.Err() == nil; window *= 2 {
			pause := time.After(50 * time.Millisecond)
			try, cancel := context.WithTimeout(ctx, window)
			c, err = tcp.Dial(try, netip.AddrPortFrom(netip.IPv4Unspecified(), port), to)
			cancel()
			if err == nil {
				return nil
			}
			<-pause
		}
		return err
	})
	if err != nil {
		t.Log(err)
	}
	return c
}
