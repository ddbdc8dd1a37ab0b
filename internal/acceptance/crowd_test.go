//go:build linux

package acceptance

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// PATH-23: a node searches one hard NAT at a time. Those who dial it at once, or
// whom it dials, wait for their turn and are reached all the same.
func TestPATH23ManyHardNATsAtOnce(t *testing.T) {
	const many = 5
	peers := []natlab.Peer{{Name: "easy", Kind: natlab.PortRestricted}}
	for i := range many {
		peers = append(peers, natlab.Peer{Name: fmt.Sprintf("hard%d", i), Kind: natlab.Symmetric})
	}
	lab := newLab(t, []string{"relay", "relay2"}, peers...)
	relay := newProc(t, lab.Host("relay"), "").up("--relay")
	relay2 := newProc(t, lab.Host("relay2"), "").up("--relay", "--join", relay.ticket())
	up := func(name string) *nodeProc {
		return newProc(t, lab.Host(name), "").up("--join", relay.ticket(), "--join", relay2.ticket())
	}
	easy := up("easy")
	var hard []*nodeProc
	for i := range many {
		hard = append(hard, up(fmt.Sprintf("hard%d", i)))
	}
	for _, dialled := range []string{"dialled by", "dials"} {
		t.Run(dialled, func(t *testing.T) {
			took := make([]dialledBy, many)
			var wg sync.WaitGroup
			for i, h := range hard {
				wg.Go(func() {
					from, to := h, easy
					if dialled == "dials" {
						from, to = easy, h
					}
					out, _, _ := from.run("ping", "--json", "--until-direct", "30s", "--interval", "50ms", to.key)
					took[i] = readPing(out)
				})
			}
			wg.Wait()
			for i, d := range took {
				require.True(t, d.Connected)
				t.Logf("hard%d: %s", i, figure(d.Direct))
			}
			for _, d := range took {
				require.NotNil(t, d.Direct)
				require.Less(t, *d.Direct, 10.0)
			}
			if dialled == "dialled by" { // once more, unknown to each other
				for _, p := range append(hard, easy) {
					p.kill()
				}
				easy.up(easy.args...)
				for _, h := range hard {
					h.up(h.args...)
				}
				time.Sleep(time.Second)
			}
		})
	}
}
