//go:build linux

package acceptance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var idleCount = flag.Int("idle", 0, "idle sessions to measure; 0: none")

// idlers are many hosts in one process, each with a session to the target on
// which nothing happens, until standard input ends.
func idlers(cfg roamConfig, log *slog.Logger) error {
	var join []*discovery.Ticket
	for _, text := range cfg.Join {
		ticket, err := discovery.ParseTicket(text)
		if err != nil {
			return err
		}
		join = append(join, ticket)
	}
	target, err := peer.Decode(cfg.PeerID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var closing sync.WaitGroup
	defer closing.Wait()
	for i := range cfg.Idle {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		h, err := transport.New(transport.Config{
			Key: key, Network: roamNetwork, Join: join, NoMDNS: true, Logger: log,
			Listen: []string{"/ip4/0.0.0.0/udp/0/quic-v1"},
		})
		if err != nil {
			return err
		}
		defer func() { closing.Go(func() { _ = h.Close() }) }() // all at once
		if err := h.Start(ctx); err != nil {
			return err
		}
		// How it dials is for other tests: a relay that falls behind on a busy
		// machine is here again soon.
		const tries = 5
		for n := 1; ; n++ {
			err := idleSession(ctx, h, target)
			if err == nil {
				break
			}
			log.Warn("session not opened", "err", err)
			if n == tries {
				return fmt.Errorf("host %d, dialled %d times: %w", i, tries, err)
			}
			time.Sleep(time.Second)
		}
	}
	ended := inputEnds()
	if err := newLines().tell(roamLine{Ready: &roamReady{}}); err != nil {
		return err
	}
	<-ended
	return nil
}

// idleSession opens a session and sends one echo.
func idleSession(ctx context.Context, h *transport.Host, target peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s, err := h.OpenStream(ctx, target, protocols.ProtocolID(roamALPN))
	if err != nil {
		return err
	}
	if _, err := s.Write([]byte{kindEcho, 'x'}); err != nil {
		return err
	}
	_, err = io.ReadFull(s, make([]byte, 1))
	return err
}

// What a node pays for sessions on which nothing happens (PATH-17): measured
// with -idle=1000, as `make soak` does.
func TestIdleSessions(t *testing.T) {
	if *idleCount == 0 {
		t.Skip("make soak")
	}
	const (
		hosts  = 25                // a hundred connections from one address are the limit (NODE-34)
		goCold = 100 * time.Second // active for 45 s, then cold after 60
		look   = 90 * time.Second  // two slow heartbeats
	)
	var names []string
	for i := range hosts {
		names = append(names, fmt.Sprintf("p%d", i))
	}
	lab := natlab.Start(t, natlab.Config{Public: append([]string{"relay", "a"}, names...), Required: *required})
	relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
	join := []string{relay.ready.Ticket}
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: join, Load: 5 * time.Second})
	time.Sleep(11 * time.Second) // what it holds alone
	alone := a.holds()
	begin := time.Now()
	again := 0
	for _, name := range names {
		r := newRoamer(t, lab.Host(name), roamConfig{Join: join, Idle: *idleCount / hosts, PeerID: a.ready.PeerID})
		again += r.logged("session not opened")
	}
	t.Logf("%d sessions after %s, %d dials made again", *idleCount/hosts*hosts, time.Since(begin).Round(time.Second), again)
	time.Sleep(goCold)
	all := newCapture(t, lab.Host("a"))
	time.Sleep(look)
	packets := 0
	for _, n := range all.stop() {
		packets += n
	}
	idle := a.holds()
	n := float64(*idleCount / hosts * hosts)
	perSecond := float64(packets) / look.Seconds()
	t.Logf("%.1f packets per second in both directions, %.3f for each session; %.1f KiB and %.1f goroutines for each session",
		perSecond, perSecond/n, (float64(idle.Heap)-float64(alone.Heap))/n/1024, float64(idle.Goroutines-alone.Goroutines)/n)
	require.Less(t, perSecond/n, 1.0)
	require.Less(t, (float64(idle.Heap)-float64(alone.Heap))/n, 200.0*1024)
}

// holds is what the process last said it holds.
func (r *roamer) holds() holding {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.NotEmpty(r.t, r.held)
	return r.held[len(r.held)-1]
}
