//go:build linux

package acceptance

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// Two home routers, 25 ms on every cable: the first byte within 2.5 R, the
// path direct within 2 R of the dial, by key alone (PATH-33).
func TestPATH33DirectBehindTwoRouters(t *testing.T) {
	lab := newLab(t, []string{"relay"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.PortRestricted})
	relay := newProc(t, lab.Host("relay"), "").up("--relay")
	ticket := relay.ticket()
	a := newProc(t, lab.Host("a"), offers).up("--join", ticket)
	b := newProc(t, lab.Host("b"), "").up("--join", ticket)
	r := roundTrip(t, lab.Host("b"), lab.Host("relay"))
	var firsts, directs []time.Duration
	for range 5 {
		out := b.mustRun("ping", "--json", "--until-direct", "5s", "--interval", "10ms", a.key)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		var result struct {
			Result    string  `json:"result"`
			FirstByte float64 `json:"first_byte_ms"`
			Direct    float64 `json:"direct_ms"`
		}
		require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &result))
		require.Equal(t, "direct", result.Result, out)
		firsts = append(firsts, time.Duration(result.FirstByte*float64(time.Millisecond)))
		directs = append(directs, time.Duration(result.Direct*float64(time.Millisecond)))
		b.kill() // a new dial next time
		b.up(b.args...)
	}
	slices.Sort(firsts)
	slices.Sort(directs)
	t.Logf("R %s, first byte %s (median %.2f R), direct %s (median %.2f R)", r, firsts, float64(firsts[2])/float64(r), directs, float64(directs[2])/float64(r))
	require.LessOrEqual(t, firsts[2], r*5/2)
	require.LessOrEqual(t, directs[2], r*5/2)
}
