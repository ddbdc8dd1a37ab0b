//go:build linux

package acceptance

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// PATH-24: two symmetric NATs, between which nothing can be guessed, are no
// obstacle when one of the routers gives a port; when it refuses, the relay stays.
func TestPATH24PortMappingMakesDirect(t *testing.T) {
	lab := newLab(t, []string{"relay"},
		natlab.Peer{Name: "grants", Kind: natlab.Symmetric, PortMapping: natlab.PortMappingGrants},
		natlab.Peer{Name: "denies", Kind: natlab.Symmetric, PortMapping: natlab.PortMappingDenies},
		natlab.Peer{Name: "b", Kind: natlab.Symmetric})
	relay := newProc(t, lab.Host("relay"), "").up("--relay")
	ticket := relay.ticket()
	b := newProc(t, lab.Host("b"), "").up("--join", ticket)
	for name, want := range map[string]string{"grants": `"result":"direct"`, "denies": `"result":"relayed"`} {
		p := newProc(t, lab.Host(name), "").up("--join", ticket)
		out, _, _ := b.run("ping", "--json", "--until-direct", "5s", "--interval", "20ms", p.key)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		require.Contains(t, lines[len(lines)-1], want, name)
	}
}
