//go:build linux

package acceptance

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// PATH-30: the network outlives the node it was joined through. Two peers know
// one relay's ticket and nothing else, and learn of a second one from it; the
// first dies. They meet all the same, for the first time, and one that is
// started again, with the dead relay's ticket, comes back.
func TestPATH30NetworkOutlivesItsEntry(t *testing.T) {
	lab := newLab(t, []string{"one", "two"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.Symmetric})
	one := newProc(t, lab.Host("one"), "").up("--relay")
	newProc(t, lab.Host("two"), "").up("--relay", "--join", one.ticket())
	join := []string{"--join", one.ticket()}
	a := newProc(t, lab.Host("a"), offers).up(join...)
	b := newProc(t, lab.Host("b"), "").up(join...)
	for _, n := range []*nodeProc{a, b} {
		require.Eventually(t, func() bool {
			var st struct {
				Relays []struct{ Home, Up bool } `json:"relays"`
			}
			return json.Unmarshal([]byte(n.mustRun("status", "--json")), &st) == nil && len(st.Relays) == 2 &&
				st.Relays[0].Home && st.Relays[0].Up && st.Relays[1].Home && st.Relays[1].Up
		}, 20*time.Second, 100*time.Millisecond, "%s did not learn of the second relay", n.host.Name())
	}
	one.kill()
	killed := time.Now()
	b.requireDiskFree(a.key)
	t.Logf("first call %s after the kill", time.Since(killed))

	b.kill()
	b.up(join...)
	b.requireDiskFree(a.key)
}
